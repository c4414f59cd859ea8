#pragma once

// The one place that knows how LibTorch's releases differ (1.13 to 2.15 and on).

#include <ATen/Functions.h>
#include <ATen/core/Generator.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/nn/module.h>
#include <torch/types.h>
#include <torch/version.h>

#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>

#include "smooseg/tensor.hpp"

/// Whether this LibTorch can load the packages (.pt2) that AOTInductor makes, by `AOTIModelPackageLoader` of the header
/// named here (from 2.6 on).
#if __has_include(<torch/csrc/inductor/aoti_package/model_package_loader.h>) && \
    (TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 6))
#define SMOOSEG_HAS_AOTI_PACKAGES 1
#else
#define SMOOSEG_HAS_AOTI_PACKAGES 0
#endif

namespace smooseg::detail {

/// The key of a parameter in an optimiser's `state()`: text in older releases, an address in newer ones.
template <class StateMap>
typename StateMap::key_type optimizer_key(const StateMap&, const Tensor& parameter) {
  auto* const address = parameter.unsafeGetTensorImpl();
  if constexpr (std::is_same_v<typename StateMap::key_type, std::string>) {
    std::ostringstream text;
    text << address;
    return text.str();
  } else {
    return address;
  }
}

/// An optional generator as this LibTorch's operators take it: `c10::optional` was a class of its own before 2.x.
inline auto torch_generator(const std::optional<at::Generator>& generator) {
#if TORCH_VERSION_MAJOR < 2
  return generator ? c10::optional<at::Generator>(*generator) : c10::optional<at::Generator>();
#else
  return generator;
#endif
}

template <typename Method>
struct ArgumentOf;
template <typename Result, typename Argument>
struct ArgumentOf<Result (torch::nn::Module::*)(const Argument&) const> {
  using type = Argument;
};

/// The optional device that `torch::nn::Module::clone` takes: a class of c10 in older releases, of std in newer ones.
using OptionalDevice = ArgumentOf<decltype(&torch::nn::Module::clone)>::type;

/// Whether autocast is on for operators on this tensor's device.
inline bool is_autocast(const Tensor& tensor) {
  const auto key = tensor.device().is_cpu() ? c10::DispatchKey::AutocastCPU : c10::DispatchKey::AutocastCUDA;
  return !c10::impl::tls_is_dispatch_key_excluded(key);
}

/// softmax(q k^T / sqrt(d)) v, for q, k and v of shape (B,heads,N,d), by a kernel of LibTorch that never holds all N x
/// N scores; an undefined tensor where this release has none (before 2.2 on the CPU).
inline Tensor fused_attention([[maybe_unused]] const Tensor& q, [[maybe_unused]] const Tensor& k,
                              [[maybe_unused]] const Tensor& v) {
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 2)
  return at::scaled_dot_product_attention(q, k, v);
#else
  return {};
#endif
}

/// A dtype that LibTorch 1.13 does not have, by its name in Python, such as "uint16"; nothing where this release does
/// not have it either.
inline constexpr std::optional<torch::ScalarType> newer_dtype([[maybe_unused]] std::string_view name) {
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 3)
  if (name == "uint16") return torch::ScalarType::UInt16;
  if (name == "uint32") return torch::ScalarType::UInt32;
  if (name == "uint64") return torch::ScalarType::UInt64;
  if (name == "float8_e4m3fn") return torch::ScalarType::Float8_e4m3fn;
  if (name == "float8_e5m2") return torch::ScalarType::Float8_e5m2;
  if (name == "float8_e4m3fnuz") return torch::ScalarType::Float8_e4m3fnuz;
  if (name == "float8_e5m2fnuz") return torch::ScalarType::Float8_e5m2fnuz;
#endif
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 7)
  if (name == "float8_e8m0fnu") return torch::ScalarType::Float8_e8m0fnu;
#endif
  return std::nullopt;
}

}  // namespace smooseg::detail
