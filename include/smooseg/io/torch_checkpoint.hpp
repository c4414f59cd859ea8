#pragma once

// PyTorch's checkpoints (.pth, .pt, .ckpt) without Python: what `torch.save` writes, in the zip format (from PyTorch 1.6
// on) and in the legacy format before it, and the TorchScript archives of C++'s `torch::save`, which are alike. The
// pickle inside is read as data (detail/pickle.hpp).

#include <c10/util/Exception.h>
#include <torch/types.h>
#include <torch/version.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "smooseg/io/detail/dtypes.hpp"
#include "smooseg/io/detail/file_bytes.hpp"
#include "smooseg/io/detail/pickle.hpp"
#include "smooseg/io/detail/text.hpp"
#include "smooseg/io/detail/zip.hpp"
#include "smooseg/io/safetensors.hpp"

namespace smooseg::io {

namespace detail {

/// What a pickle says of a storage, the flat memory that tensors are views of.
struct StorageId {
  std::string key;
  std::optional<torch::ScalarType> dtype;  ///< nothing for untyped bytes, where the tensor has the dtype
  int64_t elements;

  uint64_t element_size() const { return dtype ? c10::elementSize(*dtype) : 1; }
  uint64_t bytes() const { return static_cast<uint64_t>(elements) * element_size(); }
};

/// Whether what is kept outside the pickle is a storage; the legacy format keeps the sources of modules there too.
inline bool is_storage_id(const PickleValue& persistent_id) {
  const PickleValue& id = *persistent_id.arguments;
  return id.is(PickleValue::Kind::kSequence) && !id.items.empty() && id.items[0]->text == "storage";
}

/// Reads ('storage', class, key, device, elements[, view]), the id of a storage.
/// @param source what errors begin with.
inline StorageId parse_storage_id(const PickleValue& persistent_id, const std::string& source) {
  using Kind = PickleValue::Kind;
  constexpr size_t kMaxKey = 1024;
  const PickleValue& id = *persistent_id.arguments;
  const bool well_formed = is_storage_id(persistent_id) && id.items.size() >= 5 && id.items[1]->is(Kind::kGlobal) &&
                           id.items[2]->is(Kind::kString) && id.items[2]->text.size() <= kMaxKey &&
                           id.items[4]->is(Kind::kInteger) && id.items[4]->integer >= 0;
  TORCH_CHECK(well_formed, source, ": corrupt checkpoint: a storage without class, key and size");
  TORCH_CHECK(id.items.size() == 5 || id.items[5]->is(Kind::kOther), source,
              ": views of storages, as PyTorch before 0.4 wrote them, are not supported");

  const PickleValue& kind = *id.items[1];
  StorageId storage{std::string(id.items[2]->text), std::nullopt, id.items[4]->integer};
  if (!kind.is_global("torch.storage.UntypedStorage") && !kind.is_global("torch.UntypedStorage")) {
    const Dtype* known = kind.module == "torch" ? find_dtype(&Dtype::storage_class, kind.text) : nullptr;
    TORCH_CHECK(known != nullptr, source, ": storages of class ", kind.global_name(), " are not supported");
    storage.dtype = known->type;
  }
  TORCH_CHECK(storage.elements <= std::numeric_limits<int64_t>::max() / 16, source, ": corrupt checkpoint: storage '",
              printable(storage.key), "' of ", storage.elements, " elements");
  return storage;
}

/// Finds the tensors in a pickle's value and builds them.
class TensorCollector {
 public:
  /// Finds the bytes of a storage, little-endian; called once for each key.
  using StorageReader = std::function<FileBytes(const StorageId&)>;

  TensorCollector(std::string file, StorageReader read_storage)
      : file_(std::move(file)), read_storage_(std::move(read_storage)) {}

  /// The tensors in dicts, lists, tuples and TorchScript's objects, at any depth, by their keys, indices and attributes
  /// joined with '.'.
  TensorMap collect(const PickleValue& root) {
    visit(root, "", 0);
    return std::move(tensors_);
  }

 private:
  using Value = PickleValue;
  using Kind = PickleValue::Kind;

