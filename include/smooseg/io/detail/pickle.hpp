#pragma once

// Python's pickle format, protocols 1 to 5, as data: values are read and nothing is ever called or imported. A call of
// a function, or an object of a class, stays a record of what was to be called with what.
// Format: the documentation strings of CPython's Lib/pickletools.py.

#include <c10/util/Exception.h>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "smooseg/io/detail/file_bytes.hpp"
#include "smooseg/io/detail/text.hpp"

namespace smooseg::io::detail {

/// A value of a pickle. It may contain itself: whoever walks it must bound the walk.
struct PickleValue {
  enum class Kind {
    kOther,         ///< None, float, bytes, set: ignored
    kInteger,       ///< `integer`; booleans too
    kString,        ///< `text`
    kSequence,      ///< list or tuple: `items`
    kDict,          ///< `items`: key, value, key, value, ...
    kGlobal,        ///< the function or class `text` of `module`
    kObject,        ///< what `callee` would have returned for `arguments`; `items` as of a dict, if it got any
    kPersistentId,  ///< something kept outside the pickle, called `arguments`
  };

  Kind kind = Kind::kOther;
  int64_t integer = 0;
  // Both lie in the pickle itself: however often a long text is named, it takes no more memory.
  std::string_view text;
  std::string_view module;
  std::vector<PickleValue*> items;
  PickleValue* callee = nullptr;
  PickleValue* arguments = nullptr;
  PickleValue* state = nullptr;  ///< what an object was given after it was made, often a dict of its attributes

  bool is(Kind k) const { return kind == k; }

  /// Whether this is the function or class `name`, such as "torch._utils._rebuild_tensor_v2".
  bool is_global(std::string_view name) const {
    return kind == Kind::kGlobal && name.size() == module.size() + 1 + text.size() && starts_with(name, module) &&
           name[module.size()] == '.' && ends_with(name, text);
  }

  /// "module.name" of a function or class, for errors.
  std::string global_name() const { return printable(module) + "." + printable(text); }

  /// Whether this is the object of a call of the function, or of the class, `name`.
  bool is_call_of(std::string_view name) const { return kind == Kind::kObject && callee->is_global(name); }
};

/// Reads one pickle and owns the values. What a pickle can make it hold is bounded, at 1 GB, by the limits below.
class Unpickler {
 public:
  using Value = PickleValue;
  using Kind = PickleValue::Kind;

  /// @param file where errors are reported, and the pickle at byte `begin`.
  /// @throws c10::Error naming the file and the byte where the pickle is damaged or uses what PyTorch never writes.
  explicit Unpickler(const FileBytes& file, uint64_t begin = 0) : file_(file), cursor_(file_, begin) {
    size_t opcodes = 0;
    while (step(static_cast<unsigned char>(cursor_.take(1)[0]))) {
      check(++opcodes < kMaxOpcodes, "too many opcodes");
    }
    check(!stack_.empty(), "it ends without a value");
  }

  Unpickler(const Unpickler&) = delete;
  Unpickler& operator=(const Unpickler&) = delete;

  const Value& root() const { return *stack_.back(); }

  /// The position after the pickle.
  uint64_t end() const { return cursor_.position(); }

  /// All values, in the order in which they were read.
  const std::deque<Value>& values() const { return values_; }

 private:
  // More than any real checkpoint has; a hostile one can make a value of every byte. An opcode takes up to 8 bytes of
  // the stack, beside the value that it may make.
  static constexpr size_t kMaxOpcodes = size_t{1} << 25;
  static constexpr size_t kMaxValues = size_t{1} << 22;

  void check(bool condition, const char* problem) const {
    TORCH_CHECK(condition, file_.name(), ": corrupt pickle: ", problem, ", at byte ", cursor_.position());
  }

