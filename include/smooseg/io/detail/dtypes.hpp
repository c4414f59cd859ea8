#pragma once

// The dtypes of tensors by the names that files give them.

#include <torch/types.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::io::detail {

/// A dtype; a name is empty where the format does not know it.
struct Dtype {
  std::string_view python;                ///< torch.NAME
  std::string_view storage_class;         ///< torch.NAME, the storages of such elements
  std::string_view safetensors;           ///< as in a header
  std::optional<torch::ScalarType> type;  ///< nothing where this LibTorch does not have it
};

inline constexpr std::array<Dtype, 24> kDtypes{
    {{"float64", "DoubleStorage", "F64", torch::kFloat64},
     {"float32", "FloatStorage", "F32", torch::kFloat32},
     {"float16", "HalfStorage", "F16", torch::kFloat16},
     {"bfloat16", "BFloat16Storage", "BF16", torch::kBFloat16},
     {"int64", "LongStorage", "I64", torch::kInt64},
     {"int32", "IntStorage", "I32", torch::kInt32},
     {"int16", "ShortStorage", "I16", torch::kInt16},
     {"int8", "CharStorage", "I8", torch::kInt8},
     {"uint8", "ByteStorage", "U8", torch::kUInt8},
     {"bool", "BoolStorage", "BOOL", torch::kBool},
     {"complex128", "ComplexDoubleStorage", "", torch::kComplexDouble},
     {"complex64", "ComplexFloatStorage", "C64", torch::kComplexFloat},
     {"complex32", "ComplexHalfStorage", "", torch::kComplexHalf},
     {"uint64", "", "U64", smooseg::detail::newer_dtype("uint64")},
     {"uint32", "", "U32", smooseg::detail::newer_dtype("uint32")},
     {"uint16", "", "U16", smooseg::detail::newer_dtype("uint16")},
     {"float8_e4m3fn", "", "F8_E4M3", smooseg::detail::newer_dtype("float8_e4m3fn")},
     {"float8_e5m2", "", "F8_E5M2", smooseg::detail::newer_dtype("float8_e5m2")},
     {"float8_e4m3fnuz", "", "F8_E4M3FNUZ", smooseg::detail::newer_dtype("float8_e4m3fnuz")},
     {"float8_e5m2fnuz", "", "F8_E5M2FNUZ", smooseg::detail::newer_dtype("float8_e5m2fnuz")},
     {"float8_e8m0fnu", "", "F8_E8M0", smooseg::detail::newer_dtype("float8_e8m0fnu")},
     // Several elements to a byte.
     {"float4_e2m1fn_x2", "", "F4", std::nullopt},
     {"", "", "F6_E2M3", std::nullopt},
     {"", "", "F6_E3M2", std::nullopt}}};

/// The dtype whose `field`, such as `&Dtype::python`, is `name`; null where there is none.
inline const Dtype* find_dtype(std::string_view Dtype::*field, std::string_view name) {
  const auto found = std::find_if(kDtypes.begin(), kDtypes.end(), [&](const Dtype& d) { return d.*field == name; });
  return name.empty() || found == kDtypes.end() ? nullptr : &*found;
}

}  // namespace smooseg::io::detail
