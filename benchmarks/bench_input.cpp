// The way of the training crops into memory, by number of worker threads: pictures decoded and transformed, and
// features from a cache. SMOOSEG_IMAGES names a folder of pictures to measure with; else made-up JPEGs are written to a
// temporary folder.

// clang-format off
#include <cstddef>
#include <cstdio>

#include <jpeglib.h>  // needs the two before it
// clang-format on
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "data/crops.hpp"
#include "data/dataset.hpp"
#include "data/image_file.hpp"
#include "data/scenes.hpp"
#include "data/transforms.hpp"
#include "features/feature_loader.hpp"
#include "smooseg/detail/parallel.hpp"
#include "support.hpp"
#include "support/pipeline.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;

namespace {

constexpr int64_t kSide = 224;

/// A folder that is removed at the end of the program.
class TemporaryFolder {
 public:
  TemporaryFolder() : path(fs::temp_directory_path() / ("smooseg-bench-" + std::to_string(::getpid()))) {
    fs::create_directories(path);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const fs::path path;
};

const fs::path& temporary_folder() {
  static const TemporaryFolder folder;
  return folder.path;
}

void write_jpeg(const fs::path& path, const Tensor& picture) {
  jpeg_compress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &bytes, &size);
  info.image_width = static_cast<JDIMENSION>(picture.size(1));
  info.image_height = static_cast<JDIMENSION>(picture.size(0));
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, 92, TRUE);
  jpeg_start_compress(&info, TRUE);
  while (info.next_scanline < info.image_height) {
    JSAMPROW row = picture.data_ptr<uint8_t>() + info.next_scanline * picture.stride(0);
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<char*>(bytes), static_cast<std::streamsize>(size));
  std::free(bytes);
}

const Dataset& pictures() {
  static const Dataset dataset = [] {
    if (const char* given = std::getenv("SMOOSEG_IMAGES")) return open_dataset(given, "train");
    const fs::path folder = temporary_folder() / "pictures";
    fs::create_directories(folder);
    for (uint64_t i = 0; i < 128; ++i) {
      write_jpeg(folder / (std::to_string(i) + ".jpg"), make_scene(360, 480, i).image);
    }
    return open_dataset(folder, "train");
  }();
  return dataset;
}

void count_images(benchmark::State& state, int64_t images) {
  state.counters["images/s"] =
      benchmark::Counter(static_cast<double>(images), benchmark::Counter::kIsIterationInvariantRate);
}

/// Every picture once, in order, through the pipeline.
void BM_Input(benchmark::State& state) {
  const Crops crops(pictures(), kSide, state.range(1) == 5);
  const int64_t count = static_cast<int64_t>(pictures().samples.size()), per_picture = crops.per_picture();
  const auto workers = static_cast<int>(state.range(0));
  for (auto _ : state) {
    Pipeline<Tensor> images(count, workers, 2 * workers, [&](int64_t i) {
      std::vector<int64_t> all;
      for (int64_t k = 0; k < per_picture; ++k) all.push_back(i * per_picture + k);
      return crops.images(all, {});
    });
    for (int64_t i = 0; i < count; ++i) benchmark::DoNotOptimize(images.next().data_ptr());
  }
  count_images(state, count);
}

/// The same by whole pictures and the transforms one after the other.
void BM_InputNaive(benchmark::State& state) {
  const auto& samples = pictures().samples;
  const auto count = static_cast<int64_t>(samples.size());
  for (auto _ : state) {
    smooseg::detail::parallel_for(count, state.range(0), [&](int64_t i) {
      const Tensor picture = read_image(samples[static_cast<std::size_t>(i)].image);
      for (int64_t k = 0; k < state.range(1); ++k) {
        Tensor part = picture;
        if (state.range(1) > 1) part = transformed(part, {0, false, k});
        part = transformed(transformed(part, {kSide}), {0, true});
        benchmark::DoNotOptimize(normalize(part, {}).data_ptr());
      }
    });
  }
  count_images(state, count);
}

/// A picture of 12 million pixels as a camera takes it.
const Dataset& large_picture() {
  static const Dataset dataset = [] {
    const fs::path folder = temporary_folder() / "large";
    fs::create_directories(folder);
    write_jpeg(folder / "large.jpg", make_scene(3000, 4000, 0).image);
    return open_dataset(folder, "train");
  }();
  return dataset;
}

void BM_LargePicture(benchmark::State& state) {
  const Crops crops(large_picture(), kSide, false);
  for (auto _ : state) benchmark::DoNotOptimize(crops.images({0}, {}).data_ptr());
}

