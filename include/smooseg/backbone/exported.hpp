#pragma once

// Modules exported from Python as backbones: TorchScript (`torch.jit.trace`, `torch.jit.script`), and AOTInductor's
// packages (.pt2) where LibTorch has their loader. Such a file is a program: load none that you would not run.

#include <c10/util/Exception.h>
#include <torch/arg.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/nn/pimpl.h>
#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <ostream>
#include <sstream>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "smooseg/backbone/backbone.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/detail/torch_compat.hpp"
#if SMOOSEG_HAS_AOTI_PACKAGES
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#endif

namespace smooseg {
namespace detail {

/// What an exported file says about itself: texts by names such as "smooseg.patch_size".
using ExportedMetadata = std::unordered_map<std::string, std::string>;

/// The names that `backbone::Exported` knows.
inline ExportedMetadata known_metadata() {
  ExportedMetadata metadata;
  for (const char* name : {"patch_size", "channels", "skip_tokens", "image_size", "mean", "std"}) {
    metadata.emplace(std::string("smooseg.") + name, "");
  }
  return metadata;
}

/// The reason in what LibTorch throws: where a program failed, the line after its traceback, else the first one.
inline std::string reason_of(const std::exception& error) {
  const auto* const own = dynamic_cast<const c10::Error*>(&error);
  const std::string text = own == nullptr ? error.what() : own->what_without_backtrace();
  const bool has_traceback = text.find("Traceback of TorchScript") != std::string::npos;
  std::istringstream lines(text);
  std::string reason;
  for (std::string line; std::getline(lines, line) && (has_traceback || reason.empty());) {
    if (line.find_first_not_of(" \t") != std::string::npos) reason = line;
  }
  return reason;
}

/// A program loaded from a file: one tensor in, one out.
class ExportedProgram {
 public:
  ExportedProgram() = default;
  ExportedProgram(const ExportedProgram&) = delete;
  ExportedProgram& operator=(const ExportedProgram&) = delete;
  virtual ~ExportedProgram() = default;

  virtual Tensor run(const Tensor& images) = 0;
  virtual void to(torch::Device device) = 0;
  virtual void to(torch::Dtype dtype) = 0;
  virtual torch::Device device() const = 0;
  /// What images are converted to; nothing: they are left as they are.
  virtual std::optional<torch::Dtype> dtype() const = 0;
  /// Whether it notices itself where images do not have the size that it was made for.
  virtual bool checks_sizes() const = 0;
  /// Of its parameters and buffers, about.
  virtual int64_t bytes() const = 0;
  virtual std::shared_ptr<ExportedProgram> copy() = 0;

  ExportedMetadata metadata;
};

class ScriptedProgram : public ExportedProgram {
 public:
  explicit ScriptedProgram(const std::string& path) {
    metadata = known_metadata();
    try {
      module_ = torch::jit::load(path, torch::Device(torch::kCPU), metadata);
    } catch (const std::exception& e) {
      TORCH_CHECK(false, path, ": expected a TorchScript module, as torch.jit.save writes it (a file of weights alone ",
                  "is no module: load those into a backbone that is known by name); LibTorch says: ", reason_of(e));
    }
    TORCH_CHECK(module_.find_method("forward"), path, ": the module has no method forward");
    module_.eval();
  }
  ScriptedProgram(const torch::jit::Module& module, torch::Device device) : module_(module), device_(device) {}

  Tensor run(const Tensor& images) override {
    const c10::IValue result = module_.forward({images});
    TORCH_CHECK(result.isTensor(), "it gives a ", result.tagKind(), ", expected a tensor");
    return result.toTensor();
  }
  void to(torch::Device device) override {
    module_.to(device);
    device_ = device;
  }
  void to(torch::Dtype dtype) override { module_.to(dtype); }
  torch::Device device() const override { return device_; }
  std::optional<torch::Dtype> dtype() const override {
    for (const Tensor& parameter : module_.parameters()) {
      if (parameter.is_floating_point()) return parameter.scalar_type();
    }
    return std::nullopt;
  }
  bool checks_sizes() const override { return true; }
  int64_t bytes() const override {
    int64_t sum = 0;
    for (const Tensor& parameter : module_.parameters()) sum += static_cast<int64_t>(parameter.nbytes());
    for (const Tensor& buffer : module_.buffers()) sum += static_cast<int64_t>(buffer.nbytes());
    return sum;
  }
  std::shared_ptr<ExportedProgram> copy() override {
    return std::make_shared<ScriptedProgram>(module_.deepcopy(), device_);
  }

