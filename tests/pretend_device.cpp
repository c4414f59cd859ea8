#include "pretend_device.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/cuda.h>
#include <torch/library.h>

#if __has_include(<ATen/detail/MTIAHooksInterface.h>)
#include <ATen/detail/MTIAHooksInterface.h>
#endif

#include <deque>
#include <limits>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

namespace {

// Modules of LibTorch move only to devices that it takes for dense, among which PrivateUse1 is not. So the device stands
// in the place of one that is, and of which neither LibTorch here nor the library has anything: Intel's, or Meta's where
// LibTorch knows it and asks whether it is there.
#if __has_include(<ATen/detail/MTIAHooksInterface.h>)
#define PRETEND_KEY MTIA
#else
#define PRETEND_KEY XPU
#endif

constexpr auto kType = c10::DeviceType::PRETEND_KEY;
constexpr auto kKey = c10::DispatchKey::PRETEND_KEY;
const c10::Device kPretend(kType, 0);

bool is_ours(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == kType;
}

// Use ------------------------------------------------------------------------------------------------------------------

std::mutex use_mutex;
DeviceUse use;

void count(int64_t DeviceUse::*what) {
  const std::lock_guard<std::mutex> lock(use_mutex);
  ++(use.*what);
}

/// What CUDA's operators wait for: those that read a result, or whose results have a size that depends on values.
void count_wait(const std::string& name) {
  static const std::set<std::string> kWaiting{
      "_local_scalar_dense",    "equal",        "nonzero",     "masked_select", "bincount",
      "repeat_interleave",      "_unique",      "_unique2",    "unique_dim",    "unique_consecutive",
      "unique_dim_consecutive", "_linalg_eigh", "_linalg_svd", "linalg_lstsq",  "linalg_inv_ex"};
  if (kWaiting.count(name) == 0) return;
  const std::lock_guard<std::mutex> lock(use_mutex);
  ++use.waits[name];
}

// Memory ---------------------------------------------------------------------------------------------------------------

/// From an address of the device to the one where its memory really is, and back. No processor of today has memory at
/// addresses with but one of the two highest bits set.
void* other_address(void* address) {
  constexpr std::uintptr_t kBit = std::uintptr_t{1} << (std::numeric_limits<std::uintptr_t>::digits - 2);
  return address == nullptr ? nullptr : reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(address) ^ kBit);
}

/// Host memory as the device's.
c10::DataPtr to_device_memory(c10::DataPtr host) {
  void* const address = other_address(host.get());
  auto* const owner = new c10::DataPtr(std::move(host));
  return {address, owner, [](void* context) { delete static_cast<c10::DataPtr*>(context); }, kPretend};
}

/// A tensor over a storage, of the storage's device.
at::Tensor over(const c10::Storage& storage, c10::DispatchKey key, const at::Tensor& like) {
  at::Tensor tensor =
      at::detail::make_tensor<c10::TensorImpl>(c10::Storage(storage), c10::DispatchKeySet(key), like.dtype());
  c10::TensorImpl* const impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_offset(like.storage_offset());
  impl->set_sizes_and_strides(like.sizes(), like.strides());
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return tensor;
}

/// The device's tensors as the CPU's operators see them in one call, and the results as tensors of the device.
class Call {
 public:
  /// The same memory as a tensor of the CPU.
  at::Tensor on_cpu(const at::Tensor& tensor) {
    if (!is_ours(tensor)) return tensor;
    c10::Storage& storage = host_[tensor.storage().unsafeGetStorageImpl()];
    if (!storage) {
      void* const address = other_address(tensor.storage().data_ptr().get());
      storage = c10::Storage(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(),
                             c10::DataPtr(address, c10::Device(c10::kCPU)), c10::GetCPUAllocator(), /*resizable=*/true);
    }
    at::Tensor twin = over(storage, c10::DispatchKey::CPU, tensor);
    twins_.emplace_back(twin, tensor);
    return twin;
  }

