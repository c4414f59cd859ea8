#include "support/process_group.hpp"

#ifdef USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#endif
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

#if defined(USE_C10D_GLOO) || defined(USE_C10D_NCCL)
#include <ATen/Functions.h>

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>
#endif

namespace smooseg::app {

#if defined(USE_C10D_GLOO) || defined(USE_C10D_NCCL)

namespace {

/// A call waits as long as the others work; whether they still live its `Watch` knows better than a time limit.
constexpr std::chrono::hours kWaitingTime{24 * 7};

/// One of c10d's groups. A template, since the base class that they share has another name in LibTorch 1 than in 2.
template <class Group>
class C10dGroup : public ProcessGroup {
 public:
  C10dGroup(c10::intrusive_ptr<Group> group, c10::DeviceType device) : group_(std::move(group)), device_(device) {}
  C10dGroup(const C10dGroup&) = delete;
  C10dGroup& operator=(const C10dGroup&) = delete;
  /// A group in which a call never ended is given up, since its own end would wait for that.
  ~C10dGroup() override {
    if (lost_) group_.release();
  }

  bool takes(const Tensor& tensor) const override {
    const auto dtype = tensor.scalar_type();
    return tensor.device().type() == device_ && tensor.numel() > 0 &&
           (dtype == torch::kFloat32 || dtype == torch::kFloat64 || dtype == torch::kInt32 || dtype == torch::kInt64);
  }

  Tensor all_reduce(const Tensor& tensor, const Watch& watch) override {
    std::vector<Tensor> sums{tensor.detach().clone(at::MemoryFormat::Contiguous)};
    finish(group_->allreduce(sums), watch);
    return sums.front();
  }

  Tensor all_gather(const Tensor& tensor, const Watch& watch) override {
    std::vector<Tensor> own{tensor.detach().contiguous()};
    std::vector<std::vector<Tensor>> all(1);
    for (int i = 0; i < group_->getSize(); ++i) all.front().push_back(at::empty_like(own.front()));
    finish(group_->allgather(all, own), watch);
    return at::cat(all.front());
  }

 private:
  template <class Work>
  void finish(const Work& work, const Watch& watch) {
    constexpr std::chrono::microseconds kShort{20}, kLong{1000};
    auto pause = kShort;
    lost_ = true;
    while (!work->isCompleted()) {
      watch();
      std::this_thread::sleep_for(pause);
      pause = std::min(2 * pause, kLong);
    }
    work->wait();  // throws what went wrong
    lost_ = false;
  }

  c10::intrusive_ptr<Group> group_;
  c10::DeviceType device_;
  bool lost_ = false;  // a call was begun that did not end well
};

c10::intrusive_ptr<c10d::Store> store_at(const Meeting& meeting, const char* prefix,
                                         std::chrono::milliseconds join_time) {
  c10d::TCPStoreOptions options;
  options.port = meeting.port;
  options.isServer = false;
  options.waitWorkers = false;
  options.timeout = join_time;
  return c10::make_intrusive<c10d::PrefixStore>(prefix, c10::make_intrusive<c10d::TCPStore>(meeting.address, options));
}

}  // namespace

#endif

#ifdef USE_C10D_GLOO

std::unique_ptr<ProcessGroup> join_gloo(const Meeting& meeting, std::chrono::milliseconds join_time) {
  using Group = c10d::ProcessGroupGloo;
  const auto options = Group::Options::create(kWaitingTime);
  const char* const interface = std::getenv("GLOO_SOCKET_IFNAME");  // as in PyTorch
  const bool alone = meeting.address == "127.0.0.1" || meeting.address == "localhost";
  options->devices.push_back(interface != nullptr && *interface != '\0' ? Group::createDeviceForInterface(interface)
                             : alone                                    ? Group::createDeviceForHostname("127.0.0.1")
                                                                        : Group::createDefaultDevice());
  return std::make_unique<C10dGroup<Group>>(
      c10::make_intrusive<Group>(store_at(meeting, "gloo", join_time), static_cast<int>(meeting.rank),
                                 static_cast<int>(meeting.size), options),
      torch::kCPU);
}

#else

std::unique_ptr<ProcessGroup> join_gloo(const Meeting&, std::chrono::milliseconds) {
  return nullptr;
}

#endif

#ifdef USE_C10D_NCCL

std::unique_ptr<ProcessGroup> join_nccl(const Meeting& meeting, std::chrono::milliseconds join_time) {
  using Group = c10d::ProcessGroupNCCL;
  const auto options = Group::Options::create();
  options->timeout = kWaitingTime;
  return std::make_unique<C10dGroup<Group>>(
      c10::make_intrusive<Group>(store_at(meeting, "nccl", join_time), static_cast<int>(meeting.rank),
                                 static_cast<int>(meeting.size), options),
      torch::kCUDA);
}

#else

std::unique_ptr<ProcessGroup> join_nccl(const Meeting&, std::chrono::milliseconds) {
  return nullptr;
}

#endif

std::vector<std::string> process_group_names() {
  return {
#ifdef USE_C10D_GLOO
      "Gloo",
#endif
#ifdef USE_C10D_NCCL
      "NCCL",
#endif
  };
}

}  // namespace smooseg::app