 private:
  torch::jit::Module module_;
  torch::Device device_ = torch::kCPU;
};

#if SMOOSEG_HAS_AOTI_PACKAGES
class PackagedProgram : public ExportedProgram, public std::enable_shared_from_this<PackagedProgram> {
 public:
  explicit PackagedProgram(const std::string& path) {
    try {
      size_ = static_cast<int64_t>(std::filesystem::file_size(path));
      loader_ = std::make_unique<torch::inductor::AOTIModelPackageLoader>(path);
      metadata = loader_->get_metadata();
    } catch (const std::exception& e) {
      TORCH_CHECK(false, path, ": expected a package of AOTInductor, as torch._inductor.aoti_compile_and_package ",
                  "writes it; LibTorch says: ", reason_of(e));
    }
    const auto found = metadata.find("AOTI_DEVICE_KEY");
    if (found != metadata.end() && found->second != "cpu") device_ = torch::Device(found->second + ":0");
  }

  Tensor run(const Tensor& images) override {
    const std::vector<Tensor> results = loader_->run({images.contiguous()});
    TORCH_CHECK(results.size() == 1, "it gives ", results.size(), " tensors, expected one");
    return results.front();
  }
  void to(torch::Device device) override {
    TORCH_CHECK(device.type() == device_.type(), "a package of AOTInductor runs where it was compiled for, on ",
                device_, ", and cannot be moved to ", device);
  }
  void to(torch::Dtype dtype) override {
    TORCH_CHECK(dtype == torch::kFloat32, "a package of AOTInductor cannot be converted to ", dtype);
  }
  torch::Device device() const override { return device_; }
  std::optional<torch::Dtype> dtype() const override { return torch::kFloat32; }
  bool checks_sizes() const override { return false; }
  int64_t bytes() const override { return size_; }
  std::shared_ptr<ExportedProgram> copy() override { return shared_from_this(); }  // nothing in it changes

 private:
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader_;
  int64_t size_ = 0;  // of the file, since a package does not tell that of its parameters
  torch::Device device_ = torch::kCPU;
};
#endif

inline std::shared_ptr<ExportedProgram> load_exported(const std::string& path) {
  std::error_code error;
  TORCH_CHECK(std::filesystem::is_regular_file(path, error), path, ": expected the file of an exported module, found ",
              std::filesystem::is_directory(path, error) ? "a folder" : "nothing");
  if (std::filesystem::path(path).extension() != ".pt2") return std::make_shared<ScriptedProgram>(path);
#if SMOOSEG_HAS_AOTI_PACKAGES
  return std::make_shared<PackagedProgram>(path);
#else
  TORCH_CHECK(false, path, ": packages of AOTInductor (.pt2) need LibTorch 2.6 or newer, this is ", TORCH_VERSION,
              ": export a TorchScript module (.pt)");
#endif
}

}  // namespace detail

namespace backbone {

/// What the file of an exported module does not say about itself, or says wrongly.
struct ExportedOptions {
  /// Side of a patch in pixels. 0: "smooseg.patch_size" of the file's metadata, else found from the size of a map.
  TORCH_ARG(int64_t, patch_size) = 0;
  /// Number of tokens before those of the patches (class token, registers). Unset: "smooseg.skip_tokens", else 0
  TORCH_ARG(std::optional<int64_t>, skip_tokens) = std::nullopt;
  /// Side in pixels of the squares that the module takes, if it takes nothing else. 0: "smooseg.image_size", else any.
  TORCH_ARG(int64_t, image_size) = 0;
  /// What images are normalised with. Unset: "smooseg.mean" and "smooseg.std", three numbers each, else ImageNet's.
  TORCH_ARG(std::optional<Rgb>, mean) = std::nullopt;
  TORCH_ARG(std::optional<Rgb>, std) = std::nullopt;
};

/// A module exported from Python, that maps images (B,3,H,W) to one tensor: a map (B,C,h,w), or tokens (B,T,C), of which
/// the last h * w are the patches, row by row. What must be known of it stands in the options or in the file's metadata
/// (`_extra_files` of torch.jit.save, `aot_inductor.metadata` of a package), as examples/python/export_backbone.py writes
/// it, and is checked on a first picture. The module computes in the dtype and with the settings that it was exported
/// with; its parameters are no parameters of this one, so they are neither saved nor loaded with it: keep the file.
///
/// **A module is code.** TorchScript runs in an interpreter that can read files; a package is a shared library, which can
/// do whatever the process can. Load only those whose maker you trust.
class ExportedImpl : public Backbone {
 public:
  /// @param path of TorchScript (any name), or of a package of AOTInductor (.pt2).
  /// @throws c10::Error beginning with the path where there is no such file, it holds something else, metadata are
  ///   damaged, or the module fails on a picture, or gives something else than its metadata and the options say.
  explicit ExportedImpl(std::string path, const ExportedOptions& options_ = {})
      : options(options_), path_(std::move(path)), program_(detail::load_exported(path_)) {
    complete_options();
    try_a_picture();
  }