  // Executes one opcode; false at the end of the pickle.
  bool step(unsigned char opcode) {
    // clang-format off
    switch (opcode) {
      case 0x80: cursor_.take(1); break;                                  // PROTO
      case 0x95: cursor_.take(8); break;                                  // FRAME
      case '.': return false;                                             // STOP
      case '(': marks_.push_back(stack_.size()); break;                   // MARK
      case '0': pop(); break;                                             // POP
      case '1': pop_to_mark(); break;                                     // POP_MARK
      case '2': stack_.push_back(top()); break;                           // DUP
      case 'N': push_other(0); break;                                     // NONE
      case 0x88: push_integer(1); break;                                  // NEWTRUE
      case 0x89: push_integer(0); break;                                  // NEWFALSE
      case 'J': push_integer(cursor_.number<int32_t>()); break;           // BININT
      case 'K': push_integer(cursor_.number<uint8_t>()); break;           // BININT1
      case 'M': push_integer(cursor_.number<uint16_t>()); break;          // BININT2
      case 0x8a: push_long(cursor_.number<uint8_t>()); break;             // LONG1
      case 0x8b: push_long(cursor_.number<uint32_t>()); break;            // LONG4
      case 'I': case 'L': push_decimal(cursor_.line()); break;            // INT, LONG (protocol 1)
      case 'G': push_other(8); break;                                     // BINFLOAT
      case 'X': push_string(cursor_.number<uint32_t>()); break;           // BINUNICODE
      case 0x8c: push_string(cursor_.number<uint8_t>()); break;           // SHORT_BINUNICODE
      case 0x8d: push_string(cursor_.number<uint64_t>()); break;          // BINUNICODE8
      case 'T': push_string(cursor_.number<uint32_t>()); break;           // BINSTRING (Python 2)
      case 'U': push_string(cursor_.number<uint8_t>()); break;            // SHORT_BINSTRING (Python 2)
      case 'B': push_other(cursor_.number<uint32_t>()); break;            // BINBYTES
      case 'C': push_other(cursor_.number<uint8_t>()); break;             // SHORT_BINBYTES
      case 0x8e: case 0x96: push_other(cursor_.number<uint64_t>()); break;  // BINBYTES8, BYTEARRAY8
      case ')': case ']': push(Kind::kSequence); break;                   // EMPTY_TUPLE, EMPTY_LIST
      case 't': case 'l': push_sequence(pop_to_mark()); break;            // TUPLE, LIST
      case 0x85: push_sequence(pop_last(1)); break;                       // TUPLE1
      case 0x86: push_sequence(pop_last(2)); break;                       // TUPLE2
      case 0x87: push_sequence(pop_last(3)); break;                       // TUPLE3
      case '}': push(Kind::kDict); break;                                 // EMPTY_DICT
      case 0x8f: push_other(0); break;                                    // EMPTY_SET
      case 0x91: pop_to_mark(); push_other(0); break;                     // FROZENSET
      case 'a': append(pop_last(1), Kind::kSequence); break;              // APPEND
      case 'e': append(pop_to_mark(), Kind::kSequence); break;            // APPENDS
      case 's': append(pop_last(2), Kind::kDict); break;                  // SETITEM
      case 'u': append(pop_to_mark(), Kind::kDict); break;                // SETITEMS
      case 0x90: append(pop_to_mark(), Kind::kOther); break;              // ADDITEMS (to a set)
      case 'c': { const auto module = cursor_.line(); push_global(module, cursor_.line()); break; }  // GLOBAL
      case 0x93: push_stack_global(); break;                              // STACK_GLOBAL
      case 'R': case 0x81: push_object(pop_last(2)); break;               // REDUCE, NEWOBJ
      case 0x92: pop(); push_object(pop_last(2)); break;                  // NEWOBJ_EX
      case 'b': { Value* const state = pop(); top()->state = state; break; }  // BUILD
      case 'Q': { Value* const id = pop(); push(Kind::kPersistentId).arguments = id; break; }  // BINPERSID
      case 'q': memoize(cursor_.number<uint8_t>()); break;                // BINPUT
      case 'r': memoize(cursor_.number<uint32_t>()); break;               // LONG_BINPUT
      case 0x94: memoize(static_cast<uint32_t>(memo_.size())); break;     // MEMOIZE
      case 'h': push_memo(cursor_.number<uint8_t>()); break;              // BINGET
      case 'j': push_memo(cursor_.number<uint32_t>()); break;             // LONG_BINGET
      default: check(false, "an opcode that PyTorch never writes");
    }
    // clang-format on
    return true;
  }

  Value& push(Kind kind) {
    check(values_.size() < kMaxValues, "too many values");
    Value& value = values_.emplace_back();
    value.kind = kind;
    stack_.push_back(&value);
    return value;
  }

