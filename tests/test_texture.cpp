// k-means under the cosine distance, and the backbone without weights that is built on it.

#include <ATen/CPUGeneratorImpl.h>
#include <torch/nn/module.h>
#include <torch/types.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "catch.hpp"
#include "smooseg/backbone/texture.hpp"
#include "smooseg/baselines/kmeans.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/io/safetensors.hpp"
#include "support.hpp"

namespace {

using smooseg::Tensor;
using smooseg::backbone::Texture;
using smooseg::backbone::TextureOptions;
using smooseg::baselines::KMeans;
using smooseg::baselines::KMeansOptions;

constexpr double kPi = 3.14159265358979323846;

at::Generator seeded(uint64_t seed) {
  return at::make_generator<at::CPUGeneratorImpl>(seed);
}

// `each` vectors (n each, C) of random length around every row of `directions`, one after the other.
Tensor around(const Tensor& directions, int64_t each, double noise) {
  auto generator = seeded(7);
  const Tensor centre = directions.repeat_interleave(each, 0);
  const Tensor vectors = centre + noise * at::randn(centre.sizes(), generator, centre.options());
  return vectors * (at::rand({vectors.size(0), 1}, generator, centre.options()) + 0.5);
}

// Whether `labels` name each run of `each` by one number of its own.
bool separates(const Tensor& labels, int64_t each) {
  const Tensor runs = labels.view({-1, each});
  const bool uniform = runs.eq(runs.narrow(1, 0, 1)).all().item<bool>();
  return uniform && std::get<0>(at::_unique(runs.select(1, 0))).size(0) == runs.size(0);
}

// A picture whose pixels all have the colour (r,g,b), normalised.
Tensor plain(double r, double g, double b, int64_t height, int64_t width) {
  const auto& mean = smooseg::backbone::kImageNetMean;
  const auto& deviation = smooseg::backbone::kImageNetStd;
  const Tensor colour = at::tensor(
      {(r - mean[0]) / deviation[0], (g - mean[1]) / deviation[1], (b - mean[2]) / deviation[2]}, torch::kFloat);
  return colour.view({1, 3, 1, 1}).expand({1, 3, height, width}).contiguous();
}

// A grey sine wave that runs at `angle` (0: along x), mean and contrast the same at each angle.
Tensor grating(double angle, double wavelength, int64_t side, double amplitude = 0.3) {
  const Tensor t = at::arange(side, torch::kFloat);
  const Tensor along = t.view({1, -1}) * std::cos(angle) + t.view({-1, 1}) * std::sin(angle);
  const Tensor wave = amplitude * (along * (2 * kPi / wavelength)).sin();
  return plain(0.5, 0.5, 0.5, side, side) + wave.view({1, 1, side, side}) / 0.225;
}

Tensor noise(int64_t batch, int64_t height, int64_t width, uint64_t seed = 1) {
  auto generator = seeded(seed);
  const Tensor coarse = at::randn({batch, 3, (height + 31) / 32 + 1, (width + 31) / 32 + 1}, generator);
  const Tensor patches = coarse.repeat_interleave(32, 2).repeat_interleave(32, 3);
  return patches.narrow(2, 0, height).narrow(3, 0, width) + 0.5 * at::randn({batch, 3, height, width}, generator);
}

Texture fitted(const TextureOptions& options = TextureOptions().textons(16)) {
  Texture texture(options);
  texture->fit([](int64_t i) { return noise(1, 96, 128, static_cast<uint64_t>(i)); }, 6, seeded(3));
  return texture;
}

}  // namespace

TEST_CASE("k-means: fit finds the clusters that there are", "[kmeans]") {
  const auto dtype = GENERATE(torch::kFloat32, torch::kFloat64);
  const Tensor directions = at::eye(5, torch::dtype(dtype));
  const Tensor vectors = around(directions, 40, 0.05);
  KMeans kmeans(5, seeded(0));
  const double similarity = kmeans.fit(vectors);
  CHECK(separates(kmeans.assign(vectors), 40));
  CHECK(kmeans.centers().scalar_type() == dtype);
  CHECK(relative_error(kmeans.centers().norm(2, {1}), at::ones({5})) < 1e-6);
  const Tensor best = std::get<0>(kmeans.similarities(vectors).max(1));
  CHECK(similarity == Catch::Approx(best.mean().item<double>()).epsilon(1e-5));
}