  /// @return (B,C,H/p,W/p), in the dtype of the images.
  Tensor features(const Tensor& images) override {
    constexpr auto kName = "smooseg::backbone::Exported::features";
    check_images(images, kName);
    TORCH_CHECK(images.device() == program_->device(), kName, ": expected images and the module on one device, got ",
                images.device(), " and ", program_->device());
    const int64_t size = options.image_size();
    TORCH_CHECK(size == 0 || (images.size(2) == size && images.size(3) == size), kName, ": expected images of ", size,
                " x ", size, " pixels, which ", path_, " was exported for, got ", images.size(2), " x ",
                images.size(3));
    const Tensor map = map_of(run(images), images);
    TORCH_CHECK(map.size(1) == channels_, path_, ": expected ", channels_, " channels, as for the first picture, got ",
                map.size(1));
    return map;
  }

  int64_t patch_size() const override { return options.patch_size(); }
  int64_t channels() const override { return channels_; }
  Rgb mean() const override { return *options.mean(); }
  Rgb std() const override { return *options.std(); }

  /// Side in pixels of the squares that it takes; 0: pictures of any size.
  int64_t image_size() const { return options.image_size(); }

  const std::string& path() const { return path_; }

  /// Bytes of the module's parameters and buffers; of a package, which does not tell, of its file.
  int64_t bytes() const { return program_->bytes(); }

  // Not `using Backbone::to`: these hide it, and are all there are.
  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false) override {
    to(device, non_blocking);
    to(dtype, non_blocking);
  }
  void to(torch::Dtype dtype, bool /*non_blocking*/ = false) override {
    guarded([&] { program_->to(dtype); });
  }
  void to(torch::Device device, bool /*non_blocking*/ = false) override {
    guarded([&] { program_->to(device); });
  }

  /// A deep copy (of a package, which never changes, another handle).
  std::shared_ptr<torch::nn::Module> clone(const detail::OptionalDevice& device = {}) const override {
    std::shared_ptr<ExportedImpl> copy(new ExportedImpl(*this, program_->copy()));
    copy->train(is_training());
    if (device) copy->to(*device);
    return copy;
  }

  void pretty_print(std::ostream& stream) const override {
    stream << "smooseg::backbone::Exported(path=" << path_ << ", patch_size=" << patch_size()
           << ", channels=" << channels_ << ", image_size=";
    if (image_size() > 0) {
      stream << image_size() << ")";
    } else {
      stream << "any)";
    }
  }

  /// Those given, completed with what the file says and what was found.
  ExportedOptions options;

 private:
  ExportedImpl(const ExportedImpl& other, std::shared_ptr<detail::ExportedProgram> program)
      : options(other.options), path_(other.path_), program_(std::move(program)), channels_(other.channels_) {}

  template <class F>
  void guarded(const F& f) const {
    try {
      f();
    } catch (const std::exception& e) {
      TORCH_CHECK(false, path_, ": ", detail::reason_of(e));
    }
  }

  /// The text under a name in the file's metadata, "" where there is none.
  std::string metadata(const std::string& name) const {
    const auto found = program_->metadata.find("smooseg." + name);
    return found == program_->metadata.end() ? "" : found->second;
  }

  /// The numbers in a text of the metadata; none where there is no such text.
  template <class Number>
  std::vector<Number> numbers(const std::string& name, std::size_t count, Number lowest, const char* expected) const {
    const std::string text = metadata(name);
    if (text.empty()) return {};
    std::istringstream words(text);
    std::vector<Number> values;
    for (Number value; words >> value;) values.push_back(value);
    const bool right = std::all_of(values.begin(), values.end(), [&](Number value) { return value >= lowest; });
    TORCH_CHECK(words.eof() && values.size() == count && right, path_, ": expected 'smooseg.", name,
                "' of its metadata to be ", expected, ", found '", text.substr(0, 80), "'");
    return values;
  }

  std::optional<int64_t> whole_number(const std::string& name, int64_t lowest) const {
    const std::string expected = "a whole number of at least " + std::to_string(lowest);
    const auto values = numbers<int64_t>(name, 1, lowest, expected.c_str());
    return values.empty() ? std::nullopt : std::optional<int64_t>(values.front());
  }

  std::optional<Rgb> three_numbers(const std::string& name) const {
    const bool divides = name == "std";
    const auto values =
        numbers<double>(name, 3, divides ? 1e-6 : -1e6, divides ? "three numbers above 0" : "three numbers");
    if (values.empty()) return std::nullopt;
    return Rgb{values[0], values[1], values[2]};
  }

