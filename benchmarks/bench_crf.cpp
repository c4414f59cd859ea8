// The dense CRF, set-up included: time of a picture on one core beside a floor, pictures a second on several threads,
// and the lattice's filter beside the sum over all pairs.
//
//   SMOOSEG_PICTURE=street.ppm bench_crf     a picture of your own (binary PPM, at least 320 x 320) instead of the made-up one
//   SMOOSEG_ISA=avx2 bench_crf               BM_DenseCrf with narrower vectors than the machine has: avx2 or baseline
//
// Time depends on the number of vertices of the bilateral lattice, `vertices` for each pixel; noise multiplies it.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "smooseg/crf/dense_crf.hpp"
#include "smooseg/crf/permutohedral.hpp"

namespace {

using namespace smooseg::crf;

struct Picture {
  int64_t height, width;
  std::vector<uint8_t> pixels;  // (H,W,3)
};

/// The centre of a binary PPM file.
Picture read_ppm(const std::string& path, int64_t size) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int64_t width = 0, height = 0, largest = 0;
  file >> magic >> width >> height >> largest;
  file.get();
  if (!file || magic != "P6" || largest != 255 || std::min(width, height) < size) {
    throw std::runtime_error(path + ": expected a binary PPM of 8 bits and at least " + std::to_string(size) + " x " +
                             std::to_string(size) + " pixels");
  }
  std::vector<uint8_t> all(static_cast<size_t>(3 * width * height));
  file.read(reinterpret_cast<char*>(all.data()), static_cast<std::streamsize>(all.size()));
  Picture picture{size, size, {}};
  const int64_t top = (height - size) / 2, left = (width - size) / 2;
  for (int64_t y = 0; y < size; ++y) {
    const auto* const row = all.data() + 3 * ((top + y) * width + left);
    picture.pixels.insert(picture.pixels.end(), row, row + 3 * size);
  }
  return picture;
}

/// A street: sky, houses with windows, a road with cars, trees, all with some shading and the grain of a camera.
Picture make_street(int64_t size) {
  Picture picture{size, size, {}};
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  const double unit = static_cast<double>(size) / 320;
  for (int64_t row = 0; row < size; ++row) {
    for (int64_t column = 0; column < size; ++column) {
      const double x = static_cast<double>(column) / unit, y = static_cast<double>(row) / unit;
      double color[3] = {150 + y / 3, 180 + y / 4, 220};  // sky
      double grain = 1;
      const int house = static_cast<int>(x / 60);
      const double roof = 50 + 30 * std::sin(2.7 * house);
      const auto paint = [&](double r, double g, double b, double strength) {
        color[0] = r, color[1] = g, color[2] = b, grain = strength;
      };
      if (y > roof && y < 200) {
        const bool is_window = std::fmod(x, 20) > 8 && std::fmod(y, 30) > 14;
        const double shade = 12 * std::sin(x / 17) + 10 * std::cos(y / 23);
        if (is_window) paint(50 + shade, 55 + shade, 70 + shade, 2);
        if (!is_window) paint(120 + 20 * (house % 3) + shade, 100 + 12 * (house % 4) + shade, 85 + shade, 2.5);
      }
      if (y >= 200) paint(95 + 15 * std::sin(y / 40), 95 + 15 * std::sin(y / 40), 100 + 12 * std::sin(x / 60), 2);
      if (std::hypot(x - 265, y - 120) < 55) {
        const double leaves = 18 * std::sin(x / 3) * std::cos(y / 4);
        paint(50 + leaves, 80 + leaves, 40 + leaves, 5);
      }
      if (std::abs(x - 90) < 38 && std::abs(y - 225) < 16) paint(160 - y / 4, 25, 30, 2);
      for (const double value : color) {
        picture.pixels.push_back(static_cast<uint8_t>(std::clamp(value + grain * normal(random), 0., 255.)));
      }
    }
  }
  return picture;
}

Picture picture_of(int64_t size, int64_t noise) {
  const char* const path = std::getenv("SMOOSEG_PICTURE");
  Picture picture = path != nullptr ? read_ppm(path, size) : make_street(size);
  std::mt19937 random(2);
  std::normal_distribution<double> normal(0, static_cast<double>(noise));
  if (noise == 0) return picture;
  for (auto& value : picture.pixels) value = static_cast<uint8_t>(std::clamp(value + normal(random), 0., 255.));
  return picture;
}

/// Random energies that are equal in blocks of 8 x 8 pixels, (K,H,W).
std::vector<float> energies_of(int64_t size, int64_t classes) {
  const int64_t blocks = (size + 7) / 8;
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> coarse(static_cast<size_t>(classes * blocks * blocks)), energies;
  for (float& value : coarse) value = normal(random);
  for (int64_t k = 0; k < classes; ++k) {
    for (int64_t y = 0; y < size; ++y) {
      for (int64_t x = 0; x < size; ++x) {
        energies.push_back(coarse[static_cast<size_t>((k * blocks + y / 8) * blocks + x / 8)]);
      }
    }
  }
  return energies;
}

Permutohedral<5>::Features features_of(const Picture& picture) {
  return smooseg::crf::detail::bilateral_features(
      PairwiseTerm::bilateral(67, 3, 4), {picture.pixels.data(), 3 * picture.width},
      {static_cast<size_t>(picture.height), static_cast<size_t>(picture.width)});
}