  // No real checkpoint comes near these; a pickle may contain itself, or the same list twice at each of many levels.
  static constexpr int kMaxDepth = 64;
  static constexpr size_t kMaxWork = size_t{1} << 27;  // in members looked at, and bytes of what is made for them
  static constexpr size_t kVisitWork = 32;
  static constexpr size_t kTensorWork = 1024;

  void visit(const Value& wrapped, const std::string& name, int depth) {
    check_bounds(depth <= kMaxDepth);
    spend(kVisitWork + name.size());
    const Value& value = unwrapped(wrapped);
    if (const auto call = tensor_call(value)) {
      spend(kTensorWork + name.size());
      TORCH_CHECK(tensors_.emplace(name, build(*call, name)).second, file_, ": two tensors are called '",
                  printable(name), "'");
    } else if (value.is(Kind::kSequence)) {
      visit_sequence(value, name, depth);
    } else if (is_dict(value)) {
      visit_dict(value, name, depth);
    } else if (value.is(Kind::kObject) && value.state != nullptr && starts_with(value.callee->module, "__torch__")) {
      visit(*value.state, name, depth + 1);
    }
  }

  void visit_sequence(const Value& sequence, const std::string& name, int depth) {
    spend(sequence.items.size());
    for (size_t i = 0; i < sequence.items.size(); ++i) {
      const Value& item = *sequence.items[i];
      if (may_hold_tensors(item)) visit(item, join(name, std::to_string(i)), depth + 1);
    }
  }

  void visit_dict(const Value& dict, const std::string& name, int depth) {
    spend(dict.items.size());
    for (size_t i = 0; i < dict.items.size(); i += 2) visit_member(*dict.items[i], *dict.items[i + 1], name, depth);
    if (!dict.is(Kind::kObject) || dict.arguments->items.empty()) return;
    // Python 2 gave an OrderedDict its members as a list of pairs.
    const std::vector<Value*>& pairs = dict.arguments->items[0]->items;
    spend(pairs.size());
    for (const Value* pair : pairs) {
      if (pair->is(Kind::kSequence) && pair->items.size() == 2) {
        visit_member(*pair->items[0], *pair->items[1], name, depth);
      }
    }
  }

  void visit_member(const Value& key, const Value& value, const std::string& name, int depth) {
    if (!may_hold_tensors(value)) return;
    if (key.is(Kind::kString)) visit(value, join(name, key.text), depth + 1);
    if (key.is(Kind::kInteger)) visit(value, join(name, std::to_string(key.integer)), depth + 1);
  }

  // Most values are numbers and texts, for which there is no point in making a name.
  static bool may_hold_tensors(const Value& value) {
    return value.is(Kind::kSequence) || value.is(Kind::kDict) || value.is(Kind::kObject);
  }

  static std::string join(const std::string& name, std::string_view key) {
    return name + (name.empty() ? "" : ".") + std::string(key);
  }

  void check_bounds(bool within) const {
    TORCH_CHECK(within, file_, ": corrupt checkpoint: its containers are nested too deep, or within themselves");
  }

  void spend(size_t work) {
    work_ += work;
    check_bounds(work_ <= kMaxWork);
  }

  static bool is_dict(const Value& value) {
    return value.is(Kind::kDict) || value.is_call_of("collections.OrderedDict") ||
           value.is_call_of("collections.defaultdict");
  }

  // The tensor, dict or list within calls that make it a Parameter or, in files of torch::pickle_save, tag its type.
  static const Value& unwrapped(const Value& value) {
    static constexpr std::array<std::string_view, 5> kWrappers{
        "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_device_tensor_from_cpu_tensor", "torch.jit._pickle.restore_type_tag",
        "torch.jit._pickle.build_tensorlist"};
    const Value* inner = &value;
    for (int depth = 0; depth < kMaxDepth; ++depth) {
      const bool wraps = std::any_of(kWrappers.begin(), kWrappers.end(),
                                     [&](std::string_view wrapper) { return inner->is_call_of(wrapper); });
      if (!wraps || inner->arguments->items.empty()) break;
      inner = inner->arguments->items[0];
    }
    return *inner;
  }

  // The call of a function that makes a tensor.
  struct TensorCall {
    const Value& function;
    const std::vector<Value*>& arguments;
  };