TEST_CASE("k-means: a centre is the mean direction of its vectors", "[kmeans]") {
  // Two groups of two vectors; lengths do not count.
  const Tensor vectors = at::tensor({3.0, 0.0, 0.0, 0.5, -1.0, 0.0, -3.0, -4.0}, torch::kFloat64).view({4, 2});
  KMeans kmeans(2, seeded(1));
  kmeans.fit(vectors);
  const Tensor cluster = kmeans.assign(vectors);
  REQUIRE(separates(cluster, 2));
  const double s = std::sqrt(0.5), t = std::sqrt(1.6 * 1.6 + 0.8 * 0.8);
  const Tensor expected = at::tensor({s, s, -1.6 / t, -0.8 / t}, torch::kFloat64).view({2, 2});
  CHECK(relative_error(kmeans.centers().index_select(0, cluster.slice(0, 0, 4, 2)), expected) < 1e-12);
}

TEST_CASE("k-means: update follows a stream of mini-batches", "[kmeans]") {
  const Tensor directions = at::eye(4, torch::kFloat64);
  KMeans kmeans(4, seeded(0));
  double similarity = 0;
  for (int i = 0; i < 20; ++i) similarity = kmeans.update(around(directions, 8, 0.05));
  CHECK(similarity > 0.98);
  CHECK(separates(kmeans.assign(around(directions, 30, 0.05)), 30));

  SECTION("earlier batches fade by decay") {
    KMeans one(KMeansOptions(1).decay(0.5), seeded(0));
    const Tensor x = at::tensor({1.0, 0.0}, torch::kFloat64).view({1, 2});
    const Tensor y = at::tensor({0.0, 1.0}, torch::kFloat64).view({1, 2});
    CHECK(one.update(x) == Catch::Approx(1.0));
    CHECK(one.update(y) == Catch::Approx(0.0).margin(1e-12));
    CHECK(relative_error(one.centers(), at::tensor({1.0, 2.0}, torch::kFloat64).view({1, 2}) / std::sqrt(5.0)) < 1e-12);
  }
}

TEST_CASE("k-means: features may be maps", "[kmeans]") {
  const Tensor map = around(at::eye(3), 8, 0.1).view({3, 2, 4, 3}).permute({0, 3, 1, 2});  // (B,C,h,w)
  const Tensor rows = map.permute({0, 2, 3, 1}).reshape({-1, 3});
  KMeans from_map(3, seeded(5)), from_rows(3, seeded(5));
  from_map.update(map);
  from_rows.update(rows);
  CHECK(at::equal(from_map.centers(), from_rows.centers()));
  const Tensor similarities = from_map.similarities(map);
  CHECK(similarities.sizes() == at::IntArrayRef({3, 3, 2, 4}));
  CHECK(relative_error(similarities.permute({0, 2, 3, 1}).reshape({-1, 3}), from_map.similarities(rows)) < 1e-6);
  CHECK(from_map.assign(map).sizes() == at::IntArrayRef({3, 2, 4}));
  CHECK(similarities.abs().max().item<double>() <= 1 + 1e-6);
}

TEST_CASE("k-means: the same for a seed", "[kmeans]") {
  const Tensor vectors = at::randn({500, 6}, seeded(2));
  const auto centers = [&](uint64_t seed) {
    KMeans kmeans(7, seeded(seed));
    kmeans.fit(vectors);
    return kmeans.centers();
  };
  CHECK(at::equal(centers(1), centers(1)));
  CHECK_FALSE(at::equal(centers(1), centers(2)));
}