  void push_integer(int64_t number) { push(Kind::kInteger).integer = number; }

  // A little-endian integer in two's complement; one of more than 64 bits is ignored.
  void push_long(uint64_t length) {
    if (length > 8) return push_other(length);
    const std::string_view bytes = cursor_.take(length);
    uint64_t number = !bytes.empty() && static_cast<signed char>(bytes.back()) < 0 ? ~uint64_t{0} : 0;
    for (size_t i = bytes.size(); i > 0; --i) number = number << 8 | static_cast<unsigned char>(bytes[i - 1]);
    push_integer(static_cast<int64_t>(number));
  }

  // A decimal number, with an 'L' behind it if it is a LONG; one of more than 64 bits is ignored.
  void push_decimal(std::string_view digits) {
    if (!digits.empty() && digits.back() == 'L') digits.remove_suffix(1);
    int64_t number = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error == std::errc::result_out_of_range) return push_other(0);
    check(error == std::errc() && end == digits.data() + digits.size(), "an integer that is no number");
    push_integer(number);
  }

  // All ignored values are one, so that they take no memory. Skips `length` bytes.
  void push_other(uint64_t length) {
    cursor_.take(length);
    stack_.push_back(&other_);
  }

  void push_string(uint64_t length) {
    const std::string_view text = cursor_.take(length);
    push(Kind::kString).text = text;
  }

  void push_sequence(std::vector<Value*> items) { push(Kind::kSequence).items = std::move(items); }

  void push_global(std::string_view module, std::string_view name) {
    Value& global = push(Kind::kGlobal);
    global.module = module;
    global.text = name;
  }

  void push_stack_global() {
    const std::vector<Value*> names = pop_last(2);
    check(names[0]->is(Kind::kString) && names[1]->is(Kind::kString), "a class whose name is no text");
    push_global(names[0]->text, names[1]->text);
  }

  void push_object(const std::vector<Value*>& callee_and_arguments) {
    check(callee_and_arguments[1]->is(Kind::kSequence), "a call whose arguments are no tuple");
    Value& object = push(Kind::kObject);
    object.callee = callee_and_arguments[0];
    object.arguments = callee_and_arguments[1];
  }

  void memoize(uint32_t index) {
    check(memo_.size() < kMaxValues, "too many references");
    memo_[index] = top();
  }

  void push_memo(uint32_t index) {
    const auto found = memo_.find(index);
    check(found != memo_.end(), "a reference to nothing");
    stack_.push_back(found->second);
  }

  Value* top() const {
    check(stack_.size() > bottom(), "a value is missing");
    return stack_.back();
  }

  Value* pop() {
    Value* value = top();
    stack_.pop_back();
    return value;
  }

  std::vector<Value*> pop_last(size_t count) {
    check(stack_.size() - bottom() >= count, "a value is missing");
    return pop_from(stack_.size() - count);
  }

  std::vector<Value*> pop_to_mark() {
    check(!marks_.empty(), "a mark is missing");
    const size_t first = marks_.back();
    marks_.pop_back();
    return pop_from(first);
  }

  std::vector<Value*> pop_from(size_t first) {
    const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(first);
    std::vector<Value*> values(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    return values;
  }

  // What lies below the last mark is out of reach until the mark is gone.
  size_t bottom() const { return marks_.empty() ? 0 : marks_.back(); }

  // Adds to the container on top of the stack. Of an object only dict items are kept.
  void append(const std::vector<Value*>& items, Kind container_kind) {
    Value& container = *top();
    const bool keyed = container_kind == Kind::kDict;
    check(container.is(container_kind) || container.is(Kind::kObject), "items for what is no container");
    check(!keyed || items.size() % 2 == 0, "a key without a value");
    if (keyed || container.is(Kind::kSequence)) {
      container.items.insert(container.items.end(), items.begin(), items.end());
    }
  }

  const FileBytes file_;  // holds the bytes that the values' texts lie in
  Cursor cursor_;
  std::deque<Value> values_;  // its elements keep their addresses
  Value other_;
  std::vector<Value*> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint32_t, Value*> memo_;
};

}  // namespace smooseg::io::detail