  static std::optional<TensorCall> tensor_call(const Value& value) {
    if (!value.is(Kind::kObject)) return std::nullopt;
    const Value* function = value.callee;
    const Value* arguments = value.arguments;
    // A tensor of a class of its own, or with attributes: (function, class, arguments, attributes).
    if (value.is_call_of("torch._tensor._rebuild_from_type_v2") && arguments->items.size() >= 3) {
      function = arguments->items[0];
      arguments = arguments->items[2];
    }
    const bool makes_tensor =
        function->is(Kind::kGlobal) && function->module == "torch._utils" && starts_with(function->text, "_rebuild_");
    return makes_tensor ? std::optional(TensorCall{*function, arguments->items}) : std::nullopt;
  }

  // _rebuild_tensor_v2(storage, offset, sizes, strides, requires_grad, hooks[, metadata]), counted in elements, and
  // _rebuild_tensor_v3(storage, offset, sizes, strides, requires_grad, hooks, dtype[, metadata]).
  Tensor build(const TensorCall& call, const std::string& name) {
    const auto& [function, arguments] = call;
    const std::string tensor = file_ + ": tensor '" + printable(name) + "'";
    const bool typed = function.text == "_rebuild_tensor" || function.text == "_rebuild_tensor_v2";
    TORCH_CHECK(typed || function.text == "_rebuild_tensor_v3", tensor, " was saved by ", function.global_name(),
                ": only dense tensors can be read, not sparse, quantised, nested or meta ones");
    TORCH_CHECK(arguments.size() >= (typed ? 4 : 7) && arguments[0]->is(Kind::kPersistentId) &&
                    arguments[1]->is(Kind::kInteger),
                tensor, ": corrupt checkpoint: it has no storage or offset");
    const StorageId id = parse_storage_id(*arguments[0], tensor);
    TORCH_CHECK(!typed || id.dtype, tensor, ": corrupt checkpoint: it has no dtype");
    const torch::ScalarType dtype = typed ? *id.dtype : named_dtype(*arguments[6], tensor);
    const auto elements = static_cast<int64_t>(id.bytes() / c10::elementSize(dtype));
    const int64_t offset = arguments[1]->integer;
    const std::vector<int64_t> sizes = integers(*arguments[2], tensor);
    const std::vector<int64_t> strides = integers(*arguments[3], tensor);
    TORCH_CHECK(fits(elements, offset, sizes, strides), tensor, " with offset ", offset, ", sizes ",
                c10::IntArrayRef(sizes), " and strides ", c10::IntArrayRef(strides), " does not fit its storage of ",
                elements, " elements");
    const Tensor view = storage(id, dtype, elements).as_strided(sizes, strides, offset);
    const size_t metadata = typed ? 6 : 7;
    return arguments.size() > metadata ? with_metadata(view, *arguments[metadata]) : view;
  }

  static torch::ScalarType named_dtype(const Value& dtype, const std::string& tensor) {
    TORCH_CHECK(dtype.is(Kind::kGlobal), tensor, ": corrupt checkpoint: its dtype is none");
    const Dtype* known = dtype.module == "torch" ? find_dtype(&Dtype::python, dtype.text) : nullptr;
    TORCH_CHECK(known != nullptr && known->type, tensor, " has dtype ", dtype.global_name(),
                ", which cannot be read with LibTorch " TORCH_VERSION);
    return *known->type;
  }

  static std::vector<int64_t> integers(const Value& tuple, const std::string& tensor) {
    TORCH_CHECK(tuple.is(Kind::kSequence), tensor, ": corrupt checkpoint: sizes or strides that are no tuple");
    std::vector<int64_t> numbers;
    for (const Value* item : tuple.items) {
      TORCH_CHECK(item->is(Kind::kInteger) && item->integer >= 0 && numbers.size() < kMaxDims, tensor,
                  ": corrupt checkpoint: sizes or strides that are not up to ", kMaxDims, " numbers from 0 up");
      numbers.push_back(item->integer);
    }
    return numbers;
  }

  // Whether all elements of a view lie within its storage, and their number is one that tensors can have.
  static bool fits(int64_t elements, int64_t offset, const std::vector<int64_t>& sizes,
                   const std::vector<int64_t>& strides) {
    if (sizes.size() != strides.size() || offset < 0 || offset > elements) return false;
    const auto bytes = checked_bytes(sizes, 16);
    if (!bytes) return false;
    if (*bytes == 0) return true;
    int64_t last = offset;  // the element farthest from the storage's start
    for (size_t d = 0; d < sizes.size(); ++d) {
      if (sizes[d] > 1 && strides[d] > (elements - last) / (sizes[d] - 1)) return false;
      last += (sizes[d] - 1) * strides[d];
    }
    return last < elements;
  }

