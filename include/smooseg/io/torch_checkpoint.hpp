#pragma once

// PyTorch's checkpoints (.pth, .pt, .ckpt) without Python: what `torch.save` writes, in the zip format (PyTorch 1.6 and
// on) and in the legacy format before it. The pickle inside is read as data (detail/pickle.hpp): tensors and plain
// containers are built here, everything else is skipped, and nothing of it is ever run.

#include <c10/util/Exception.h>
#include <torch/types.h>

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "smooseg/io/detail/file_bytes.hpp"
#include "smooseg/io/detail/pickle.hpp"
#include "smooseg/io/detail/zip.hpp"
#include "smooseg/io/safetensors.hpp"

namespace smooseg::io {

namespace detail {

/// What a pickle says of a storage, the flat memory that tensors are views of.
struct StorageId {
  std::string key;
  torch::ScalarType dtype;
  int64_t elements;

  uint64_t bytes() const { return static_cast<uint64_t>(elements) * c10::elementSize(dtype); }
};

struct StorageClass {
  std::string_view name;
  torch::ScalarType dtype;
};
inline constexpr std::array<StorageClass, 12> kStorageClasses{{{"torch.DoubleStorage", torch::kFloat64},
                                                               {"torch.FloatStorage", torch::kFloat32},
                                                               {"torch.HalfStorage", torch::kFloat16},
                                                               {"torch.BFloat16Storage", torch::kBFloat16},
                                                               {"torch.LongStorage", torch::kInt64},
                                                               {"torch.IntStorage", torch::kInt32},
                                                               {"torch.ShortStorage", torch::kInt16},
                                                               {"torch.CharStorage", torch::kInt8},
                                                               {"torch.ByteStorage", torch::kUInt8},
                                                               {"torch.BoolStorage", torch::kBool},
                                                               {"torch.ComplexFloatStorage", torch::kComplexFloat},
                                                               {"torch.ComplexDoubleStorage", torch::kComplexDouble}}};

/// Whether what is kept outside the pickle is a storage; the legacy format keeps the sources of modules there too.
inline bool is_storage_id(const PickleValue& persistent_id) {
  const PickleValue& id = *persistent_id.arguments;
  return id.is(PickleValue::Kind::kSequence) && !id.items.empty() && id.items[0]->text == "storage";
}

/// Reads ('storage', class, key, device, elements[, view]), the id of a storage that is kept outside the pickle.
inline StorageId parse_storage_id(const PickleValue& persistent_id, const std::string& file) {
  using Kind = PickleValue::Kind;
  const PickleValue& id = *persistent_id.arguments;
  const bool well_formed = is_storage_id(persistent_id) && id.items.size() >= 5 && id.items[1]->is(Kind::kGlobal) &&
                           id.items[2]->is(Kind::kString) && id.items[4]->is(Kind::kInteger) &&
                           id.items[4]->integer >= 0;
  TORCH_CHECK(well_formed, file, ": corrupt checkpoint: a storage without class, key and size");
  TORCH_CHECK(id.items.size() == 5 || id.items[5]->is(Kind::kOther), file,
              ": views of storages, as PyTorch before 0.4 wrote them, are not supported");
  for (const StorageClass& known : kStorageClasses) {
    if (id.items[1]->text != known.name) continue;
    const StorageId storage{id.items[2]->text, known.dtype, id.items[4]->integer};
    TORCH_CHECK(storage.elements <= std::numeric_limits<int64_t>::max() / 16, file, ": corrupt checkpoint: storage '",
                storage.key, "' of ", storage.elements, " elements");
    return storage;
  }
  TORCH_CHECK(false, file, ": storages of class ", id.items[1]->text, " are not supported");
}

/// Finds the tensors in a pickle's value and builds them.
class TensorCollector {
 public:
  /// Finds the bytes of a storage: at least `StorageId::bytes()`, in this machine's byte order.
  using StorageReader = std::function<FileBytes(const StorageId&)>;

  TensorCollector(std::string file, StorageReader read_storage)
      : file_(std::move(file)), read_storage_(std::move(read_storage)) {}

  /// The tensors in dicts, lists and tuples, of any depth, by their keys and indices joined with '.'.
  TensorMap collect(const PickleValue& root) {
    visit(root, "", 0);
    return std::move(tensors_);
  }

 private:
  using Value = PickleValue;
  using Kind = PickleValue::Kind;

  // No real checkpoint comes near; a pickle may contain itself, or name the same list twice at each of many levels.
  static constexpr int kMaxDepth = 64;
  static constexpr size_t kMaxWork = size_t{1} << 29;
  static constexpr size_t kMaxTensors = size_t{1} << 18;

