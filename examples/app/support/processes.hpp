#pragma once

// Several processes of the program that share one command's work, started by torchrun, mpirun or srun.

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "smooseg/exchange.hpp"
#include "smooseg/tensor.hpp"

namespace smooseg::app {

/// What the launcher tells a process by environment variables: those of torchrun, else of Open MPI's mpirun, else of
/// Slurm's srun.
struct ProcessPlace {
  int64_t rank = 0, size = 1;              ///< of all processes
  int64_t local_rank = 0, local_size = 1;  ///< of those on this machine
  std::string address = "127.0.0.1";       ///< of process 0's machine
  uint16_t port = 29500;                   ///< that process 0 listens at; under torchrun MASTER_PORT + 1
};

/// Of one process that nothing tells otherwise.
/// @throws std::runtime_error naming the variable that is missing or makes no sense.
ProcessPlace process_place();

/// Another process is gone or has failed.
struct ProcessLost : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The processes of one command, which all make the same calls in the same order. They talk through c10d: tensors go
/// through Gloo or NCCL where the program was built with them, all else and what these do not take through the key-value
/// store, `TCPStore`, which process 0 serves. A call waits for the others however long they work; but a process that is
/// gone, or not heard of for half a minute, is an error in all others within a minute, and so is one that fails, at once.
/// One process alone needs no network, and all calls return what they got.
class Processes : public Exchange {
 public:
  using Bytes = std::vector<uint8_t>;

  /// One process.
  Processes();

  /// Joins the others, and waits for them two minutes.
  /// @throws std::runtime_error where process 0 cannot be reached, or where this LibTorch has no c10d.
  explicit Processes(const ProcessPlace& place);

  /// One that is shared by all who need no other.
  static const std::shared_ptr<Processes>& alone();

  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;
  ~Processes() override;

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }
  bool several() const { return size_ > 1; }

  /// Whether this is the one process that writes files and reports to people.
  bool is_first() const { return rank_ == 0; }

  /// As `Exchange` says. @throws ProcessLost, as all that follows.
  Tensor all_gather(const Tensor& tensor) override;
  Tensor all_reduce(const Tensor& tensor) override;

  /// What each process has, in the order of their ranks; of any sizes.
  std::vector<Bytes> gather(const Bytes& own);

  /// The numbers that process 0 has; of the others nothing is looked at.
  std::vector<int64_t> broadcast(const std::vector<int64_t>& own);

  /// All processes' numbers, those of process 0 first; any many of each.
  std::vector<int64_t> gather(const std::vector<int64_t>& own);

  /// The highest of all processes' numbers.
  int64_t highest(int64_t own);

  /// Waits until all processes are here.
  void barrier() { gather(Bytes()); }

  /// This process's part of a list, the r-th of size() equal ones in a row.
  template <class T>
  std::vector<T> part_of(const std::vector<T>& all) const {
    const auto count = static_cast<std::ptrdiff_t>(all.size()) / size_;
    return {all.begin() + rank_ * count, all.begin() + (rank_ + 1) * count};
  }

  /// Every size()-th element of a list, beginning with the rank_-th.
  template <class T>
  std::vector<T> share_of(const std::vector<T>& all) const {
    std::vector<T> result;
    for (auto i = static_cast<std::size_t>(rank_); i < all.size(); i += static_cast<std::size_t>(size_)) {
      result.push_back(all[i]);
    }
    return result;
  }

  /// Tells the others why this process ends before them.
  void fail(const std::string& why) noexcept;

  /// Waits for the others, at the end of the work.
  void leave();

 private:
  class Connection;
  class Groups;

  int64_t rank_ = 0, size_ = 1;
  std::unique_ptr<Connection> connection_;  // null: one process
  std::unique_ptr<Groups> groups_;          // likewise
};

/// Calls `work` with this process's place among those that were started together. What ends one of them by an exception
/// is told to the others, which then end too.
void together(const std::function<void(const std::shared_ptr<Processes>&)>& work);

}  // namespace smooseg::app