  /// Fills in what was not given from the metadata, and defaults.
  void complete_options() {
    constexpr auto kName = "smooseg::backbone::Exported";
    TORCH_CHECK(options.patch_size() >= 0 && options.image_size() >= 0 && options.skip_tokens().value_or(0) >= 0, kName,
                ": expected patch_size, image_size and skip_tokens of at least 0, got ", options.patch_size(), ", ",
                options.image_size(), " and ", options.skip_tokens().value_or(0));
    for (const double deviation : options.std().value_or(kImageNetStd)) {
      TORCH_CHECK(deviation > 0, kName, ": expected deviations above 0, got ", deviation);
    }
    if (options.patch_size() == 0) options.patch_size(whole_number("patch_size", 1).value_or(0));
    if (options.image_size() == 0) options.image_size(whole_number("image_size", 1).value_or(0));
    if (!options.skip_tokens()) options.skip_tokens(whole_number("skip_tokens", 0).value_or(0));
    if (!options.mean()) options.mean(three_numbers("mean").value_or(kImageNetMean));
    if (!options.std()) options.std(three_numbers("std").value_or(kImageNetStd));
    TORCH_CHECK(options.image_size() > 0 || program_->checks_sizes(), path_,
                ": a package of AOTInductor does not check ",
                "the size of its images: say which it was compiled for, by 'smooseg.image_size' of its metadata or ",
                "ExportedOptions::image_size");
    const int64_t p = options.patch_size();
    TORCH_CHECK(p == 0 || options.image_size() % p == 0, path_, ": expected an image size that is a multiple of the ",
                "patch size, got ", options.image_size(), " and ", p);
  }

  /// Finds the patch size, if it is not known, and the number of channels, and checks what is said of them.
  void try_a_picture() {
    constexpr int64_t kSide = 224;
    const int64_t p = std::max<int64_t>(1, options.patch_size());
    const int64_t side = options.image_size() > 0 ? options.image_size() : std::max(p, kSide / p * p);
    // Any picture will do that is not the same everywhere.
    const Tensor image = torch::sin(torch::arange(3 * side * side, torch::kFloat32) * 0.1)
                             .view({1, 3, side, side})
                             .to(program_->device());
    const Tensor result = run(image);
    if (options.patch_size() == 0) {
      TORCH_CHECK(result.dim() == 4, path_,
                  ": expected the patch size, which tokens do not tell, in 'smooseg.patch_size' ",
                  "of its metadata or ExportedOptions::patch_size; for a picture of ", side, " x ", side,
                  " pixels it gives ", detail::shape_of(result));
      TORCH_CHECK(result.size(2) == result.size(3) && result.size(2) > 0 && side % result.size(2) == 0, path_,
                  ": expected a square map, whose side divides that of the picture, for one of ", side, " x ", side,
                  " pixels, got ", detail::shape_of(result));
      options.patch_size(side / result.size(2));
    }
    const Tensor map = map_of(result, image);
    channels_ = map.size(1);
    const int64_t said = whole_number("channels", 1).value_or(channels_);
    TORCH_CHECK(channels_ == said, path_, ": expected ", said, " channels, as its metadata say, got ", channels_);
    TORCH_CHECK(map.isfinite().all().item<bool>(), path_, ": its features of a first picture are not finite");
  }

  Tensor run(const Tensor& images) {
    const torch::NoGradGuard no_grad;
    Tensor result;
    std::string reason = "it gives an undefined tensor";
    try {
      result = program_->run(images.to(program_->dtype().value_or(images.scalar_type())));
    } catch (const std::exception& e) {
      reason = detail::reason_of(e);
    }
    TORCH_CHECK(result.defined(), path_, ": the module fails on images of ", detail::shape_of(images), ": ", reason);
    return result;
  }

  /// The map in what the module gives for images.
  Tensor map_of(const Tensor& result, const Tensor& images) const {
    const int64_t p = patch_size(), batch = images.size(0), height = images.size(2) / p, width = images.size(3) / p;
    const int64_t patches = height * width, skip = *options.skip_tokens();
    const bool is_map = result.dim() == 4;
    const bool right = is_map ? result.size(0) == batch && result.size(2) == height && result.size(3) == width
                              : result.dim() == 3 && result.size(0) == batch && result.size(1) == skip + patches;
    TORCH_CHECK(result.is_floating_point() && right && result.numel() > 0, path_, ": for images of ",
                detail::shape_of(images), " expected a floating map of shape (", batch, ", C, ", height, ", ", width,
                ") or tokens of shape (", batch, ", ", skip + patches, ", C), with patches of ", p, " pixels and ",
                skip, " tokens before theirs, got ", detail::shape_of(result), ", ", result.scalar_type());
    const Tensor map =
        is_map ? result : result.narrow(1, skip, patches).transpose(1, 2).reshape({batch, -1, height, width});
    return map.to(images.scalar_type()).contiguous();
  }

  std::string path_;
  std::shared_ptr<detail::ExportedProgram> program_;
  int64_t channels_ = 0;
};
TORCH_MODULE(Exported);

}  // namespace backbone
}  // namespace smooseg