  // {"conj": True, "neg": True}: the tensor shows the conjugates, or the negatives, of its elements.
  static Tensor with_metadata(Tensor tensor, const Value& metadata) {
    for (size_t i = 0; metadata.is(Kind::kDict) && i < metadata.items.size(); i += 2) {
      if (metadata.items[i + 1]->integer == 0) continue;
      if (metadata.items[i]->text == "conj") tensor = tensor.conj();
      if (metadata.items[i]->text == "neg") tensor = at::_neg_view(tensor);
    }
    return tensor;
  }

  // The storage as a flat tensor: one for all its views, so that they share it as they did when they were saved.
  Tensor storage(const StorageId& id, torch::ScalarType dtype, int64_t elements) {
    Tensor& known = storages_[{id.key, dtype}];
    if (!known.defined() || known.numel() < elements) {
      auto bytes = bytes_.find(id.key);
      if (bytes == bytes_.end()) bytes = bytes_.emplace(id.key, read_storage_(id).aligned()).first;
      TORCH_CHECK(bytes->second.holds(0, id.bytes()), file_, ": truncated or corrupt: storage '", printable(id.key),
                  "' has ", bytes->second.size(), " bytes, expected ", id.bytes());
      known = bytes->second.tensor({elements}, dtype);
    }
    return known;
  }

