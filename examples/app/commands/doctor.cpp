// `smooseg doctor`: what this machine and this LibTorch can do, and what to mend where they are slow; or what a backbone
// gives.

#include "commands/doctor.hpp"

#include <ATen/Config.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/cuda.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <optional>
#include <thread>
#include <tuple>

#include "commands/command_line.hpp"
#include "data/image_file.hpp"
#include "data/scenes.hpp"
#include "features/examination.hpp"
#include "features/precision.hpp"
#include "features/training_features.hpp"
#include "model/model.hpp"
#include "settings/backbone_files.hpp"
#include "smooseg/backbone/exported.hpp"
#include "smooseg/detail/torch_compat.hpp"
#include "smooseg/version.hpp"
#include "support/disk.hpp"
#include "support/key_value_store.hpp"
#include "support/process_group.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

struct DoctorSettings {
  RuntimeSettings runtime;
  ModelSettings model;
  bool has_backbone = false;
  std::string weights, features_dir, data;
  int64_t pictures = 8;
};

void add_options(CLI::App& app, DoctorSettings& s) {
  add_options(app, s.runtime);
  add_options(app, s.model, SettingScope::kFeatures);
  auto* const backbone = app.get_option("--backbone")->each([&s](const std::string&) { s.has_backbone = true; });
  backbone->default_str("")->description("examine this backbone, instead of the machine");
  const auto of_backbone = [&](const char* name, auto& value, const char* description) {
    return app.add_option(name, value, description)->needs(backbone)->group(backbone->get_group());
  };
  of_backbone("--weights", s.weights, "its weights, or the exported module, which is run")->type_name("FILE");
  of_backbone("--features-dir", s.features_dir, "of features: folder with one safetensors file a picture")
      ->type_name("DIR");
  of_backbone("--data", s.data, "pictures to examine it with: a data set or a folder; default: made-up scenes")
      ->type_name("DIR");
  of_backbone("--pictures", s.pictures, "how many of them, evenly spaced")->check(from_to(2, 1000));
}

/// Billions of operations per second of a square matrix product; 0 where the dtype has none on this device.
double measure_gflops(torch::Device device, torch::ScalarType dtype, int64_t size) {
  using Clock = std::chrono::steady_clock;
  try {
    const torch::NoGradGuard no_grad;
    const Tensor a = torch::rand({size, size}, device).to(dtype), b = torch::rand({size, size}, device).to(dtype);
    const auto wait = [&] {
      if (device.is_cuda()) torch::cuda::synchronize(device.index());
    };
    at::mm(a, b);
    wait();
    int64_t products = 0;
    const auto begin = Clock::now();
    double seconds = 0;
    for (; seconds < 0.3; seconds = std::chrono::duration<double>(Clock::now() - begin).count()) {
      at::mm(a, b);
      wait();
      ++products;
    }
    const auto n = static_cast<double>(size);
    return 2 * n * n * n * static_cast<double>(products) / seconds * 1e-9;
  } catch (const c10::Error&) {
    return 0;
  }
}

/// The BLAS that multiplies matrices. LibTorch's own description cannot tell where it calls the system's, but the
/// process has it loaded.
std::string blas_name() {
  if (at::hasMKL()) return "MKL";
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const auto path = line.find('/');
    const std::string file = line.substr(line.find_last_of('/') + 1);
    if (path != std::string::npos && file.find("blas") != std::string::npos && file.rfind("libcublas", 0) != 0) {
      return line.substr(path);
    }
  }
  return "unknown";
}

/// A line's beginning.
std::ostream& line(std::ostream& out, const std::string& name) {
  return out << std::left << std::setw(22) << name;
}

void print_advice(std::ostream& out, const std::vector<std::string>& advice) {
  out << "\n";
  if (advice.empty()) out << "Nothing to mend.\n";
  for (const auto& text : advice) out << "- " << text << "\n";
  out << std::flush;
}

