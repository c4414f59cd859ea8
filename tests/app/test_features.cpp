// Features of training crops: computed, on disk and in memory.

#include <signal.h>
#include <sys/wait.h>
#include <torch/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "data/crops.hpp"
#include "data/image_file.hpp"
#include "features/feature_cache.hpp"
#include "features/feature_loader.hpp"
#include "smooseg/detail/parallel.hpp"
#include "smooseg/io/atomic_file.hpp"
#include "smooseg/io/safetensors.hpp"
#include "support.hpp"
#include "support/file_lock.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;

namespace {

/// A backbone with patches of 8 pixels whose features are the mean colours times a weight; counts the crops that it
/// sees.
class MeanColor : public smooseg::backbone::Backbone {
 public:
  explicit MeanColor(double weight = 1, int64_t channels = 3) : channels_(channels) {
    weight_ = register_buffer("weight", torch::full({1}, weight));
  }

  Tensor features(const Tensor& images) override {
    crops_seen += images.size(0);
    return at::avg_pool2d(images, 8) * weight_;
  }
  int64_t patch_size() const override { return 8; }
  int64_t channels() const override { return channels_; }
  smooseg::backbone::Rgb mean() const override { return {0.1, 0.2, 0.3}; }
  smooseg::backbone::Rgb std() const override { return {0.4, 0.5, 2}; }

  std::atomic<int64_t> crops_seen{0};

 private:
  int64_t channels_;
  Tensor weight_;
};

/// Thirty small pictures, hence 150 crops in shards of 64, 64 and 22, and what a run has.
struct LoaderRun {
  explicit LoaderRun(const fs::path& data, double weight = 1)
      : dataset(open_dataset(data, "train")), crops(dataset, 16, true), backbone(weight) {}

  static void make_pictures(const fs::path& data) {
    torch::manual_seed(0);
    fs::create_directories(data);
    for (int i = 0; i < 30; ++i) {
      write_png(data / ("picture" + std::to_string(100 + i) + ".png"), torch::randint(256, {20, 24, 3}, torch::kUInt8));
    }
  }

  FeatureSource source() { return {crops, backbone, torch::kCPU, dtype, max_bytes, workers}; }

  std::unique_ptr<FeatureCache> cache(const fs::path& folder, int64_t channels = 3) {
    const FeatureRecipe recipe{{"backbone", "mean"}, {"weights", hash_of(backbone).hex()}};
    return std::make_unique<FeatureCache>(folder, recipe, crops.picture_hashes(2), crops,
                                          std::vector<int64_t>{channels, 2, 2}, dtype, 2);
  }

  /// The features of all crops from a cache in the folder; what is said on the way is in `said`.
  Tensor features(const fs::path& folder) {
    const auto filled = cache(folder);
    std::ostringstream err;
    fill_cache(*filled, source(), err);
    said = err.str();
    std::vector<Tensor> all;
    for (int64_t i = 0; i < crops.count(); ++i) all.push_back(filled->features(i));
    return torch::stack(all);
  }

  /// All features, computed here and now.
  Tensor expected() {
    std::vector<int64_t> all;
    for (int64_t i = 0; i < crops.count(); ++i) all.push_back(i);
    const int64_t seen = backbone.crops_seen;
    const Tensor features = backbone.features(crops.images(all, normalization_of(backbone)));
    backbone.crops_seen = seen;
    return features;
  }

  Dataset dataset;
  Crops crops;
  MeanColor backbone;
  torch::ScalarType dtype = torch::kFloat32;
  int64_t max_bytes = 0;
  int workers = 2;
  std::string said;
};

/// The shards in a folder and below, sorted.
std::vector<fs::path> shards_in(const fs::path& folder) {
  std::vector<fs::path> shards;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") shards.push_back(entry.path());
  }
  std::sort(shards.begin(), shards.end());
  return shards;
}

/// The file that holds the most crops' features: a whole shard.
fs::path whole_shard(const fs::path& folder) {
  const auto shards = shards_in(folder);
  return *std::max_element(shards.begin(), shards.end(),
                           [](const auto& a, const auto& b) { return fs::file_size(a) < fs::file_size(b); });
}

}  // namespace

TEST_CASE("a module's hash is that of its tensors", "[feature cache]") {
  MeanColor a(1), b(1), c(2);
  CHECK(hash_of(a) == hash_of(b));
  CHECK(hash_of(a) != hash_of(c));
  b.to(torch::kFloat64);
  CHECK(hash_of(a) != hash_of(b));
}