  /// What the operators did to arguments: they may have got other sizes, and so other memory.
  void finish() {
    for (auto& [device, host] : host_) {
      void* const before = other_address(device->data_ptr().get());
      if (host.data_ptr().get() == before && host.nbytes() == device->nbytes()) continue;
      device->set_nbytes(host.nbytes());
      if (host.data_ptr().get() == before) continue;
      device->set_data_ptr(to_device_memory(host.set_data_ptr(c10::DataPtr(host.data_ptr().get(), c10::kCPU))));
    }
    for (const auto& [twin, tensor] : twins_) {
      c10::TensorImpl* const impl = tensor.unsafeGetTensorImpl();
      if (twin.sizes() == tensor.sizes() && twin.strides() == tensor.strides() &&
          twin.storage_offset() == tensor.storage_offset()) {
        continue;
      }
      impl->set_storage_offset(twin.storage_offset());
      impl->set_sizes_and_strides(twin.sizes(), twin.strides());
    }
  }

  /// A result: an argument itself, a view of one, or a new tensor.
  at::Tensor on_device(const at::Tensor& result) {
    if (!result.defined() || !result.device().is_cpu()) return result;
    for (const auto& [twin, tensor] : twins_) {
      if (twin.is_same(result)) return tensor;
    }
    c10::StorageImpl* const host = result.storage().unsafeGetStorageImpl();
    for (const auto& [twin, tensor] : twins_) {
      if (twin.storage().unsafeGetStorageImpl() == host) return over(tensor.storage(), kKey, result);
    }
    c10::Storage& storage = adopted_[host];
    if (!storage) {
      const std::size_t bytes = host->nbytes();
      c10::DataPtr memory = host->set_data_ptr(c10::DataPtr(nullptr, c10::Device(c10::kCPU)));
      storage = c10::Storage(c10::Storage::use_byte_size_t(), bytes, to_device_memory(std::move(memory)));
    }
    return over(storage, kKey, result);
  }

 private:
  std::map<c10::StorageImpl*, c10::Storage> host_, adopted_;  // by the device's storage, and by the CPU's
  std::vector<std::pair<at::Tensor, at::Tensor>> twins_;      // the CPU's and the device's
};

// Operators ------------------------------------------------------------------------------------------------------------

/// Calls f for each tensor of an operator's argument or result, and puts what it returns in its place.
template <class F>
void for_each_tensor(c10::IValue& value, const F& f) {
  if (value.isTensor()) {
    value = f(value.toTensor());
  } else if (value.isTensorList()) {
    std::vector<at::Tensor> tensors = value.toTensorVector();
    for (at::Tensor& tensor : tensors) tensor = f(tensor);
    value = c10::IValue(tensors);
  } else if (value.isList()) {  // of optional tensors, or of numbers
    const c10::List<c10::IValue> list = value.toList();
    for (std::size_t i = 0; i < list.size(); ++i) {
      c10::IValue item = list.get(i);
      if (item.isTensor()) list.set(i, f(item.toTensor()));
    }
  }
}

/// Computes an operator on the CPU, in place of any that has no kernel for the device.
void call_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const std::string name = op.schema().name().substr(op.schema().name().find("::") + 2);
  const std::size_t arguments = op.schema().arguments().size(), results = op.schema().returns().size();
  count_wait(name);
  bool of_device = false;
  const auto first = stack->end() - static_cast<std::ptrdiff_t>(arguments);
  for (auto argument = first; argument != stack->end(); ++argument) {
    for_each_tensor(*argument, [&](const at::Tensor& tensor) {
      of_device = of_device || is_ours(tensor);
      return tensor;
    });
  }
  Call call;
  for (auto argument = first; argument != stack->end(); ++argument) {
    if (argument->isDevice() && argument->toDevice().type() == kType) *argument = c10::Device(c10::kCPU);
    for_each_tensor(*argument, [&](const at::Tensor& tensor) {
      // Numbers of the CPU may stand beside tensors of a device.
      TORCH_CHECK(!of_device || !tensor.defined() || is_ours(tensor) || tensor.dim() == 0,
                  "Expected all tensors to be on the same device, but ", name, " got one on ", kPretend, " and one on ",
                  tensor.device());
      return call.on_cpu(tensor);
    });
  }
  op.callBoxed(stack);
  call.finish();
  for (auto result = stack->end() - static_cast<std::ptrdiff_t>(results); result != stack->end(); ++result) {
    for_each_tensor(*result, [&](const at::Tensor& tensor) { return call.on_device(tensor); });
  }
}

/// Of CUDA, whose checks of the values are made on the device.
at::Tensor one_hot(const at::Tensor& self, int64_t classes) {
  TORCH_CHECK(classes > 0, "one_hot without a number of classes waits for the device");
  std::vector<int64_t> sizes = self.sizes().vec();
  sizes.push_back(classes);
  return at::zeros(sizes, self.options()).scatter_(-1, self.unsqueeze(-1), 1);
}

