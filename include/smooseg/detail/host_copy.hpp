#pragma once

#include <ATen/Functions.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/types.h>

#include <memory>
#include <thread>

#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::detail {

/// A tensor of the CPU in memory that a CUDA device can read by itself; itself for other devices, and where it is so
/// already. Threads that make a tensor ready do this too, since it is a copy.
inline Tensor pinned_for(torch::Device device, const Tensor& tensor) {
  return device.is_cuda() && tensor.device().is_cpu() && !tensor.is_pinned() ? tensor.pin_memory() : tensor;
}

/// A tensor on a device. One of the CPU is copied there without a wait; one that comes to the CPU has arrived.
inline Tensor to_device(const Tensor& tensor, torch::Device device) {
  return pinned_for(device, tensor).to(device, /*non_blocking=*/!device.is_cpu());
}

/// Numbers on a device, likewise.
inline Tensor numbers_on(torch::Device device, at::ArrayRef<double> values, torch::ScalarType dtype) {
  return to_device(at::tensor(values, dtype), device);
}

/// A small tensor on its way to the host. `start` never waits for the device; `get` does if it is called too soon.
class HostCopy {
 public:
  void start(const Tensor& tensor) {
    done_.reset();
    if (tensor.device().is_cpu()) {
      host_ = tensor;
      return;
    }
    host_ = at::empty(tensor.sizes(), tensor.options().device(torch::kCPU).pinned_memory(tensor.is_cuda()));
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
