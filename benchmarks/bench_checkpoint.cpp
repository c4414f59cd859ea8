// Opening a checkpoint, and loading it into a module. The textbook form reads the whole file into memory first; of a
// .pth it then calls torch::pickle_load, which reads what torch::pickle_save wrote, if not what Python does.
//
// The files are written into the temporary folder, and so are in the system's cache when they are read.

#include <torch/nn/module.h>
#include <torch/serialize.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "smooseg/io/load.hpp"
#include "support.hpp"

namespace {

namespace fs = std::filesystem;
namespace io = smooseg::io;

constexpr int64_t kTensors = 64;

/// 64 tensors of together `megabytes` (2^20 bytes).
io::TensorMap make_tensors(int64_t megabytes) {
  io::TensorMap tensors;
  for (int64_t i = 0; i < kTensors; ++i) {
    tensors["tensor" + std::to_string(i)] =
        torch::full({megabytes * (1 << 20) / kTensors / 4096, 1024}, static_cast<float>(i));
  }
  return tensors;
}

/// The files of a run, each written when it is first asked for and removed at the end.
class Files {
 public:
  Files() = default;
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;
  ~Files() {
    std::error_code ignored;
    for (const auto& [key, path] : paths_) fs::remove(path, ignored);
  }

  /// @param kind ".safetensors" or ".pth".
  const std::string& get(const std::string& kind, int64_t megabytes) {
    std::string& path = paths_[{kind, megabytes}];
    if (!path.empty()) return path;
    path = (fs::temp_directory_path() / ("smooseg-bench-" + std::to_string(megabytes) + kind)).string();
    const io::TensorMap tensors = make_tensors(megabytes);
    if (kind == ".safetensors") {
      io::write_safetensors(path, tensors);
    } else {
      c10::Dict<std::string, torch::Tensor> dict;
      for (const auto& [name, tensor] : tensors) dict.insert(name, tensor);
      const std::vector<char> bytes = torch::pickle_save(dict);
      std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    }
    return path;
  }

 private:
  std::map<std::pair<std::string, int64_t>, std::string> paths_;
};

Files& files() {
  static Files files;
  return files;
}

std::vector<char> read_all(const std::string& path) {
  std::vector<char> bytes(fs::file_size(path));
  std::ifstream(path, std::ios::binary).read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

io::TensorMap read_safetensors_naive(const std::string& path) {
  const std::vector<char> bytes = read_all(path);
  return io::detail::parse_safetensors(io::detail::FileBytes::copy_of(path, {bytes.data(), bytes.size()})).tensors;
}

io::TensorMap read_pth_naive(const std::string& path) {
  io::TensorMap tensors;
  for (const auto& item : torch::pickle_load(read_all(path)).toGenericDict()) {
    tensors[item.key().toStringRef()] = item.value().toTensor();
  }
  return tensors;
}

/// A line of /proc/self/status in 10^6 bytes; 0 where there is none.
double status_megabytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    double kilobytes = 0;
    if (word == field + ":" && status >> kilobytes) return kilobytes * 1024 / 1e6;
  }
  return 0;
}

/// Runs `step` again and again. Counters, of the first time: held_MB, the memory that its result takes; peak_MB, the
/// most that the process has at any moment, which counts pages of the system's file cache too where a mapped file is
/// looked at; bytes_per_second.
template <class Step>
void measure(benchmark::State& state, const Step& step) {
  std::ofstream("/proc/self/clear_refs") << "5";  // forget the peak so far
  const double before = status_megabytes("RssAnon"), peak_before = status_megabytes("VmHWM");
  {
    const auto result = step();
    state.counters["held_MB"] = status_megabytes("RssAnon") - before;
    state.counters["peak_MB"] = status_megabytes("VmHWM") - peak_before;
  }
  for (auto _ : state) step();
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * state.range(0) * (1 << 20));
}

template <class Read>
void run_open(benchmark::State& state, const std::string& kind, const Read& read) {
  const std::string path = files().get(kind, state.range(0));
  measure(state, [&] { return read(path); });
}

/// A module that has exactly the tensors of the files.
struct Module : torch::nn::Module {
  explicit Module(int64_t megabytes) {
    for (auto& [name, tensor] : make_tensors(megabytes)) register_parameter(name, tensor);
  }
};

template <class Read>
void run_load(benchmark::State& state, const std::string& kind, const Read& read) {
  Module module(state.range(0));
  const std::string path = files().get(kind, state.range(0));
  measure(state, [&] { return io::load_tensors(module, read(path)); });
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [] {
    const auto add = [](const char* name, void (*function)(benchmark::State&)) {
      bench::add(name, function, {"MB"})->Arg(64)->Arg(1024);
    };
    add("BM_OpenSafetensors", [](benchmark::State& state) { run_open(state, ".safetensors", io::read_safetensors); });
    add("BM_OpenSafetensorsNaive",
        [](benchmark::State& state) { run_open(state, ".safetensors", read_safetensors_naive); });
    add("BM_OpenPth", [](benchmark::State& state) { run_open(state, ".pth", io::read_torch_checkpoint); });
    add("BM_OpenPthNaive", [](benchmark::State& state) { run_open(state, ".pth", read_pth_naive); });
    add("BM_LoadSafetensors", [](benchmark::State& state) { run_load(state, ".safetensors", io::read_safetensors); });
    add("BM_LoadSafetensorsNaive",
        [](benchmark::State& state) { run_load(state, ".safetensors", read_safetensors_naive); });
    add("BM_LoadPth", [](benchmark::State& state) { run_load(state, ".pth", io::read_torch_checkpoint); });
    add("BM_LoadPthNaive", [](benchmark::State& state) { run_load(state, ".pth", read_pth_naive); });
  });
}