TEST_CASE("features are computed once and found again", "[feature cache]") {
  const TempDir dir;
  LoaderRun::make_pictures(dir.path / "data");
  const fs::path folder = dir.path / "cache";
  LoaderRun first(dir.path / "data");
  const Tensor features = first.features(folder);
  CHECK(features.equal(first.expected()));
  CHECK(first.backbone.crops_seen == 150);
  CHECK(first.said.find(": 150 crops take 7.2 kB, of which ") != std::string::npos);
  CHECK(first.said.find(" are to be written; free: ") != std::string::npos);
  CHECK(shards_in(folder).size() == 3);

  LoaderRun second(dir.path / "data");
  CHECK(second.features(folder).equal(features));
  CHECK(second.backbone.crops_seen == 0);
  CHECK(second.said.empty());

  SECTION("other weights, other features") {
    LoaderRun other(dir.path / "data", 2);
    CHECK(other.features(folder).equal(features * 2));
    CHECK(shards_in(folder).size() == 6);
    CHECK(LoaderRun(dir.path / "data").features(folder).equal(features));
  }
  SECTION("another dtype") {
    LoaderRun half(dir.path / "data");
    half.dtype = torch::kFloat16;
    CHECK(half.features(folder).equal(features.to(torch::kFloat16)));
    CHECK(half.backbone.crops_seen == 150);
  }
  SECTION("a picture changes: only its shard is made again") {
    write_png(dir.path / "data" / "picture101.png", torch::zeros({20, 24, 3}, torch::kUInt8));
    LoaderRun changed(dir.path / "data");
    const Tensor now = changed.features(folder);
    CHECK(now.equal(changed.expected()));
    CHECK(changed.backbone.crops_seen == 64);
    CHECK_FALSE(now.slice(0, 5, 10).equal(features.slice(0, 5, 10)));
  }
  SECTION("two pictures change places") {
    fs::rename(dir.path / "data" / "picture100.png", dir.path / "data" / "x.png");
    fs::rename(dir.path / "data" / "picture129.png", dir.path / "data" / "picture100.png");
    fs::rename(dir.path / "data" / "x.png", dir.path / "data" / "picture129.png");
    LoaderRun changed(dir.path / "data");
    CHECK(changed.features(folder).equal(changed.expected()));
    CHECK(changed.backbone.crops_seen == 64 + 22);
  }
  SECTION("files that are not of the cache do not matter") {
    write_content(folder / "notes.txt", "mine");
    write_content(whole_shard(folder).parent_path() / "other.safetensors", "not even one");
    LoaderRun run(dir.path / "data");
    CHECK(run.features(folder).equal(features));
    CHECK(run.backbone.crops_seen == 0);
    CHECK(content_of(folder / "notes.txt") == "mine");
  }
  SECTION("the files can be read by others") {
    const auto tensors = smooseg::io::read_safetensors(whole_shard(folder).string());
    CHECK(tensors.at("features").sizes() == torch::IntArrayRef{64, 3, 2, 2});
    CHECK(smooseg::io::read_safetensors_metadata(whole_shard(folder).string()).at("backbone") == "mean");
  }
}

TEST_CASE("bad shards are noticed and made again", "[feature cache]") {
  const TempDir dir;
  LoaderRun::make_pictures(dir.path / "data");
  const fs::path folder = dir.path / "cache";
  const Tensor features = LoaderRun(dir.path / "data").features(folder);
  const fs::path shard = whole_shard(folder);
  const std::string good = content_of(shard);
  const auto check_recovers = [&](const std::string& problem) {
    INFO(problem);
    LoaderRun run(dir.path / "data");
    CHECK(run.features(folder).equal(features));
    INFO(run.said);
    CHECK(run.backbone.crops_seen == 64);
    CHECK(run.said.find(shard.filename().string()) != std::string::npos);
    CHECK(run.said.find(problem) != std::string::npos);
    CHECK(run.said.find("; its features are computed again") != std::string::npos);
    CHECK(content_of(shard) == good);
  };

  for (const std::size_t length :
       {std::size_t{0}, std::size_t{5}, std::size_t{100}, good.size() / 2, good.size() - 1}) {
    INFO("cut to " << length);
    write_content(shard, good.substr(0, length));
    check_recovers("");
  }
  for (const std::size_t at : {good.size() - 1, good.size() - 64 * 12 * 4, good.size() - 64 * 12 * 4 - 1}) {
    INFO("another byte at " << at);
    std::string damaged = good;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    write_content(shard, damaged);
    check_recovers("damaged: its features do not match their checksums");
  }
  write_content(shard, "not a shard at all, but a text of some length");
  check_recovers("");
  smooseg::io::write_safetensors(shard.string(), {{"features", torch::zeros({64, 3, 2, 2})}});
  check_recovers("not of this cache");

  // A shard under another one's name.
  const auto shards = shards_in(folder);
  const fs::path other = *std::find_if(shards.begin(), shards.end(), [&](const auto& s) { return s != shard; });
  fs::copy_file(other, shard, fs::copy_options::overwrite_existing);
  check_recovers("made from other pictures or weights");

  // The right key and checksums, but not the shape.
  auto tensors = smooseg::io::read_safetensors(other.string());
  const auto metadata = smooseg::io::read_safetensors_metadata(shard.string());
  smooseg::io::write_safetensors(shard.string(), tensors, metadata);
  if (fs::file_size(other) != fs::file_size(shard)) check_recovers("damaged");

  fs::remove(shard);
  LoaderRun run(dir.path / "data");
  CHECK(run.features(folder).equal(features));
  CHECK(run.backbone.crops_seen == 64);
}

