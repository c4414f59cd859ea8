#pragma once

// Sums of tensors over several processes: c10d's process groups, Gloo's and NCCL's.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "smooseg/tensor.hpp"

namespace smooseg::app {

/// Which process this is, and where the store is through which the processes find each other.
struct Meeting {
  std::string address;
  uint16_t port = 0;
  int64_t rank = 0, size = 1;
};

/// All processes make the same calls in the same order, with tensors of one shape and dtype.
class ProcessGroup {
 public:
  /// Called again and again while a call waits for the others; throws where they will never come.
  using Watch = std::function<void()>;

  virtual ~ProcessGroup() = default;

  /// Whether it can sum and gather such tensors.
  virtual bool takes(const Tensor& tensor) const = 0;

  /// The sum over the processes, of which all get the same bits.
  virtual Tensor all_reduce(const Tensor& tensor, const Watch& watch) = 0;

  /// The tensors of all processes, one after the other along the first axis.
  virtual Tensor all_gather(const Tensor& tensor, const Watch& watch) = 0;
};

/// Those that the program was built with, of Gloo and NCCL.
std::vector<std::string> process_group_names();

/// Joins the group of those that talk through Gloo, about tensors in the host's memory. All processes must be at this
/// call, which waits for the store no longer than `join_time`.
/// @return null where the program was built without Gloo. @throws what c10d throws.
std::unique_ptr<ProcessGroup> join_gloo(const Meeting& meeting, std::chrono::milliseconds join_time);

/// Likewise through NCCL, about tensors on CUDA devices, of which each process has one of its own.
std::unique_ptr<ProcessGroup> join_nccl(const Meeting& meeting, std::chrono::milliseconds join_time);

}  // namespace smooseg::app