TEST_CASE("k-means: clusters without vectors are seeded again", "[kmeans]") {
  SECTION("where the vectors go elsewhere") {
    const Tensor directions = at::eye(6, torch::kFloat64);
    KMeans kmeans(KMeansOptions(3).decay(0.2), seeded(0));
    kmeans.update(around(directions.narrow(0, 0, 3), 10, 0.01));
    const Tensor others = around(directions.narrow(0, 3, 3), 10, 0.01);
    for (int i = 0; i < 10; ++i) kmeans.update(others);
    CHECK(separates(kmeans.assign(others), 10));
  }
  SECTION("and stay finite where there are fewer directions than clusters") {
    KMeans kmeans(4, seeded(0));
    CHECK(kmeans.fit(at::ones({9, 3})) == Catch::Approx(1.0));
    CHECK(at::isfinite(kmeans.centers()).all().item<bool>());
  }
  SECTION("and zeros have no direction") {
    KMeans kmeans(2, seeded(0));
    CHECK(kmeans.fit(at::zeros({4, 3})) == 0);
    CHECK(at::isfinite(kmeans.similarities(at::zeros({4, 3}))).all().item<bool>());
  }
}

TEST_CASE("k-means: half precision is computed in float32", "[kmeans]") {
  const Tensor vectors = around(at::eye(3), 20, 0.05).to(torch::kHalf) * 100;
  KMeans kmeans(3, seeded(0));
  kmeans.fit(vectors);
  CHECK(kmeans.centers().scalar_type() == torch::kFloat32);
  CHECK(separates(kmeans.assign(vectors), 20));
}

TEST_CASE("k-means: errors", "[kmeans]") {
  CHECK_ERROR(KMeans(0), "expected num_clusters of at least 1, got 0");
  CHECK_ERROR(KMeans(KMeansOptions(2).decay(1.5)), "expected decay in [0,1], got 1.5");
  CHECK_ERROR(KMeans(2).centers(), "there are none before `update` or `fit`");
  CHECK_ERROR(KMeans(2).similarities(at::ones({3, 2})), "there are none before `update` or `fit`");
  CHECK_ERROR(KMeans(3).fit(at::ones({2, 5})), "expected at least 3 vectors, one for each cluster, got 2");
  CHECK_ERROR(KMeans(2).update(at::ones({4})), "expected features of shape (B,C,...)");
  CHECK_ERROR(KMeans(2).update(at::ones({4, 2}, torch::kInt64)), "of a floating dtype");
  CHECK_ERROR(KMeans(2).update(Tensor()), "features is undefined");
  CHECK_ERROR(KMeans(2).update(at::full({4, 2}, std::numeric_limits<float>::quiet_NaN())), "not finite");
  KMeans kmeans(2, seeded(0));
  kmeans.fit(at::eye(3));
  CHECK_ERROR(kmeans.update(at::ones({4, 2})), "expected features of 3 channels, as before, got (4, 2)");
  CHECK_ERROR(kmeans.assign(at::ones({4, 2})), "expected features of 3 channels, as before, got (4, 2)");
}

TEST_CASE("rgb_to_lab: colours with known values", "[texture]") {
  // White, black, mid grey and the primaries: CIE 15 with D65, sRGB (L* a* b*).
  const Tensor rgb =
      at::tensor({1., 1., 1., 0., 0., 0., .5, .5, .5, 1., 0., 0., 0., 1., 0., 0., 0., 1.}, torch::kFloat64)
          .view({6, 3, 1, 1});
  const Tensor expected = at::tensor({100., 0., 0., 0., 0., 0., 53.389, 0., 0., 53.241, 80.092, 67.203, 87.735, -86.183,
                                      83.179, 32.297, 79.188, -107.860},
                                     torch::kFloat64)
                              .view({6, 3, 1, 1});
  CHECK((smooseg::backbone::rgb_to_lab(rgb) - expected).abs().max().item<double>() < 0.05);
}