  void visit(const Value& value, const std::string& name, int depth) {
    work_ += 32 + name.size() + value.items.size();
    TORCH_CHECK(depth <= kMaxDepth && work_ <= kMaxWork && tensors_.size() <= kMaxTensors, file_,
                ": corrupt checkpoint: its containers are nested too deep, or within themselves");
    if (const Value* call = tensor_call(value)) {
      TORCH_CHECK(tensors_.emplace(name, build(*call, name)).second, file_, ": two tensors are called '", name, "'");
    } else if (value.is(Kind::kSequence)) {
      for (size_t i = 0; i < value.items.size(); ++i) visit(*value.items[i], join(name, std::to_string(i)), depth + 1);
    } else if (is_dict(value)) {
      visit_dict(value, name, depth);
    }
  }

  void visit_dict(const Value& dict, const std::string& name, int depth) {
    // Of a key that stands twice, the last counts.
    std::map<std::string, const Value*> members;
    for (size_t i = 0; i < dict.items.size(); i += 2) {
      const Value& key = *dict.items[i];
      if (key.is(Kind::kString)) members[key.text] = dict.items[i + 1];
      if (key.is(Kind::kInteger)) members[std::to_string(key.integer)] = dict.items[i + 1];
    }
    for (const auto& [key, value] : members) visit(*value, join(name, key), depth + 1);
  }

  static std::string join(const std::string& name, const std::string& key) {
    return name.empty() ? key : name + "." + key;
  }

  static bool is_dict(const Value& value) {
    return value.is(Kind::kDict) || value.is_call_of("collections.OrderedDict") ||
           value.is_call_of("collections.defaultdict");
  }

  // The call that makes a tensor, within those that wrap it into a Parameter; null where the value is no tensor.
  static const Value* tensor_call(const Value& value) {
    const Value* call = &value;
    for (int depth = 0; depth < kMaxDepth; ++depth) {
      if (call->is_call_of("torch._utils._rebuild_tensor_v2") || call->is_call_of("torch._utils._rebuild_tensor")) {
        return call;
      }
      const bool wrapped = call->is_call_of("torch._utils._rebuild_parameter") ||
                           call->is_call_of("torch._utils._rebuild_parameter_with_state");
      if (!wrapped || call->arguments->items.empty()) return nullptr;
      call = call->arguments->items[0];
    }
    return nullptr;
  }

  // _rebuild_tensor_v2(storage, offset, sizes, strides, ...), counted in elements.
  Tensor build(const Value& call, const std::string& name) {
    const std::vector<Value*>& arguments = call.arguments->items;
    TORCH_CHECK(arguments.size() >= 4 && arguments[0]->is(Kind::kPersistentId) && arguments[1]->is(Kind::kInteger),
                file_, ": corrupt checkpoint: tensor '", name, "' has no storage or offset");
    const StorageId id = parse_storage_id(*arguments[0], file_);
    const int64_t offset = arguments[1]->integer;
    const std::vector<int64_t> sizes = integers(*arguments[2], name);
    const std::vector<int64_t> strides = integers(*arguments[3], name);
    TORCH_CHECK(fits(id.elements, offset, sizes, strides), file_, ": corrupt checkpoint: tensor '", name,
                "' with offset ", offset, ", sizes ", c10::IntArrayRef(sizes), " and strides ",
                c10::IntArrayRef(strides), " does not fit its storage of ", id.elements, " elements");
    return storage(id).as_strided(sizes, strides, offset);
  }