TEST_CASE("a killed run leaves a usable cache", "[feature cache]") {
  const TempDir dir;
  LoaderRun::make_pictures(dir.path / "data");
  const fs::path folder = dir.path / "cache";
  LoaderRun run(dir.path / "data");
  const Tensor expected = run.expected();
  const auto cache = run.cache(folder);
  const Tensor rows = expected.slice(0, 0, 64).contiguous();

  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    // Killed while it writes its second shard. The pool's threads are not in this process.
    smooseg::detail::ThreadPool::is_working() = true;
    std::ostringstream err;
    cache->fill(
        [&](const std::vector<int64_t>&) {
          cache->store(0, rows);
          const smooseg::io::AtomicFile unfinished(shards_in(folder).front().parent_path() / "next.safetensors");
          write_content(unfinished.temporary_path(), "half a sha");
          kill(getpid(), SIGKILL);
        },
        err);
    _exit(1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  const auto count_temporaries = [&] {
    int64_t count = 0;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) count += entry.path().extension() == ".tmp";
    return count;
  };
  REQUIRE(shards_in(folder).size() == 1);
  REQUIRE(count_temporaries() == 1);

  CHECK(run.features(folder).equal(expected));
  CHECK(run.backbone.crops_seen == 150 - 64);
  CHECK(count_temporaries() == 0);
}

TEST_CASE("an error while a cache is filled leaves it usable", "[feature cache]") {
  const TempDir dir;
  LoaderRun::make_pictures(dir.path / "data");
  const fs::path folder = dir.path / "cache", picture = dir.path / "data" / "picture120.png";
  const std::string whole = content_of(picture);
  // In a crop of the second shard; and what is hashed is what is decoded.
  write_content(picture, whole.substr(0, whole.size() / 2));
  LoaderRun run(dir.path / "data");
  CHECK_ERROR(run.features(folder), "picture120.png: expected an intact PNG");
  CHECK(shards_in(folder).size() == 1);
  write_content(picture, whole);
  LoaderRun again(dir.path / "data");
  CHECK(again.features(folder).equal(again.expected()));
  CHECK(again.backbone.crops_seen == 150 - 64);
}

TEST_CASE("two runs share a cache at the same time", "[feature cache]") {
  const TempDir dir;
  LoaderRun::make_pictures(dir.path / "data");
  const fs::path folder = dir.path / "cache";
  LoaderRun a(dir.path / "data"), b(dir.path / "data");
  Tensor of_a, of_b;
  std::thread other([&] { of_a = a.features(folder); });
  of_b = b.features(folder);
  other.join();
  CHECK(of_a.equal(a.expected()));
  CHECK(of_b.equal(of_a));
  CHECK(a.backbone.crops_seen + b.backbone.crops_seen == 150);  // one waits for the other

  // One that comes while the folder is locked says that it waits, and goes on when it is free.
  const fs::path locked = whole_shard(folder).parent_path();
  fs::remove(whole_shard(folder));
  auto lock = std::make_unique<FileLock>(locked / ".lock");
  REQUIRE_FALSE(lock->busy());
  std::atomic<bool> done{false};
  LoaderRun late(dir.path / "data");
  std::thread waiting([&] {
    late.features(folder);
    done = true;
  });
  pause(50);
  CHECK_FALSE(done);
  lock.reset();
  waiting.join();
  CHECK(late.said.find("waiting for another run") != std::string::npos);
  CHECK(late.backbone.crops_seen == 64);
}