TEST_CASE("texture: a unit vector of resemblances for each patch", "[texture]") {
  const Texture texture = fitted();
  CHECK(texture->patch_size() == 8);
  CHECK(texture->channels() == 16);
  CHECK(texture->takes_whole_pictures());
  Texture t = texture;
  const Tensor features = t->features(noise(2, 48, 72));
  CHECK(features.sizes() == at::IntArrayRef({2, 16, 6, 9}));
  CHECK(features.min().item<double>() >= 0);
  CHECK(relative_error(features.norm(2, {1}), at::ones({2, 6, 9})) < 1e-5);
  CHECK_FALSE(features.requires_grad());
}

TEST_CASE("texture: statistics of a plain picture and of stripes", "[texture]") {
  // With textons out of the way: what `fit` finds as mean is the statistics themselves.
  Texture texture(TextureOptions().textons(2).position(0));
  const auto statistics = [&](const Tensor& picture) {
    texture->fit([&](int64_t) { return picture; }, 1, seeded(0));
    return texture->mean.clone();
  };
  const Tensor grey = statistics(plain(0.5, 0.5, 0.5, 64, 64));
  CHECK(grey[0].item<double>() == Catch::Approx(53.389).epsilon(1e-3));
  CHECK(grey.slice(0, 1, 18).abs().max().item<double>() < 0.01);
  CHECK(relative_error(grey.slice(0, 18, 36), grey.slice(0, 0, 18)) < 1e-4);
  CHECK(relative_error(grey.slice(0, 36, 54), grey.slice(0, 0, 18)) < 1e-4);

  // Faint vertical stripes, A sin(w x) in lightness. A derivative of a Gaussian makes A w exp(-(w sigma)^2 / 2) cos(w
  // x) of them: known energy along x, none along y, half of it on the diagonals.
  const Tensor stripes = statistics(grating(0, 8, 512, 0.05));
  const Tensor extremes = at::tensor({0.45, 0.55}, torch::kFloat64).view({2, 1, 1, 1}).expand({2, 3, 1, 1});
  const Tensor lightness = smooseg::backbone::rgb_to_lab(extremes).select(1, 0).flatten();
  const double amplitude = (lightness[1] - lightness[0]).item<double>() / 2, w = 2 * kPi / 8;
  double sigma = 0.7;
  for (const int64_t scale : {0, 1, 2}) {
    const double expected = std::pow(amplitude * w * std::exp(-std::pow(w * sigma, 2) / 2), 2) / 2;
    const Tensor energy = stripes.slice(0, 6 + 4 * scale, 10 + 4 * scale).exp() - 1;
    CHECK(energy[0].item<double>() == Catch::Approx(expected).epsilon(0.1));
    CHECK(energy[1].item<double>() == Catch::Approx(expected / 2).epsilon(0.1));
    CHECK(energy[2].item<double>() < 1e-3);
    CHECK(energy[3].item<double>() == Catch::Approx(expected / 2).epsilon(0.1));
    sigma *= 2;
  }
}

TEST_CASE("texture: tells gratings apart that differ in orientation or wavelength alone", "[texture]") {
  const std::vector<Tensor> pictures{grating(0, 6, 96), grating(kPi / 4, 6, 96), grating(kPi / 2, 6, 96),
                                     grating(3 * kPi / 4, 6, 96), grating(0, 16, 96)};
  Texture texture(TextureOptions().textons(20).position(0));
  texture->fit([&](int64_t i) { return pictures[static_cast<std::size_t>(i)]; }, 5, seeded(0));
  const Tensor features = texture->features(at::cat(pictures)).slice(2, 3, 9).slice(3, 3, 9).mean({2, 3});
  const Tensor unit = features / features.norm(2, {1}, true);
  const Tensor cosines = at::mm(unit, unit.t()) - at::eye(5);
  CHECK(cosines.max().item<double>() < 0.6);
}