  std::string file_;
  StorageReader read_storage_;
  TensorMap tensors_;
  std::map<std::string, FileBytes> bytes_;
  std::map<std::pair<std::string, torch::ScalarType>, Tensor> storages_;
  size_t work_ = 0;
};

/// The zip format: NAME/data.pkl, the storages NAME/data/KEY, and NAME/byteorder from PyTorch 2.1 on.
inline TensorMap parse_zip_checkpoint(const FileBytes& file) {
  const ZipArchive archive(file);
  const std::vector<std::string> pickles = archive.find("data.pkl");
  TORCH_CHECK(pickles.size() == 1, file.name(),
              ": a zip archive, but no PyTorch checkpoint: ", pickles.empty() ? "no" : "more than one",
              " data.pkl in it");
  const std::string folder = pickles[0].substr(0, pickles[0].size() - std::string_view("data.pkl").size());
  if (archive.contains(folder + "byteorder")) {
    TORCH_CHECK(archive.read(folder + "byteorder").view() == "little", file.name(),
                ": written on a big-endian machine, which is not supported");
  }
  archive.verify(pickles[0]);
  const FileBytes pickle = archive.read(pickles[0]);
  const Unpickler unpickler(pickle);
  const auto read_storage = [&](const StorageId& id) {
    const std::string entry = folder + "data/" + id.key;
    // Checking it would read all of a mapped file.
    if (!file.mapped()) archive.verify(entry);
    return archive.read(entry);
  };
  return TensorCollector(file.name(), read_storage).collect(unpickler.root());
}

/// Where the pickle of the number 0x1950a86a20f9469cfc6c ends, with which a file of the legacy format begins; 0 in a
/// file of another kind.
inline size_t legacy_magic_end(const FileBytes& file) {
  // In binary, or as text in protocol 1. What stands before it depends on the protocol.
  constexpr std::array<std::string_view, 2> kNumbers{
      std::string_view{"\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 13}, "L119547037146038801333356L\n."};
  constexpr size_t kMostBefore = 11;
  for (const std::string_view number : kNumbers) {
    const size_t begin = file.view().substr(0, kMostBefore + number.size()).find(number);
    if (begin != std::string_view::npos) return begin + number.size();
  }
  return 0;
}

/// The legacy format: pickles of a magic number, the version, the machine, the object and the keys of the storages;
/// then for each key, in this order, the number of elements (64 bits) and their bytes.
inline TensorMap parse_legacy_checkpoint(const FileBytes& file) {
  constexpr int64_t kVersion = 1001;
  const Unpickler version(file, legacy_magic_end(file));
  TORCH_CHECK(version.root().integer == kVersion, file.name(), ": corrupt checkpoint: version ", version.root().integer,
              " of the legacy format, expected ", kVersion);
  const Unpickler machine(file, version.end());
  const Unpickler object(file, machine.end());
  const Unpickler keys(file, object.end());

  std::map<std::string, uint64_t, std::less<>> element_sizes;
  for (const PickleValue& value : object.values()) {
    if (!value.is(PickleValue::Kind::kPersistentId) || !is_storage_id(value)) continue;
    const StorageId id = parse_storage_id(value, file.name());
    element_sizes[id.key] = id.element_size();
  }
  std::map<std::string, FileBytes> storages;
  Cursor cursor(file, keys.end());
  for (const PickleValue* key : keys.root().items) {
    const auto element_size = element_sizes.find(key->text);
    TORCH_CHECK(element_size != element_sizes.end(), file.name(), ": corrupt checkpoint: storage '",
                printable(key->text), "' belongs to no tensor");
    const auto elements = cursor.number<uint64_t>();
    TORCH_CHECK(elements <= file.size(), file.name(), ": truncated or corrupt: storage '", printable(key->text),
                "' of ", elements, " elements");
    const uint64_t begin = cursor.position();
    const auto length = cursor.take(elements * element_size->second).size();
    storages.emplace(key->text, file.slice(begin, length));
  }
  TensorCollector collector(file.name(), [&](const StorageId& id) {
    const auto found = storages.find(id.key);
    TORCH_CHECK(found != storages.end(), file.name(), ": corrupt checkpoint: no storage '", printable(id.key), "'");
    return found->second;
  });
  return collector.collect(object.root());
}

inline bool is_zip(const FileBytes& file) {
  return file.view().substr(0, 4) == "PK\3\4";
}
inline bool is_torch_checkpoint(const FileBytes& file) {
  return is_zip(file) || legacy_magic_end(file) > 0;
}

inline TensorMap parse_torch_checkpoint(const FileBytes& file) {
  TORCH_CHECK(is_torch_checkpoint(file), file.name(), ": not a PyTorch checkpoint");
  TensorMap tensors = is_zip(file) ? parse_zip_checkpoint(file) : parse_legacy_checkpoint(file);
  TORCH_CHECK(!tensors.empty(), file.name(),
              ": no tensors in it; where a whole Python module was saved, save its state_dict() instead");
  return tensors;
}

}  // namespace detail

/// Reads the tensors of a file that `torch.save` or `torch::pickle_save` wrote, as `torch.load` would build them, to the
/// CPU: in dicts (also OrderedDict), lists and tuples, also Parameters; views share their storages. Keys are joined by
/// '.': {"state_dict": {"w": ...}} gives "state_dict.w"; a tensor saved alone is called "". Keys are texts or integers:
/// what stands under others is dropped, and so are numbers, texts, and objects of other classes with all they hold.
///
/// Reads TorchScript archives too, which `torch::save` and `torch.jit.save` write: the parameters and buffers of a module,
/// by name. No code of any file is run.
///
/// Large files are mapped, as by `read_safetensors_content`. Smaller ones are read whole and compared with their
/// checksums; of mapped ones only the pickle is (`verify_torch_checkpoint` compares the elements too).
/// @throws c10::Error naming the file where it is truncated, corrupt, or no such file; where there is no tensor in it;
///   and, naming the tensor, where one is sparse, quantised, nested, on the device `meta`, or of a dtype that this
///   LibTorch does not have.
inline TensorMap read_torch_checkpoint(const std::string& path) {
  return detail::parse_torch_checkpoint(detail::FileBytes::read(path));
}

/// Compares all of a file of the zip format, however large, with its checksums, which `torch.load` does not; only the
/// compressed source code in a TorchScript archive is left out.
/// @throws c10::Error naming the file, and the part of it that is damaged; where it is of another format, which has no
///   checksums.
inline void verify_torch_checkpoint(const std::string& path) {
  const auto file = detail::FileBytes::read(path);
  TORCH_CHECK(detail::is_zip(file), path, ": no checksums in it: not a PyTorch checkpoint of the zip format");
  detail::ZipArchive(file).verify_all();
}

}  // namespace smooseg::io
