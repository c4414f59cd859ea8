#pragma once

#include <ATen/Functions.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/types.h>

#include <memory>
#include <thread>

#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

/// A small tensor on its way to the host. `start` never waits for the device; `get` does if it is called too soon.
class HostCopy {
 public:
  void start(const Tensor& tensor) {
    done_.reset();
    if (tensor.device().is_cpu()) {
      host_ = tensor;
      return;
    }
    host_ = at::empty(tensor.sizes(), tensor.options().device(torch::kCPU).pinned_memory(true));
    host_.copy_(tensor, /*non_blocking=*/true);
    done_ = std::make_shared<c10::Event>(tensor.device().type());
    done_->record(c10::impl::VirtualGuardImpl(tensor.device().type()).getStream(tensor.device()));
  }

  /// On the CPU.
  const Tensor& get() const {
    while (done_ && !done_->query()) std::this_thread::yield();
    return host_;
  }

 private:
  Tensor host_;
  std::shared_ptr<c10::Event> done_;  // shared, so that owners can be copied
};

}  // namespace smooseg::detail
