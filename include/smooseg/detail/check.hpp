#pragma once

// Checks at the entry of public functions. Each message names the function, the argument, what was expected and the
// sizes or types that came.

#include <c10/util/Exception.h>
#include <torch/types.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

/// Calls f(), which does without LibTorch, and turns its std::invalid_argument into a c10::Error.
template <class F>
auto with_torch_errors(F&& f) -> decltype(f()) {
  try {
    return f();
  } catch (const std::invalid_argument& e) {
    TORCH_CHECK(false, e.what());
  }
}

/// "(2, 3, 28, 28)", or "undefined".
inline std::string shape_of(const Tensor& tensor) {
  if (!tensor.defined()) return "undefined";
  std::ostringstream out;
  out << '(';
  for (int64_t d = 0; d < tensor.dim(); ++d) out << (d > 0 ? ", " : "") << tensor.size(d);
  out << ')';
  return out.str();
}

inline void check_defined(const Tensor& tensor, const char* function, const char* argument) {
  TORCH_CHECK(tensor.defined(), function, ": ", argument, " is undefined");
}

inline void check_floating(const Tensor& tensor, const char* function, const char* argument) {
  check_defined(tensor, function, argument);
  TORCH_CHECK(tensor.is_floating_point(), function, ": expected ", argument, " of a floating dtype, got ",
              tensor.scalar_type());
}

/// A floating map of at least one element in each dimension: (B,C,...) where `dims` is 0, else exactly that many.
inline void check_map(const Tensor& tensor, const char* function, const char* argument, const char* shape,
                      int64_t dims = 0) {
  check_floating(tensor, function, argument);
  const bool right_dims = dims == 0 ? tensor.dim() >= 3 : tensor.dim() == dims;
  TORCH_CHECK(right_dims && tensor.numel() > 0, function, ": expected ", argument, " of shape ", shape,
              " with no dimension of size 0, got ", shape_of(tensor));
}

inline void check_same_device(const Tensor& a, const Tensor& b, const char* function, const char* name_a,
                              const char* name_b) {
  TORCH_CHECK(a.device() == b.device(), function, ": expected ", name_a, " and ", name_b, " on one device, got ",
              a.device(), " and ", b.device());
}

/// Two maps of one batch size, one number of channels, one dtype and one device.
inline void check_paired_maps(const Tensor& a, const Tensor& b, const char* function, const char* name_a,
                              const char* name_b, const char* shape) {
  check_map(a, function, name_a, shape);
  check_map(b, function, name_b, shape);
  TORCH_CHECK(a.size(0) == b.size(0) && a.size(1) == b.size(1), function, ": expected ", name_a, " and ", name_b,
              " of equal batch and channels, got ", shape_of(a), " and ", shape_of(b));
  TORCH_CHECK(a.scalar_type() == b.scalar_type(), function, ": expected ", name_a, " and ", name_b,
              " of one dtype, got ", a.scalar_type(), " and ", b.scalar_type());
  check_same_device(a, b, function, name_a, name_b);
}

}  // namespace smooseg::detail
