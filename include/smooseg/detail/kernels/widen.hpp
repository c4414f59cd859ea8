#pragma once

// Features in half precision as numbers that the other kernels compute with.

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <torch/types.h>

#include <cstdint>

#include "smooseg/detail/kernels/rows.hpp"
#include "smooseg/detail/kernels/simd.hpp"

namespace smooseg::detail {

struct Widen {
  template <Isa, class T>
  SMOOSEG_INLINE static void run(int64_t rows, int64_t n, Rows<const T> x, Rows<float> out) {
    for (int64_t r = 0; r < rows; ++r) {
      const T* const from = x[r];
      float* const to = out[r];
      for (int64_t j = 0; j < n; ++j) to[j] = static_cast<float>(from[j]);
    }
  }
};

/// x (B,C,N) in a dtype that holds all of its values; on the library's threads, as `scaled_rows` is.
inline Tensor widened(const Tensor& x, torch::ScalarType dtype) {
  const bool half = x.scalar_type() == torch::kHalf, bfloat16 = x.scalar_type() == torch::kBFloat16;
  if (!x.device().is_cpu() || dtype != torch::kFloat32 || !(half || bfloat16) || !has_contiguous_rows(x)) {
    return x.to(dtype);
  }
  const Tensor out = torch::empty(x.sizes(), x.options().dtype(dtype));
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    for_each_task(x.size(0), x.size(2), /*task_columns=*/1024, x.size(1), [&](int64_t b, int64_t first, int64_t n) {
      const Rows<const T> from{x.data_ptr<T>() + b * x.stride(0) + first, x.stride(1)};
      run_kernel<Widen>(machine_isa(), x.size(1), n, from, rows_of<float>(out, b, first));
    });
  };
  if (half) {
    run(c10::Half());
  } else {
    run(c10::BFloat16());
  }
  return out;
}

}  // namespace smooseg::detail