TEST_CASE("texture: position tells places apart unless it is 0", "[texture]") {
  const auto spread = [](double position) {
    Texture texture(TextureOptions().textons(8).position(position));
    texture->fit([](int64_t i) { return noise(1, 128, 128, static_cast<uint64_t>(i)); }, 4, seeded(0));
    const Tensor f = texture->features(plain(0.4, 0.5, 0.6, 128, 128));
    return (f - f.narrow(2, 8, 1).narrow(3, 8, 1)).abs().max().item<double>();
  };
  CHECK(spread(0) < 1e-3);
  CHECK(spread(1) > 0.1);
}

TEST_CASE("texture: plain pictures give finite features", "[texture]") {
  Texture texture = fitted();
  for (const double value : {0.0, 0.5, 1.0}) {
    const Tensor features = texture->features(plain(value, value, value, 16, 24));
    CHECK(relative_error(features.norm(2, {1}), at::ones({1, 2, 3})) < 1e-5);
  }
  SECTION("even where it was fitted to them") {
    texture->fit([](int64_t) { return plain(0.2, 0.2, 0.2, 64, 64); }, 3, seeded(0));
    CHECK(at::isfinite(texture->features(plain(0.2, 0.2, 0.2, 16, 16))).all().item<bool>());
  }
}

TEST_CASE("texture: neither the batch nor strips change a picture's features", "[texture]") {
  Texture texture = fitted();
  const Tensor batch = noise(5, 64, 48);
  const Tensor together = texture->features(batch);
  for (int64_t i = 0; i < 5; ++i) {
    CHECK(relative_error(texture->features(batch.narrow(0, i, 1)), together.narrow(0, i, 1)) < 1e-4);
  }

  // Strips are as high as the width allows: the whole picture takes eight, a window of it two.
  Texture anywhere = fitted(TextureOptions().textons(16).position(0));
  const Tensor wide = noise(1, 1024, 512);
  const Tensor whole = anywhere->features(wide);
  constexpr int64_t kBlind = 8, kColumns = 16;  // patches: how far a border is felt, width of a window
  for (const int64_t first : {0, 13, 48}) {
    const Tensor window = anywhere->features(wide.narrow(3, first * 8, kColumns * 8));
    const int64_t left = first == 0 ? 0 : kBlind - 1, right = first == 48 ? kColumns : kColumns - kBlind;
    const Tensor expected = whole.slice(3, first + left, first + right);
    CHECK(relative_error(window.slice(3, left, right), expected) < 1e-4);
  }
}

TEST_CASE("texture: fit is the same for a seed, and looks at every picture", "[texture]") {
  const auto textons = [](uint64_t seed) {
    Texture texture(TextureOptions().textons(8));
    std::vector<int64_t> seen(6, 0);
    const double similarity = texture->fit(
        [&](int64_t i) {
          ++seen.at(static_cast<std::size_t>(i));
          return noise(1, 64, 64, static_cast<uint64_t>(i));
        },
        6, seeded(seed));
    CHECK(seen == std::vector<int64_t>(6, 1));
    CHECK(similarity > 0.5);
    CHECK(similarity <= 1);
    return texture->textons;
  };
  CHECK(at::equal(textons(1), textons(1)));
  CHECK_FALSE(at::equal(textons(1), textons(2)));
}

TEST_CASE("texture: fit looks at a bounded number of pictures", "[texture]") {
  Texture texture(TextureOptions().textons(2));
  int64_t seen = 0;
  texture->fit(
      [&](int64_t i) {
        ++seen;
        return plain(0.2 + 0.6 * static_cast<double>(i % 7) / 7, 0.5, 0.5, 8, 8);
      },
      1000000, seeded(0));
  CHECK(seen == smooseg::backbone::TextureImpl::kFitPictures);
}

