#pragma once

// LibTorch's own threads, for work that stands between its operators: they wait actively for milliseconds after each, and
// would be in the way of the library's (parallel.hpp).

#include <ATen/Functions.h>
#include <ATen/TensorIterator.h>
#include <torch/types.h>

#include <cstdint>

#include "smooseg/detail/parallel.hpp"
#include "smooseg/tensor.hpp"

namespace smooseg::detail {

/// Calls f(begin, end) for parts of the numbers 0 to count - 1 on LibTorch's threads; once for all of them where it is
/// part of a parallel region already, of ours or of LibTorch's. Calls must not depend on each other. If one throws, so
/// does this.
template <class F>
void on_torch_threads(std::int64_t count, const F& f) {
  if (count <= 0) return;
  if (ThreadPool::is_working()) return f(std::int64_t{0}, count);
  // at::parallel_for is a template, serial in a file that is compiled without OpenMP; an iterator's loop is compiled.
  const Tensor numbers = at::empty({count}, torch::kByte);
  at::TensorIterator iterator =
      at::TensorIteratorConfig().set_check_mem_overlap(false).add_output(numbers).add_input(numbers).build();
  const char* const first = static_cast<const char*>(numbers.data_ptr());
  iterator.for_each(
      [&](char** data, const std::int64_t* /*strides*/, std::int64_t columns, std::int64_t rows) {
        const std::int64_t begin = data[0] - first;
        f(begin, begin + rows * columns);
      },
      /*grain_size=*/1);
}

}  // namespace smooseg::detail