  std::vector<int64_t> integers(const Value& tuple, const std::string& name) const {
    TORCH_CHECK(tuple.is(Kind::kSequence), file_, ": corrupt checkpoint: tensor '", name,
                "' has sizes or strides that are no tuple");
    std::vector<int64_t> numbers;
    for (const Value* item : tuple.items) {
      TORCH_CHECK(item->is(Kind::kInteger) && item->integer >= 0, file_, ": corrupt checkpoint: tensor '", name,
                  "' has a size or stride that is not a number from 0 up");
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

  // The storage as a flat tensor: the same for all its views, so that they share it as they did when they were saved.
  Tensor storage(const StorageId& id) {
    auto& known = storages_[{id.key, id.dtype}];
    if (!known.defined() || known.numel() < id.elements) {
      const FileBytes bytes = read_storage_(id);
      TORCH_CHECK(bytes.holds(0, id.bytes()), file_, ": truncated or corrupt: storage '", id.key, "' has ",
                  bytes.size(), " bytes, expected ", id.bytes());
      known = bytes.tensor({id.elements}, id.dtype);
    }
    return known;
  }

  std::string file_;
  StorageReader read_storage_;
  TensorMap tensors_;
  std::map<std::pair<std::string, torch::ScalarType>, Tensor> storages_;
  size_t work_ = 0;
};

/// The zip format: NAME/data.pkl, the storages NAME/data/KEY, and NAME/byteorder from PyTorch 2.1 on.
inline TensorMap parse_zip_checkpoint(const FileBytes& file) {
  const ZipArchive archive(file);
  const std::string pickle_name = archive.find("data.pkl");
  TORCH_CHECK(!pickle_name.empty(), file.name(), ": a zip archive, but no PyTorch checkpoint: no data.pkl in it");
  const std::string folder = pickle_name.substr(0, pickle_name.size() - std::string_view("data.pkl").size());
  TORCH_CHECK(!archive.contains(folder + "constants.pkl"), file.name(),
              ": a TorchScript program, expected a checkpoint: save the state_dict() of the model");
  if (archive.contains(folder + "byteorder")) {
    TORCH_CHECK(archive.read(folder + "byteorder").view() == "little", file.name(),
                ": written on a big-endian machine, which is not supported");
  }
  const FileBytes pickle = archive.read(pickle_name);
  const Unpickler unpickler(pickle);
  TensorCollector collector(file.name(), [&](const StorageId& id) { return archive.read(folder + "data/" + id.key); });
  return collector.collect(unpickler.root());
}

/// What a file of the legacy format begins with: a pickle of protocol 2 of the number 0x1950a86a20f9469cfc6c.
inline constexpr std::string_view kLegacyMagic{"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15};

/// The legacy format: pickles of a magic number, the version, the machine, the object and the keys of the storages;
/// then for each key, in this order, the number of elements (64 bits) and their bytes.
inline TensorMap parse_legacy_checkpoint(const FileBytes& file) {
  const Unpickler version(file, kLegacyMagic.size());
  const Unpickler machine(file, version.end());
  const Unpickler object(file, machine.end());
  const Unpickler keys(file, object.end());

  std::map<std::string, size_t> element_sizes;
  for (const PickleValue& value : object.values()) {
    if (!value.is(PickleValue::Kind::kPersistentId) || !is_storage_id(value)) continue;
    const StorageId id = parse_storage_id(value, file.name());
    element_sizes[id.key] = c10::elementSize(id.dtype);
  }
  std::map<std::string, FileBytes> storages;
  Cursor cursor(file, keys.end());
  for (const PickleValue* key : keys.root().items) {
    const auto element_size = element_sizes.find(key->text);
    TORCH_CHECK(element_size != element_sizes.end(), file.name(), ": corrupt checkpoint: storage '", key->text,
                "' belongs to no tensor");
    const auto elements = cursor.number<uint64_t>();
    TORCH_CHECK(elements <= file.size(), file.name(), ": truncated or corrupt: storage '", key->text, "' of ", elements,
                " elements");
    const uint64_t begin = cursor.position();
    const auto length = cursor.take(elements * element_size->second).size();
    storages.emplace(key->text, file.slice(begin, length));
  }
  TensorCollector collector(file.name(), [&](const StorageId& id) {
    const auto found = storages.find(id.key);
    TORCH_CHECK(found != storages.end(), file.name(), ": corrupt checkpoint: no storage '", id.key, "'");
    return found->second;
  });
  return collector.collect(object.root());
}

inline bool is_zip(const FileBytes& file) {
  return file.view().substr(0, 4) == "PK\3\4";
}
inline bool is_legacy_checkpoint(const FileBytes& file) {
  return file.view().substr(0, kLegacyMagic.size()) == kLegacyMagic;
}

inline TensorMap parse_torch_checkpoint(const FileBytes& file) {
  TORCH_CHECK(is_zip(file) || is_legacy_checkpoint(file), file.name(), ": not a PyTorch checkpoint");
  TensorMap tensors = is_zip(file) ? parse_zip_checkpoint(file) : parse_legacy_checkpoint(file);
  TORCH_CHECK(!tensors.empty(), file.name(),
              ": no tensors in it; where a whole module was saved, save its state_dict() instead");
  return tensors;
}

}  // namespace detail

/// Reads the tensors of a file that `torch.save` wrote, as `torch.load` would build them, to the CPU: in dicts (also
/// OrderedDict), lists and tuples, also Parameters; views share their storages. Keys are joined by '.':
/// {"state_dict": {"w": ...}} gives "state_dict.w". Everything else is dropped: numbers, texts, and objects of other
/// classes with all they hold. No code of the file is run.
/// @throws c10::Error naming the file where it is truncated, corrupt, or no such file; where there is no tensor in it;
///   and where a tensor's storage is of a kind that LibTorch 1.13 does not know.
inline TensorMap read_torch_checkpoint(const std::string& path) {
  return detail::parse_torch_checkpoint(detail::FileBytes::read(path));
}

}  // namespace smooseg::io
