#pragma once

// A device for tests on machines that have none but the CPU. Its tensors lie in memory of its own, at addresses that no
// CPU can read, and LibTorch's operators on them are computed by those of the CPU without a copy: so tests show that code
// runs on another device and gives the CPU's numbers, that tensors of two devices are not mixed, and what code copies to
// the host or waits for. What they cannot show is a real device's speed, rounding and kernels.

#include <c10/core/Device.h>

#include <cstdint>
#include <map>
#include <string>

/// The device, which is registered when a program starts that is linked with pretend_device.cpp.
c10::Device pretend_device();

/// What was asked of the device.
struct DeviceUse {
  int64_t blocking_to_host = 0;          ///< copies to the host that wait for the device
  int64_t deferred_to_host = 0;          ///< those that do not: they arrive when an event after them is asked for
  int64_t blocking_to_device = 0;        ///< copies from the host that wait for the device
  int64_t deferred_to_device = 0;        ///< those that do not
  std::map<std::string, int64_t> waits;  ///< operators that wait for the device on CUDA, by name

  /// For messages: all of it but the zeros.
  std::string text() const;
};

/// All use since the program started.
DeviceUse device_use();

/// The use since an earlier one.
DeviceUse operator-(const DeviceUse& now, const DeviceUse& before);
