#pragma once

// The safetensors format: 8 bytes with the length of a JSON header, the header (for each tensor its dtype, shape and
// range of bytes; "__metadata__" with strings), then the tensors' bytes, without gaps.
// https://github.com/huggingface/safetensors

#include <c10/util/Exception.h>
#include <torch/types.h>
#include <torch/version.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/io/atomic_file.hpp"
#include "smooseg/io/detail/dtypes.hpp"
#include "smooseg/io/detail/file_bytes.hpp"
#include "smooseg/io/detail/json.hpp"
#include "smooseg/io/detail/safetensors_header.hpp"
#include "smooseg/io/detail/text.hpp"

namespace smooseg::io {

/// Tensors by name.
using TensorMap = std::map<std::string, Tensor>;

/// What a safetensors file holds.
struct SafetensorsContent {
  TensorMap tensors;
  std::map<std::string, std::string> metadata;  ///< UTF-8 strings by name; empty where the file has none
};

namespace detail {

/// The header of a file, see `parse_safetensors_header`.
inline SafetensorsHeader read_safetensors_header(const FileBytes& file) {
  Cursor cursor(file);
  const auto length = cursor.number<uint64_t>();
  return smooseg::detail::with_torch_errors([&] {
    check_safetensors_length(length, file.name());
    return parse_safetensors_header(cursor.take(length), file.size(), file.name());
  });
}

inline SafetensorsContent parse_safetensors(const FileBytes& file) {
  SafetensorsHeader header = read_safetensors_header(file);
  SafetensorsContent content{{}, std::move(header.metadata)};
  for (const SafetensorsEntry& entry : header.entries) {
    const Dtype* dtype = find_dtype(&Dtype::safetensors, entry.dtype_name);
    const std::string tensor = safetensors_name(file.name(), entry);
    TORCH_CHECK(dtype != nullptr, tensor, " has the unknown dtype '", printable(entry.dtype_name), "'");
    TORCH_CHECK(dtype->type, tensor, " has dtype ", dtype->safetensors,
                ", which cannot be read with LibTorch " TORCH_VERSION);
    const int64_t bytes = entry.end - entry.begin;
    TORCH_CHECK(checked_bytes(entry.shape, c10::elementSize(*dtype->type)) == bytes, tensor, " of shape ",
                c10::IntArrayRef(entry.shape), " and dtype ", dtype->safetensors, " does not fit its ", bytes,
                " bytes");
    content.tensors[entry.name] =
        file.slice(header.data_offset + static_cast<uint64_t>(entry.begin), static_cast<uint64_t>(bytes))
            .tensor(entry.shape, *dtype->type);
  }
  return content;
}

inline std::string_view safetensors_dtype_name(const Tensor& tensor, const std::string& name) {
  for (const Dtype& dtype : kDtypes) {
    if (dtype.type == tensor.scalar_type() && !dtype.safetensors.empty()) return dtype.safetensors;
  }
  TORCH_CHECK(false, "write_safetensors: tensor '", name, "' has dtype ", tensor.scalar_type(),
              ", which the format does not know");
}

inline std::string safetensors_entry_json(const Tensor& tensor, const std::string& name, int64_t begin) {
  const auto bytes = tensor.numel() * static_cast<int64_t>(tensor.element_size());
  std::string shape;
  for (const int64_t size : tensor.sizes()) shape += (shape.empty() ? "" : ",") + std::to_string(size);
  return json_quoted(name) + ":{\"dtype\":\"" + std::string(safetensors_dtype_name(tensor, name)) + "\",\"shape\":[" +
         shape + "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(begin + bytes) + "]}";
}

inline std::string safetensors_metadata_json(const std::map<std::string, std::string>& metadata) {
  std::string json;
  for (const auto& [key, value] : metadata) {
    TORCH_CHECK(is_utf8(key) && is_utf8(value), "write_safetensors: expected UTF-8 in the metadata '", key, "'");
    json += (json.empty() ? "" : ",") + json_quoted(key) + ":" + json_quoted(value);
  }
  return json_quoted(kSafetensorsMetadata) + ":{" + json + "}";
}

}  // namespace detail

