#include "data/feature_files.hpp"

#include <c10/util/Exception.h>
#include <torch/types.h>

#include <cmath>
#include <map>
#include <stdexcept>
#include <utility>

#include "data/codec.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/io/safetensors.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;
using codec::fail;

constexpr auto kTensor = "features";

/// Copies as float32; LibTorch's operators would start threads of their own. @return whether all values are finite.
template <class T>
bool widen(const Tensor& from, float* to) {
  const auto* const values = from.data_ptr<T>();
  bool finite = true;
  for (int64_t i = 0; i < from.numel(); ++i) {
    to[i] = static_cast<float>(values[i]);
    finite &= std::isfinite(to[i]);
  }
  return finite;
}

bool widen(const Tensor& from, float* to) {
  switch (from.scalar_type()) {
    case torch::kFloat16:
      return widen<at::Half>(from, to);
    case torch::kBFloat16:
      return widen<at::BFloat16>(from, to);
    case torch::kFloat64:
      return widen<double>(from, to);
    default:
      return widen<float>(from, to);
  }
}

bool is_readable(torch::Dtype dtype) {
  return dtype == torch::kFloat32 || dtype == torch::kFloat16 || dtype == torch::kBFloat16 || dtype == torch::kFloat64;
}

}  // namespace

FeatureFiles::FeatureFiles(fs::path folder) : folder_(std::move(folder)) {
  if (!fs::is_directory(folder_)) {
    throw std::runtime_error("--features-dir: expected a folder, found " +
                             std::string(fs::exists(folder_) ? "a file" : "nothing") + ": " + folder_.string());
  }
}

fs::path FeatureFiles::path_of(const std::string& picture) const {
  return folder_ / (picture + ".safetensors");
}

void FeatureFiles::expect_channels(int64_t channels, const std::string& whose) {
  channels_ = channels;
  whose_ = whose;
}

Tensor FeatureFiles::read(const std::string& picture) const {
  const fs::path path = path_of(picture);
  if (!fs::is_regular_file(path)) fail(path, "the features of the picture '" + picture + "'", "no such file");
  Tensor stored;
  try {
    const auto tensors = io::read_safetensors(path.string());
    const auto found = tensors.find(kTensor);
    if (found == tensors.end()) {
      std::string names;
      for (const auto& item : tensors) names += (names.empty() ? "" : ", ") + item.first;
      fail(path, std::string("a tensor '") + kTensor + "'", names.empty() ? "none" : names);
    }
    stored = found->second;
  } catch (const c10::Error& e) {
    throw std::runtime_error(e.what_without_backtrace());
  }
  if (stored.dim() != 3 || stored.numel() == 0 || (channels_ > 0 && stored.size(0) != channels_) ||
      !is_readable(stored.scalar_type())) {
    fail(path,
         "features of shape (" + (channels_ > 0 ? std::to_string(channels_) : "C") +
             ", h, w), float32, float16, bfloat16 or float64" +
             (channels_ > 0 ? ", with the channels of " + whose_ : ""),
         smooseg::detail::shape_of(stored) + ", " + c10::toString(stored.scalar_type()));
  }
  Tensor features = torch::empty(stored.sizes(), torch::kFloat32);
  if (!widen(stored, features.data_ptr<float>())) fail(path, "finite features", "nan or infinite values");
  return features;
}

std::string feature_name(const Dataset& dataset, const Sample& sample) {
  return dataset.split.empty() ? sample.name : dataset.split + "/" + sample.name;
}

std::optional<FeatureFiles> open_feature_files(const ModelSettings& settings, const std::string& folder) {
  const bool wanted = settings.backbone == kFeaturesBackbone;
  if (wanted && folder.empty()) {
    throw std::runtime_error(std::string("--features-dir: the backbone '") + kFeaturesBackbone +
                             "' needs the folder with the features of the pictures");
  }
  if (!wanted && !folder.empty()) {
    throw std::runtime_error("--features-dir: the backbone '" + settings.backbone +
                             "' computes its features; those of files are for --backbone " + kFeaturesBackbone);
  }
  return wanted ? std::optional<FeatureFiles>(folder) : std::nullopt;
}

}  // namespace smooseg::app