TEST_CASE("texture: fit says beforehand which pictures it will look at", "[texture]") {
  const auto picture = [](int64_t i) { return noise(1, 32, 32, static_cast<uint64_t>(i)); };
  Texture texture(TextureOptions().textons(4)), by_number(TextureOptions().textons(4));
  std::vector<int64_t> opened, seen;
  std::size_t taken = 0;
  smooseg::backbone::Backbone& backbone = *texture;
  const auto images = [&](const std::vector<int64_t>& numbers) {
    CHECK(opened.empty());
    opened = numbers;
    return [&] { return picture(opened.at(taken++)); };
  };
  CHECK(backbone.fit(images, 5, seeded(0)) > 0);
  CHECK(taken == 5);
  by_number->fit(
      [&](int64_t i) {
        seen.push_back(i);
        return picture(i);
      },
      5, seeded(0));
  CHECK(seen == opened);
  CHECK(at::equal(by_number->textons, texture->textons));
}

TEST_CASE("texture: float64", "[texture]") {
  Texture texture = fitted();
  const Tensor images = noise(1, 64, 64);
  const Tensor single = texture->features(images);
  texture->to(torch::kFloat64);
  const Tensor wide = texture->features(images.to(torch::kFloat64));
  CHECK(wide.scalar_type() == torch::kFloat64);
  CHECK(relative_error(single, wide) < 1e-3);
  CHECK(at::equal(texture->features(images), wide));  // images are converted
}

TEST_CASE("texture: clone, save and load", "[texture]") {
  Texture texture = fitted();
  const Tensor images = noise(1, 64, 64);
  const Tensor expected = texture->features(images);

  const auto copy = std::dynamic_pointer_cast<smooseg::backbone::TextureImpl>(texture->clone());
  REQUIRE(copy != nullptr);
  CHECK(at::equal(copy->features(images), expected));
  copy->textons.zero_();
  CHECK(at::equal(texture->features(images), expected));

  const TempDir folder;
  const std::string path = (folder.path / "texture.safetensors").string();
  smooseg::io::TensorMap state;
  for (const auto& item : texture->named_buffers()) state[item.key()] = item.value();
  smooseg::io::write_safetensors(path, state);
  Texture loaded(TextureOptions().textons(16));
  CHECK_ERROR(loaded->features(images), "there are no textons yet; call `fit` with pictures, or load a fitted state");
  smooseg::io::load(*loaded, path);
  CHECK(at::equal(loaded->features(images), expected));
  CHECK_ERROR(smooseg::io::load(*Texture(TextureOptions().textons(8)), path), "textons: expected shape (8, 56)");
}

TEST_CASE("texture: errors", "[texture]") {
  CHECK_ERROR(Texture(TextureOptions().textons(1)), "expected at least 2 textons, got 1");
  CHECK_ERROR(Texture(TextureOptions().position(-1)), "expected a position of at least 0, got -1");
  CHECK_ERROR(Texture(TextureOptions().sharpness(0)), "expected a positive sharpness, got 0");
  Texture texture = fitted();
  CHECK_ERROR(texture->features(noise(1, 64, 60)), "multiples of the patch size 8, got 64 x 60");
  CHECK_ERROR(texture->features(noise(1, 64, 4)), "multiples of the patch size 8, got 64 x 4");
  CHECK_ERROR(texture->features(at::zeros({1, 3, 0, 8})), "with no dimension of size 0, got (1, 3, 0, 8)");
  CHECK_ERROR(texture->features(at::zeros({1, 1, 8, 8})), "expected images of shape (B,3,H,W), got (1, 1, 8, 8)");
  CHECK_ERROR(texture->features(at::zeros({1, 3, 8, 8}, torch::kByte)), "of a floating dtype");
  const auto small = [](int64_t) { return noise(1, 8, 8); };
  CHECK_ERROR(texture->fit(small, 0), "expected at least 1 picture, got 0");
  CHECK_ERROR(texture->fit(small, 15), "expected at least as many patches as textons, 16, got 15 from 15 pictures");
  CHECK_ERROR(texture->fit([](int64_t) { return noise(1, 12, 8); }, 3), "Texture::fit: expected a height and width");
}

TEST_CASE("texture: prints its options", "[texture]") {
  std::ostringstream out;
  out << *Texture(TextureOptions().textons(32).position(0).sharpness(5));
  CHECK(out.str() == "smooseg::backbone::Texture(textons=32, position=0, sharpness=5)");
}