/// Reads all tensors of a safetensors file to the CPU, and its metadata. The dtypes F64, F32, F16, BF16, I64, I32, I16,
/// I8, U8, BOOL and C64 can always be read; U64, U32, U16 and the F8 kinds with a LibTorch that has them. The tensors
/// share one block of memory: to free it but keep one of them, clone that one.
///
/// Files of 16 MB and more are mapped: elements come from the disk when they are used. Operations in place change the
/// tensors and never the file; but the file must not be shortened in place while one of its tensors lives.
/// @throws c10::Error naming the file where it breaks the format in any way, and the tensor where one is to blame.
inline SafetensorsContent read_safetensors_content(const std::string& path) {
  return detail::parse_safetensors(detail::FileBytes::read(path));
}

/// The tensors alone of `read_safetensors_content`.
inline TensorMap read_safetensors(const std::string& path) {
  return read_safetensors_content(path).tensors;
}

/// The metadata alone, also of a file with tensors of a dtype that cannot be read.
/// @throws c10::Error naming the file where its header breaks the format.
inline std::map<std::string, std::string> read_safetensors_metadata(const std::string& path) {
  return detail::read_safetensors_header(detail::FileBytes::read(path)).metadata;
}

/// Writes a safetensors file, whole or not at all (`write_file_atomically`), with the names in order. Tensors may be
/// views and lie on any device: the elements that they show are written.
/// @param metadata UTF-8 strings to go with them.
/// @throws c10::Error naming the tensor where one cannot be written (undefined, not dense, of a dtype that the format
///   does not know, a name that is not UTF-8 or `__metadata__`), std::runtime_error naming the path where the file
///   cannot.
inline void write_safetensors(const std::string& path, const TensorMap& tensors,
                              const std::map<std::string, std::string>& metadata = {}) {
  std::vector<std::pair<std::string, Tensor>> in_file_order;
  for (const auto& [name, tensor] : tensors) {
    TORCH_CHECK(detail::is_utf8(name) && name != detail::kSafetensorsMetadata, "write_safetensors: '", name,
                "' cannot be the name of a tensor");
    TORCH_CHECK(tensor.defined() && tensor.layout() == torch::kStrided, "write_safetensors: expected tensor '", name,
                "' defined and dense");
    in_file_order.emplace_back(name, tensor.detach().to(torch::kCPU).resolve_conj().resolve_neg().contiguous());
  }
  // Widest elements first: then every tensor is aligned, whatever their sizes.
  std::stable_sort(in_file_order.begin(), in_file_order.end(),
                   [](const auto& a, const auto& b) { return a.second.element_size() > b.second.element_size(); });

  std::map<std::string, std::string> members;
  int64_t offset = 0;
  for (const auto& [name, tensor] : in_file_order) {
    members[name] = detail::safetensors_entry_json(tensor, name, offset);
    offset += tensor.numel() * static_cast<int64_t>(tensor.element_size());
  }
  std::string header = metadata.empty() ? "" : detail::safetensors_metadata_json(metadata);
  for (const auto& [name, member] : members) header += (header.empty() ? "" : ",") + member;
  header = "{" + header + "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  TORCH_CHECK(header.size() <= detail::kMaxSafetensorsHeader, "write_safetensors: a header of ", header.size(),
              " bytes is more than the format allows");

  write_file_atomically(path, [&](std::ostream& out) {
    for (size_t shift = 0; shift < 64; shift += 8) out.put(static_cast<char>((header.size() >> shift) & 0xFF));
    out.write(header.data(), static_cast<std::streamsize>(header.size()));
    for (const auto& [name, tensor] : in_file_order) {
      out.write(static_cast<const char*>(tensor.data_ptr()),
                static_cast<std::streamsize>(tensor.numel()) * tensor.element_size());
    }
  });
}

}  // namespace smooseg::io