TEST_CASE("a cache that cannot be written says so before any work", "[feature cache]") {
  const TempDir dir;
  LoaderRun::make_pictures(dir.path / "data");
  LoaderRun run(dir.path / "data");
  SECTION("the disk is too small") {
    const int64_t channels = int64_t{1} << 40;
    const auto cache = run.cache(dir.path / "cache", channels);
    std::ostringstream err;
    const std::string error =
        error_of([&] { cache->fill([](const std::vector<int64_t>&) { FAIL("nothing may be computed"); }, err); });
    INFO(error);
    // 150 crops of 2^40 x 2 x 2 floats, their checksums, three headers.
    CHECK(error.find("cache: the disk is too small for the features: needed are 2638827906689376 bytes, free ") !=
          std::string::npos);
    CHECK(err.str().find(": 150 crops take 2639 TB, of which 2639 TB are to be written; free: ") != std::string::npos);
    CHECK(shards_in(dir.path / "cache").empty());
  }
  SECTION("no folder can be made") {
    write_content(dir.path / "file", "");
    CHECK_ERROR(run.features(dir.path / "file"), "cannot create the folder " + (dir.path / "file").string());
    CHECK_ERROR(run.features("/proc/cache"), "cannot create the folder /proc/cache");
    CHECK(run.backbone.crops_seen == 0);
  }
  SECTION("a shard cannot be written") {
    const auto cache = run.cache(dir.path / "cache");
    std::ostringstream err;
    CHECK_ERROR(cache->fill(
                    [&](const std::vector<int64_t>&) {
                      fs::remove_all(dir.path / "cache");
                      cache->store(0, torch::zeros({64, 3, 2, 2}));
                    },
                    err),
                ".safetensors: cannot write: No such file or directory");
  }
  SECTION("wrong features are refused") {
    const auto cache = run.cache(dir.path / "cache");
    CHECK_ERROR(cache->store(0, torch::zeros({64, 3, 2, 3})), "expected features of shape [64, 3, 2, 2]");
    CHECK_ERROR(cache->store(0, torch::zeros({64, 3, 2, 2}, torch::kFloat16)), "Half");
    CHECK_ERROR(cache->features(0), "shard 0 is not open");
  }
  SECTION("features that float16 does not hold") {
    LoaderRun large(dir.path / "data", 1e6);
    large.dtype = torch::kFloat16;
    CHECK_ERROR(large.features(dir.path / "cache"), "more than float16 holds, 65504: use --feature-dtype float32");
  }
}

TEST_CASE("batches have the same bits from memory, from the cache and for any number of workers", "[feature loader]") {
  const TempDir dir;
  LoaderRun::make_pictures(dir.path / "data");
  const auto batches = [&](torch::ScalarType dtype, int64_t max_bytes, bool cached, int workers) {
    LoaderRun run(dir.path / "data", 1.0 / 3);
    run.dtype = dtype;
    run.max_bytes = max_bytes;
    run.workers = workers;
    std::ostringstream err;
    FeatureLoader loader(
        run.source(), cached ? run.cache(dir.path / "cache") : nullptr, 12,
        [&](int64_t i) { return batch_indices(i, 20, run.crops.count(), 5); }, err);
    std::vector<Tensor> all;
    for (int i = 0; i < 12; ++i) all.push_back(loader.next());
    return torch::stack(all);
  };
  for (const auto dtype : {torch::kFloat32, torch::kFloat16}) {
    LoaderRun run(dir.path / "data", 1.0 / 3);
    std::vector<Tensor> expected;
    for (int64_t i = 0; i < 12; ++i) {
      expected.push_back(run.expected()
                             .to(dtype)
                             .to(torch::kFloat32)
                             .index_select(0, torch::tensor(batch_indices(i, 20, run.crops.count(), 5))));
    }
    for (const int64_t max_bytes : {0, 1 << 20}) {
      for (const bool cached : {false, true}) {
        for (const int workers : {1, 2, 5}) {
          INFO(max_bytes << " bytes, " << (cached ? "cached, " : "") << workers << " workers");
          CHECK(batches(dtype, max_bytes, cached, workers).equal(torch::stack(expected)));
        }
      }
    }
  }
}

TEST_CASE("only what is needed is computed", "[feature loader]") {
  const TempDir dir;
  LoaderRun::make_pictures(dir.path / "data");
  LoaderRun run(dir.path / "data");
  run.max_bytes = 1 << 20;
  std::ostringstream err;
  FeatureLoader loader(
      run.source(), nullptr, 2,
      [](int64_t i) {
        return std::vector<int64_t>{100 * i + 3, 2};
      },
      err);
  loader.next();
  CHECK(run.backbone.crops_seen == 16);
  loader.next();
  CHECK(run.backbone.crops_seen == 32);
}

TEST_CASE("errors in a worker name the file", "[feature loader]") {
  const TempDir dir;
  LoaderRun::make_pictures(dir.path / "data");
  write_content(dir.path / "data" / "picture107.png", "GIF89a......");
  for (const int64_t max_bytes : {0, 1 << 20}) {
    LoaderRun run(dir.path / "data");
    run.max_bytes = max_bytes;
    run.workers = 3;
    std::ostringstream err;
    FeatureLoader loader(
        run.source(), nullptr, 100, [](int64_t i) { return std::vector<int64_t>{i}; }, err);
    for (int i = 0; i < 32; ++i) loader.next();
    CHECK_ERROR(
        [&] {
          for (int i = 32; i < 40; ++i) loader.next();
        }(),
        "picture107.png: expected a JPEG, PNG, TIFF, BMP, WebP or MATLAB picture, found a GIF file");
  }
}
