#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>

#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg {
namespace functional {

/// Draws who is compared with whom across the batch: a uniform random derangement, so that every image has exactly one
/// partner, is partner of exactly one, and never its own.
/// @param batch number of images B, at least 1; a batch of one has only itself as partner.
/// @param generator source of randomness (CPU); the default one where none is given.
/// @return (B) int64 on the CPU: image i is compared with image pairing[i].
/// @throws c10::Error for B < 1.
inline Tensor random_pairing(int64_t batch, std::optional<at::Generator> generator = {}) {
  TORCH_CHECK(batch >= 1, "smooseg::functional::random_pairing: expected a batch of at least 1, got ", batch);
  const Tensor identity = torch::arange(batch, torch::kInt64);
  if (batch == 1) return identity;
  // Rejection keeps it uniform; one permutation in e (2.7) is a derangement.
  while (true) {
    const Tensor pairing = at::randperm(batch, detail::torch_generator(generator), torch::kInt64);
    if (!pairing.eq(identity).any().item<bool>()) return pairing;
  }
}

}  // namespace functional

namespace detail {

/// Checks a pairing; its values only where they lie on the CPU, since reading them elsewhere would wait for the device.
inline void check_pairing(const Tensor& pairing, int64_t batch, torch::Device device, const char* function) {
  check_defined(pairing, function, "pairing");
  TORCH_CHECK(pairing.scalar_type() == torch::kInt64 && pairing.dim() == 1 && pairing.size(0) == batch, function,
              ": expected pairing of shape (", batch, ") and dtype Long, got ", shape_of(pairing), " and ",
              pairing.scalar_type());
  TORCH_CHECK(pairing.device().is_cpu() || pairing.device() == device, function,
              ": expected pairing on the CPU or on the features' device ", device, ", got ", pairing.device());
  if (!pairing.device().is_cpu()) return;
  const int64_t lowest = pairing.min().item<int64_t>();
  const int64_t highest = pairing.max().item<int64_t>();
  TORCH_CHECK(lowest >= 0 && highest < batch, function, ": expected pairing to hold indices of the batch, 0 to ",
              batch - 1, ", got ", lowest, " to ", highest);
}

}  // namespace detail
}  // namespace smooseg