void BM_LargePictureNaive(benchmark::State& state) {
  for (auto _ : state) {
    const Tensor picture = read_image(large_picture().samples.front().image);
    benchmark::DoNotOptimize(normalize(transformed(picture, {kSide, true}), {}).data_ptr());
  }
}

/// The picture by libjpeg's scaled decoding, which averages blocks: (H,W,3) uint8, the shorter side at least kSide.
Tensor scaled_picture(const std::string& bytes) {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<unsigned long>(bytes.size()));
  jpeg_read_header(&info, TRUE);
  info.out_color_space = JCS_RGB;
  info.scale_denom = 8;
  for (info.scale_num = 1; info.scale_num < 8; ++info.scale_num) {
    jpeg_calc_output_dimensions(&info);
    if (std::min(info.output_height, info.output_width) >= kSide) break;
  }
  jpeg_start_decompress(&info);
  const Tensor picture = torch::empty({info.output_height, info.output_width, 3}, torch::kUInt8);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = picture.data_ptr<uint8_t>() + picture.stride(0) * info.output_scanline;
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  jpeg_destroy_decompress(&info);
  return picture;
}

/// What scaled decoding would take, and by how many grey levels it differs on the mean.
void BM_LargePictureScaled(benchmark::State& state) {
  const fs::path& path = large_picture().samples.front().image;
  const auto crop = [](const Tensor& t) { return transformed(t, {kSide, true}); };
  Tensor scaled;
  for (auto _ : state) {
    std::ifstream file(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    scaled = crop(scaled_picture(bytes));
    benchmark::DoNotOptimize(normalize(scaled, {}).data_ptr());
  }
  const Tensor exact = crop(read_image(path));
  state.counters["difference"] = (exact.to(torch::kFloat32) - scaled.to(torch::kFloat32)).abs().mean().item<double>();
}

/// Stands for a backbone of C channels and patches of 8 pixels.
class Stub : public smooseg::backbone::Backbone {
 public:
  explicit Stub(int64_t channels) : channels_(channels) {}
  Tensor features(const Tensor& images) override {
    return at::randn({images.size(0), channels_, images.size(2) / 8, images.size(3) / 8});
  }
  int64_t patch_size() const override { return 8; }
  int64_t channels() const override { return channels_; }

 private:
  int64_t channels_;
};

/// Batches of 32 crops' features of shape (C,28,28): read from the cache's files, or held in memory.
void BM_CachedFeatures(benchmark::State& state) {
  constexpr int64_t kBatch = 32, kBatches = 64;
  const Crops crops(pictures(), kSide, false);
  Stub backbone(state.range(1));
  FeatureSource source{crops, backbone, torch::kCPU};
  source.dtype = state.range(2) == 16 ? torch::kFloat16 : torch::kFloat32;
  source.max_bytes = state.range(3) == 1 ? int64_t{1} << 40 : 0;
  source.workers = static_cast<int>(state.range(0));
  const FeatureRecipe recipe{{"channels", std::to_string(state.range(1))}};
  const auto hashes = crops.picture_hashes(source.workers);
  std::ostringstream err;
  const auto loader = [&] {
    auto cache = std::make_unique<FeatureCache>(temporary_folder() / "cache", recipe, hashes, crops,
                                                feature_shape(source), source.dtype, source.workers);
    return std::make_unique<FeatureLoader>(
        source, std::move(cache), kBatches, [&](int64_t i) { return batch_indices(i, kBatch, crops.count(), 0); }, err);
  };
  loader();
  for (auto _ : state) {
    state.PauseTiming();
    auto features = loader();
    state.ResumeTiming();
    for (int64_t i = 0; i < kBatches; ++i) benchmark::DoNotOptimize(features->next().data_ptr());
    state.PauseTiming();
    features.reset();
    state.ResumeTiming();
  }
  count_images(state, kBatch * kBatches);
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [] {
    for (const int64_t crops : {1, 5}) {
      for (const int64_t workers : {1, 2, 4}) {
        bench::add("BM_Input", BM_Input, {"workers", "crops"})->Args({workers, crops});
        bench::add("BM_InputNaive", BM_InputNaive, {"workers", "crops"})->Args({workers, crops});
      }
    }
    bench::add("BM_LargePicture", BM_LargePicture, {});
    bench::add("BM_LargePictureNaive", BM_LargePictureNaive, {});
    bench::add("BM_LargePictureScaled", BM_LargePictureScaled, {});
    for (const int64_t in_memory : {0, 1}) {
      for (const int64_t bits : {32, 16}) {
        bench::add("BM_CachedFeatures", BM_CachedFeatures, {"workers", "c", "bits", "memory"})
            ->Args({2, 384, bits, in_memory});
      }
    }
  });
}