// Copies to the host that have not arrived.
std::mutex on_the_way_mutex;
std::deque<std::pair<at::Tensor, at::Tensor>> on_the_way;

void deliver() {
  const std::lock_guard<std::mutex> lock(on_the_way_mutex);
  for (; !on_the_way.empty(); on_the_way.pop_front()) on_the_way.front().first.copy_(on_the_way.front().second);
}

at::Tensor& copy(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  if (self.numel() == 0) return self;
  Call call;
  const at::Tensor from = call.on_cpu(source), to = call.on_cpu(self);
  if (is_ours(self)) {
    if (!is_ours(source)) count(non_blocking ? &DeviceUse::deferred_to_device : &DeviceUse::blocking_to_device);
    to.copy_(from);
  } else if (non_blocking) {
    count(&DeviceUse::deferred_to_host);
    const std::lock_guard<std::mutex> lock(on_the_way_mutex);
    on_the_way.emplace_back(to, from.clone());
    if (to.is_floating_point()) to.fill_(std::numeric_limits<double>::quiet_NaN());  // who reads it now shall notice
  } else {
    count(&DeviceUse::blocking_to_host);
    to.copy_(from);
  }
  return self;
}

// Streams and events ---------------------------------------------------------------------------------------------------

/// One device with one stream. An event is asked for twice until what was recorded before it has happened.
struct PretendGuard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device) const override { return kPretend; }
  c10::Device getDevice() const override { return kPretend; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, kPretend); }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return getStream(kPretend); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }

  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {
    if (*event == nullptr) *event = new bool;
    *static_cast<bool*>(*event) = false;
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void* event) const override {
    bool& was_asked = *static_cast<bool*>(event);
    if (was_asked) deliver();
    return std::exchange(was_asked, true);
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override { delete static_cast<bool*>(event); }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { deliver(); }
};

#if __has_include(<ATen/detail/MTIAHooksInterface.h>)
/// For the autograd of newer releases, whose streams are those of one kind of device; where there is CUDA, of it. LibTorch
/// looks for the hooks by the name of their class.
struct MTIAHooks final : at::MTIAHooksInterface {
  template <class... Args>  // none in the newest releases
  explicit MTIAHooks(const Args&...) {}
  bool hasMTIA() const override { return isAvailable(); }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return torch::cuda::device_count() == 0; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {  // which `torch::manual_seed` seeds too
    return at::detail::getDefaultCPUGenerator();
  }
};
using at::MTIAHooksRegistry;
using at::RegistererMTIAHooksRegistry;
REGISTER_MTIA_HOOKS(MTIAHooks)
#endif

// The guard is never destroyed, since LibTorch may ask for it at any time.
const c10::impl::DeviceGuardImplRegistrar kRegistrar(kType, new PretendGuard);

TORCH_LIBRARY_IMPL(_, PRETEND_KEY, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&call_on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, PRETEND_KEY, library) {
  library.impl("copy_", TORCH_FN(copy));
  library.impl("one_hot", TORCH_FN(one_hot));
  // These look at the kind of device before they come to an operator that the fallback sees.
  for (const char* name : {"convolution", "convolution_backward", "native_layer_norm"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&call_on_cpu>());
  }
}

}  // namespace

c10::Device pretend_device() {
  return kPretend;
}

std::string DeviceUse::text() const {
  std::ostringstream out;
  const auto print = [&](const std::string& what, int64_t times) {
    if (times != 0) out << what << ": " << times << "; ";
  };
  print("blocking copies to the host", blocking_to_host);
  print("deferred copies to the host", deferred_to_host);
  print("blocking copies to the device", blocking_to_device);
  print("deferred copies to the device", deferred_to_device);
  for (const auto& [name, times] : waits) print(name, times);
  return out.str();
}

DeviceUse device_use() {
  const std::lock_guard<std::mutex> lock(use_mutex);
  return use;
}

DeviceUse operator-(const DeviceUse& now, const DeviceUse& before) {
  DeviceUse result = now;
  result.blocking_to_host -= before.blocking_to_host;
  result.deferred_to_host -= before.deferred_to_host;
  result.blocking_to_device -= before.blocking_to_device;
  result.deferred_to_device -= before.deferred_to_device;
  for (const auto& [name, times] : before.waits) {
    if ((result.waits[name] -= times) == 0) result.waits.erase(name);
  }
  return result;
}