/// A folder of made-up scenes until the end of the scope.
class TemporaryScenes {
 public:
  explicit TemporaryScenes(int64_t count) {
    std::string pattern = (fs::temp_directory_path() / "smooseg-XXXXXX").string();
    TORCH_CHECK(::mkdtemp(pattern.data()) != nullptr, pattern,
                ": cannot make this folder for made-up scenes: say --data");
    path_ = pattern;
    SceneOptions options;
    options.train = count;
    options.test = 1;
    write_scenes(path_, options);
  }
  ~TemporaryScenes() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryScenes(const TemporaryScenes&) = delete;
  TemporaryScenes& operator=(const TemporaryScenes&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// Some of a data set's pictures, evenly spaced.
Dataset chosen_pictures(const fs::path& data, int64_t count) {
  Dataset dataset = open_dataset(data, "train", Labels::kNone);
  const auto all = static_cast<int64_t>(dataset.samples.size());
  TORCH_CHECK(all > 1, data.string(), ": expected at least two pictures to compare, found one");
  std::vector<Sample> chosen;
  for (int64_t i = 0; i < std::min(count, all); ++i) {
    chosen.push_back(dataset.samples[static_cast<std::size_t>(i * all / std::min(count, all))]);
  }
  dataset.samples = chosen;
  return dataset;
}

/// Bytes of a backbone's parameters, of an exported module those of the module.
int64_t weight_bytes(const backbone::Backbone& backbone) {
  if (const auto* const exported = dynamic_cast<const backbone::ExportedImpl*>(&backbone)) return exported->bytes();
  int64_t bytes = 0;
  for (const Tensor& parameter : backbone.parameters()) bytes += static_cast<int64_t>(parameter.nbytes());
  return bytes;
}

void print(std::ostream& out, const Examination& e, int64_t weights, const std::string& pictures) {
  const auto milliseconds = [&](double seconds) {
    std::ostringstream text;
    text << std::setprecision(3) << 1e3 * seconds << " ms";
    return text.str();
  };
  line(out, "pictures") << pictures << "\n";
  line(out, "features") << e.shape[0] << " channels, " << e.shape[1] << " x " << e.shape[2] << " patches a picture\n";
  line(out, "values") << std::setprecision(4) << e.lowest << " to " << e.highest << "\n";
  line(out, "time of a picture") << milliseconds(e.seconds) << " (the first: " << milliseconds(e.first_seconds)
                                 << ")\n";
  line(out, "memory of a picture") << readable_bytes(static_cast<double>(e.memory)) << " of the host, beside "
                                   << readable_bytes(static_cast<double>(weights)) << " of parameters\n";
  line(out, "closeness") << std::right << std::setw(8) << "mean" << std::setw(11) << "deviation";
  for (const double q : ClosenessStatistics::kQuantiles) out << std::setw(6) << std::llround(100 * q) << " %";
  out << "\n" << std::fixed << std::setprecision(3);
  const auto row = [&](const char* name, const ClosenessStatistics& s) {
    line(out, name) << std::right << std::setw(8) << s.mean << std::setw(11) << s.deviation;
    for (const double value : s.quantiles) out << std::setw(8) << value;
    out << "\n";
  };
  if (e.shape[1] * e.shape[2] > 1) {
    row("  within a picture", e.within);
    row("  across pictures", e.across);
  }
  row("  at the same place", e.same_place);
}

/// Features of some pictures, and what they are like.
void examine_backbone(const DoctorSettings& s, const Console& console) {
  const torch::Device device = start(s.runtime, console.err);
  const bool made_up = s.data.empty();
  const auto files = open_feature_files(s.model, s.features_dir);
  TORCH_CHECK(!made_up || !files, "--data is required with --features-dir: the pictures whose features they are");
  const std::string weights = chosen_weights(s.model, s.weights);
  std::optional<TemporaryScenes> scenes;
  if (made_up) scenes.emplace(s.pictures);
  const Dataset dataset = chosen_pictures(made_up ? scenes->path() : fs::path(s.data), s.pictures);
  TrainingFeatures features(dataset, s.model, {}, device, thread_count(s.runtime), files);
  const auto whole = make_backbone(s.model, {weights, features.crops().channels()});
  features.prepare(*whole, weights, console.err);
  const auto backbone = in_precision(s.runtime, whole, device, s.model.resolution, console.err);
  std::vector<int64_t> crops(dataset.samples.size());
  for (std::size_t i = 0; i < crops.size(); ++i) crops[i] = static_cast<int64_t>(i) * features.crops().per_picture();
  const Examination found = examine(*backbone, features.crops().images(crops, normalization_of(*backbone)).to(device));
  const std::string side = std::to_string(features.crops().resolution());
  print(console.out, found, weight_bytes(*whole),
        std::to_string(crops.size()) + (made_up ? " made-up scenes" : " of " + s.data) + ", " +
            (files ? "of which features are in " + s.features_dir : side + " x " + side + " pixels"));
  print_advice(console.out, found.doubts);
}

void examine_machine(const RuntimeSettings& settings, const Console& console) {
  std::ostream& out = console.out;
  const int initial_threads = at::get_num_threads();
  start(settings, console.err);
  const auto cores = std::max(1U, std::thread::hardware_concurrency());
  line(out, "smooseg") << SMOOSEG_VERSION << "\n";
  line(out, "LibTorch") << TORCH_VERSION << ", BLAS: " << blas_name()
                        << ", oneDNN: " << (at::hasMKLDNN() ? "yes" : "no")
                        << ", OpenMP: " << (at::hasOpenMP() ? "yes" : "no") << "\n";
  std::string formats = "JPEG, PNG, BMP";
  const auto optional_formats = {std::tuple(reads_tiff(), "TIFF", "libtiff-dev"),
                                 std::tuple(reads_webp(), "WebP", "libwebp-dev"),
                                 std::tuple(reads_mat(), "MATLAB", "libmatio-dev")};
  std::vector<std::string> advice = advice_on_libtorch(at::hasMKLDNN(), at::hasOpenMP());
  for (const auto& [is_read, format, package] : optional_formats) {
    if (is_read) formats += ", " + std::string(format);
    if (!is_read) {
      advice.push_back(std::string(format) + " pictures are not read: install " + package + " and run cmake/build.sh");
    }
  }
  line(out, "pictures") << formats << "\n";
  std::string ways = has_stores() ? "c10d's store" : "not by this LibTorch, which lacks c10d";
  for (const std::string& name : process_group_names()) ways += ", " + name;
  line(out, "several processes") << ways << "\n";
  line(out, "cores") << cores << "\n";
  line(out, "threads") << at::get_num_threads() << " (LibTorch by itself: " << initial_threads << ")\n";
  out << std::fixed << std::setprecision(0);
  const double float32 = measure_gflops(torch::kCPU, torch::kFloat32, 1024);
  line(out, "float32 product") << float32 << " GFLOP/s\n";
  line(out, "bfloat16 product") << measure_gflops(torch::kCPU, torch::kBFloat16, 1024) << " GFLOP/s\n";

  const auto devices = static_cast<int>(torch::cuda::device_count());
  line(out, "CUDA devices") << devices << (at::hasCUDA() ? "" : " (this LibTorch is built without CUDA)") << "\n";
  for (int i = 0; i < devices; ++i) {
    const torch::Device device(torch::kCUDA, static_cast<c10::DeviceIndex>(i));
    line(out, "  cuda:" + std::to_string(i)) << measure_gflops(device, torch::kFloat32, 4096) << " GFLOP/s float32, "
                                             << measure_gflops(device, torch::kBFloat16, 4096) << " bfloat16\n";
  }

  constexpr double kSlowPerThread = 20;
  if (float32 < kSlowPerThread * at::get_num_threads()) {
    advice.push_back("matrix products are slow for " + std::to_string(at::get_num_threads()) +
                     " threads: on Debian install libopenblas0-openmp (update-alternatives --display "
                     "libblas.so.3-x86_64-linux-gnu shows which BLAS is used)");
  }
  if (at::get_num_threads() < static_cast<int>(cores)) {
    advice.push_back("only " + std::to_string(at::get_num_threads()) + " of " + std::to_string(cores) +
                     " cores are used: leave --threads at 0");
  }
  if (initial_threads < static_cast<int>(cores)) {
    advice.push_back("this LibTorch starts with " + std::to_string(initial_threads) +
                     " thread(s): smooseg sets them itself; in a program of your own call at::set_num_threads");
  }
  print_advice(out, advice);
}

void doctor(const DoctorSettings& s, const Console& console) {
  s.has_backbone ? examine_backbone(s, console) : examine_machine(s.runtime, console);
}

}  // namespace

std::vector<std::string> advice_on_libtorch(bool has_onednn, bool has_openmp) {
  const auto lacks = [](const std::string& part, const std::string& slow) {
    return "this LibTorch was built without " + part + ": " + slow +
           "; take another build (Debian's package and that of Python's torch have it, with Conan it is an option)";
  };
  std::vector<std::string> advice;
  if (!has_onednn) advice.push_back(lacks("oneDNN", "convolutions and bfloat16 on the CPU are slow"));
  if (!has_openmp) advice.push_back(lacks("OpenMP", "many of its operators use one thread"));
  return advice;
}

Command doctor_command() {
  return make_command("doctor", "Tell what this machine can do and what slows it down, or what a backbone gives.",
                      doctor);
}

}  // namespace smooseg::app