/// The instruction set that SMOOSEG_ISA names, else the machine's widest.
smooseg::detail::Isa chosen_isa() {
  using smooseg::detail::Isa;
  const char* const name = std::getenv("SMOOSEG_ISA");
  const Isa widest = smooseg::detail::machine_isa();
  if (name == nullptr) return widest;
  const Isa isa = std::string(name) == "avx2" ? Isa::kAvx2 : Isa::kBaseline;
  if ((isa == Isa::kBaseline && std::string(name) != "baseline") || isa > widest) {
    throw std::runtime_error(std::string("SMOOSEG_ISA: expected baseline, or avx2 where the machine has it, got ") +
                             name);
  }
  return isa;
}

/// Bytes a second of copying 64 MiB, both directions counted; the best of some runs.
double copy_bandwidth() {
  static const double bandwidth = [] {
    constexpr size_t kBytes = size_t{64} << 20;
    std::vector<char> from(kBytes, 1), to(kBytes, 2);
    double best = 0;
    for (int i = 0; i < 10; ++i) {
      const auto start = std::chrono::steady_clock::now();
      std::memcpy(to.data(), from.data(), kBytes);
      benchmark::DoNotOptimize(to.data());
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      best = std::max(best, 2 * static_cast<double>(kBytes) / seconds.count());
    }
    return best;
  }();
  return bandwidth;
}

void BM_DenseCrf(benchmark::State& state) {
  const int64_t size = state.range(0), classes = state.range(1);
  const Picture picture = picture_of(size, state.range(2));
  const std::vector<float> energies = energies_of(size, classes);
  std::vector<float> marginals(energies.size());
  const MeanFieldOptions options;
  for (auto _ : state) {
    mean_field(options, {picture.pixels.data(), 3 * size}, static_cast<size_t>(size), static_cast<size_t>(size),
               static_cast<size_t>(classes), {energies.data(), size * size, size},
               {marginals.data(), size * size, size}, chosen_isa());
    benchmark::DoNotOptimize(marginals.data());
  }
  const auto pixels = static_cast<double>(size * size);
  const auto vertices = static_cast<double>(Permutohedral<5>(features_of(picture)).vertices());
  // In each iteration every energy is read, every marginal read and written, every value at a vertex of the bilateral
  // lattice written and read. (Those of the other lattice need not leave the cache.)
  const double bytes = sizeof(float) * static_cast<double>(classes * options.iterations) * (3 * pixels + 2 * vertices);
  state.counters["vertices"] = vertices / pixels;
  state.counters["floor_ms"] = 1e3 * bytes / copy_bandwidth();
}
BENCHMARK(BM_DenseCrf)
    ->ArgNames({"size", "classes", "noise"})
    ->Args({320, 27, 0})
    ->Args({320, 11, 0})
    ->Args({224, 3, 0})
    ->Args({320, 27, 9})
    ->Unit(benchmark::kMillisecond);

/// Pictures of 320 x 320 pixels and 27 classes in a batch.
void BM_DenseCrfBatch(benchmark::State& state) {
  constexpr int64_t kSize = 320, kClasses = 27, kPictures = 8;
  const Picture picture = picture_of(kSize, 0);
  const std::vector<float> energies = energies_of(kSize, kClasses);
  const auto of = [](const auto& values, at::IntArrayRef sizes, torch::ScalarType dtype) {
    using Value = std::remove_reference_t<decltype(values[0])>;
    return torch::from_blob(const_cast<std::remove_const_t<Value>*>(values.data()), sizes, dtype);
  };
  const torch::Tensor images =
      of(picture.pixels, {kSize, kSize, 3}, torch::kUInt8).unsqueeze(0).repeat({kPictures, 1, 1, 1});
  const torch::Tensor maps =
      of(energies, {kClasses, kSize, kSize}, torch::kFloat32).unsqueeze(0).repeat({kPictures, 1, 1, 1});
  const DenseCrf crf(DenseCrfOptions().threads(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(crf.labels_from_energies(images, maps));
  state.SetItemsProcessed(state.iterations() * kPictures);
}
BENCHMARK(BM_DenseCrfBatch)->ArgName("threads")->Arg(1)->Arg(2)->Unit(benchmark::kMillisecond)->UseRealTime();

constexpr int64_t kFilterChannels = 27;

/// One filtering, the lattice built anew.
void BM_Filter(benchmark::State& state) {
  const auto features = features_of(picture_of(state.range(0), 0));
  const Permutohedral<5>::Values values = Permutohedral<5>::Values::Ones(features.rows(), kFilterChannels);
  for (auto _ : state) benchmark::DoNotOptimize(Permutohedral<5>(features).filter(values).data());
}
BENCHMARK(BM_Filter)->ArgName("size")->Arg(64)->Arg(128)->Unit(benchmark::kMillisecond);

/// The sum over all pairs of pixels.
void BM_FilterNaive(benchmark::State& state) {
  const auto features = features_of(picture_of(state.range(0), 0));
  const Permutohedral<5>::Values values = Permutohedral<5>::Values::Ones(features.rows(), kFilterChannels);
  for (auto _ : state) {
    Permutohedral<5>::Values result = Permutohedral<5>::Values::Zero(values.rows(), values.cols());
    for (Eigen::Index i = 0; i < features.rows(); ++i) {
      const Eigen::ArrayXf squares = (features.rowwise() - features.row(i)).square().rowwise().sum();
      result.row(i) = ((squares * -0.5f).exp().matrix().transpose() * values.matrix()).array();
    }
    benchmark::DoNotOptimize(result.data());
  }
}
BENCHMARK(BM_FilterNaive)->ArgName("size")->Arg(64)->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
