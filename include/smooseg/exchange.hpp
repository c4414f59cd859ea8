#pragma once

#include <torch/types.h>

#include <cstdint>

#include "smooseg/tensor.hpp"

namespace smooseg {

/// What several processes that learn one model together, each from its own part of every batch, tell each other. The
/// library knows no network: derive from this with whatever connects the processes, such as c10d. All processes make the
/// same calls in the same order, each of which waits for the others.
class Exchange {
 public:
  virtual ~Exchange() = default;

  /// The number of this process, 0 to size() - 1.
  virtual int64_t rank() const = 0;

  /// The number of processes.
  virtual int64_t size() const = 0;

  /// @param tensor contiguous, of the same shape, dtype and kind of device in all processes.
  /// @return those of all processes in the order of their ranks, joined along dimension 0; the same bits in each.
  virtual Tensor all_gather(const Tensor& tensor) = 0;

  /// @param tensor as `all_gather` takes it.
  /// @return the sum of those of all processes; the same bits in each.
  virtual Tensor all_reduce(const Tensor& tensor) = 0;
};

}  // namespace smooseg
