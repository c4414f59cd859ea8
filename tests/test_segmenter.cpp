// Pictures of any size to labels: padding, flips, tiles, upsampling.

#include <torch/nn/functional/pooling.h>
#include <torch/nn/functional/upsampling.h>

#include <fstream>
#include <memory>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "other_malloc.hpp"
#include "smooseg/backbone/texture.hpp"
#include "smooseg/backbone/vision_transformer.hpp"
#include "smooseg/segmenter.hpp"
#include "smooseg/window_segmenter.hpp"
#include "support.hpp"

using namespace smooseg;

namespace {

/// Channel means of each patch, and how often it was asked for.
class PatchMeans : public backbone::Backbone {
 public:
  explicit PatchMeans(bool whole) : whole_(whole) {}
  Tensor features(const Tensor& images) override {
    check_images(images, "PatchMeans");
    ++calls;
    largest = std::max(largest, images.size(2) * images.size(3));
    return torch::nn::functional::avg_pool2d(images, torch::nn::functional::AvgPool2dFuncOptions(4));
  }
  int64_t patch_size() const override { return 4; }
  int64_t channels() const override { return 3; }
  bool takes_whole_pictures() const override { return whole_; }

  int calls = 0;
  int64_t largest = 0;

 private:
  bool whole_;
};

Segmenter make(const SegmenterOptions& options = {}, bool whole = false) {
  torch::manual_seed(3);
  Segmenter segmenter(std::make_shared<PatchMeans>(whole), Projector(3, 5), PrototypePredictor(4, 5), options);
  segmenter->eval();
  return segmenter;
}

PatchMeans& backbone_of(Segmenter& segmenter) {
  return dynamic_cast<PatchMeans&>(*segmenter->backbone);
}

}  // namespace

TEST_CASE("codes are upsampled as LibTorch does, then compared with the teacher", "[segmenter]") {
  Segmenter segmenter = make();
  const Tensor images = torch::rand({2, 3, 24, 32});
  const Tensor code = segmenter->code(images);
  CHECK(code.sizes() == torch::IntArrayRef{2, 5, 6, 8});
  CHECK(code.equal(segmenter->projector(segmenter->backbone->features(images)).code.detach()));

  const auto upsampled = [&](int64_t height, int64_t width) {
    return functional::prototype_logits(segmenter->predictor->teacher,
                                        at::upsample_bilinear2d(code, {height, width}, /*align_corners=*/false));
  };
  const Tensor expected = upsampled(24, 32);
  CHECK(relative_error(segmenter->logits(images), expected) < 1e-5);
  CHECK_FALSE(segmenter->logits(images).requires_grad());
  CHECK(relative_error(segmenter->logits(images, 700, 900), upsampled(700, 900)) < 1e-5);  // in strips
  const Tensor rows = segmenter->logits_of_rows(segmenter->code(images), images, 700, 900, 100, 300);
  CHECK(relative_error(rows, upsampled(700, 900).slice(2, 100, 300)) < 1e-5);
  CHECK_ERROR(segmenter->logits_of_rows(segmenter->code(images), images, 700, 900, 600, 701),
              "logits_of_rows: expected rows within 0..700, got 600 to 701");
  CHECK_ERROR(segmenter->logits(images, 0, 900), "logits: expected a size of at least 1 x 1, got 0 x 900");
  CHECK(segmenter->labels(images).eq(expected.argmax(1)).to(torch::kFloat64).mean().item<double>() > 0.999);
}

TEST_CASE("labels at another size, in strips", "[segmenter]") {
  Segmenter segmenter = make();
  const Tensor images = torch::rand({1, 3, 16, 20});
  // Large enough for several strips: 8 Mi elements over 4 classes and 4000 columns are 524 rows.
  const Tensor labels = segmenter->labels(images, 1200, 4000);
  CHECK(labels.sizes() == torch::IntArrayRef{1, 1200, 4000});
  namespace F = torch::nn::functional;
  const Tensor code = segmenter->code(images);
  auto to = F::InterpolateFuncOptions().size(std::vector<int64_t>{1200, 4000}).mode(torch::kBilinear);
  const Tensor expected =
      functional::prototype_logits(segmenter->predictor->teacher, F::interpolate(code, to.align_corners(false)))
          .argmax(1);
  CHECK(labels.eq(expected).to(torch::kFloat64).mean().item<double>() > 0.9999);
}

TEST_CASE("any size: the border is repeated to whole patches", "[segmenter]") {
  Segmenter segmenter = make();
  const Tensor images = torch::rand({1, 3, 22, 29});
  const Tensor padded = at::cat({images, images.narrow(2, 21, 1).expand({-1, -1, 2, -1})}, 2);
  const Tensor whole = at::cat({padded, padded.narrow(3, 28, 1).expand({-1, -1, -1, 3})}, 3);
  CHECK(segmenter->code(images).equal(segmenter->code(whole)));
  CHECK(segmenter->labels(images).sizes() == torch::IntArrayRef{1, 22, 29});
  // What is not padding is labelled as in the padded picture.
  CHECK(segmenter->labels(images).equal(segmenter->labels(whole).narrow(1, 0, 22).narrow(2, 0, 29)));
}

TEST_CASE("flips are averaged", "[segmenter]") {
  Segmenter plain = make(), flipping = make(SegmenterOptions().flip(true));
  const Tensor images = torch::rand({1, 3, 16, 22});
  const Tensor padded = at::cat({images, images.narrow(3, 21, 1).expand({-1, -1, -1, 2})}, 3);
  const Tensor expected = (plain->code(padded) + plain->code(padded.flip({3})).flip({3})) / 2;
  CHECK(relative_error(flipping->code(images), expected) < 1e-6);
  CHECK(backbone_of(flipping).calls == 2);
}

TEST_CASE("tiles cover the picture, overlap, and keep within their size", "[segmenter]") {
  for (const int64_t length : {5, 8, 9, 15, 16, 40, 41}) {
    const auto spans = smooseg::detail::tile_spans(length, 8, 2);
    INFO(length);
    int64_t covered = 0;
    for (const auto& s : spans) {
      CHECK(s.keep_begin == covered);
      CHECK(s.keep_end > s.keep_begin);
      CHECK(s.start >= 0);
      CHECK(s.keep_begin >= s.start + (s.start > 0 ? 1 : 0));
      CHECK(s.keep_end <= s.start + std::min<int64_t>(8, length) - (s.keep_end < length ? 1 : 0));
      covered = s.keep_end;
    }
    CHECK(covered == length);
  }

  const auto options = SegmenterOptions().tile(32).overlap(8);
  const Tensor images = torch::rand({1, 3, 90, 71});
  Segmenter tiled = make(options), whole = make(options, true);
  CHECK(relative_error(tiled->code(images), whole->code(images)) < 1e-5);  // patch means do not see their neighbours
  CHECK(backbone_of(whole).calls == 1);
  CHECK(backbone_of(tiled).calls == 4 * 3);
  CHECK(backbone_of(tiled).largest == 32 * 32);
}

TEST_CASE("tiles go over linearly where they overlap", "[segmenter]") {
  using smooseg::detail::BlendedRows;
  // Two tiles of 6 of 10 columns share columns 4 and 5; each tile holds its number.
  int64_t made = 0;
  BlendedRows row(1, 10, 6, 2, [&](int64_t y, int64_t x, int64_t rows, int64_t columns) {
    CHECK((y == 0 && x == 4 * made && rows == 1 && columns == 6));
    return torch::full({1, 1, rows, columns}, static_cast<double>(made++), torch::kFloat64);
  });
  const Tensor expected = torch::tensor({0., 0., 0., 0., 1. / 3, 2. / 3, 1., 1., 1., 1.}, torch::kFloat64);
  CHECK((row.read(0, 1).flatten() - expected).abs().max().item<double>() < 1e-12);

  // A map that all tiles agree on comes out as it is, in whatever pieces it is read, also where three tiles overlap.
  const Tensor map = torch::rand({2, 3, 13, 9}, torch::kFloat64);
  for (const int64_t step : {1, 3, 5, 13}) {
    BlendedRows blended(13, 9, 6, 4, [&](int64_t y, int64_t x, int64_t rows, int64_t columns) {
      return map.narrow(2, y, rows).narrow(3, x, columns);
    });
    for (int64_t y = 0; y < 13; y += step) {
      const int64_t end = std::min<int64_t>(y + step, 13);
      CHECK((blended.read(y, end) - map.slice(2, y, end)).abs().max().item<double>() < 1e-12);
    }
  }

  // A code steps by no more across a seam than the tiles' difference over the overlap.
  class TileBackbone : public PatchMeans {
   public:
    using PatchMeans::PatchMeans;
    Tensor window_features(const Tensor& images, const backbone::Window& window) override {
      return features(images) + static_cast<double>(window.left / 24 + window.top / 24);
    }
  };
  Segmenter segmenter(std::make_shared<TileBackbone>(false), Projector(3, 5), PrototypePredictor(4, 5),
                      SegmenterOptions().tile(32).overlap(16));
  segmenter->eval();
  const Tensor code = segmenter->code(torch::zeros({1, 3, 64, 64}));  // 16 x 16 patches, tiles of 8 that share 4
  const Tensor steps = (code.slice(3, 1) - code.slice(3, 0, -1)).abs().amax({0, 2, 3});
  const Tensor range = code.amax({0, 2, 3}) - code.amin({0, 2, 3});
  CHECK((steps <= range / 3).all().item<bool>());
  CHECK(range.min().item<double>() > 0);
}

TEST_CASE("a picture read in windows has the labels of the whole", "[segmenter]") {
  torch::manual_seed(5);
  auto texture = std::make_shared<backbone::TextureImpl>(backbone::TextureOptions().textons(6));
  const auto smooth = [](int64_t height, int64_t width) {
    return at::upsample_bilinear2d(torch::randn({1, 3, 24, 20}), {height, width}, false) +
           0.1 * torch::randn({1, 3, height, width});
  };
  const Tensor picture = smooth(301, 243);
  texture->fit([&](int64_t) { return picture.slice(2, 0, 296).slice(3, 0, 240); }, 1);
  const auto check = [](const std::shared_ptr<backbone::Backbone>& backbone, const Tensor& image, int64_t reach,
                        bool flip) {
    CHECK(backbone->reach() == reach);
    Segmenter segmenter(backbone, Projector(backbone->channels(), 5), PrototypePredictor(4, 5),
                        SegmenterOptions().tile(64).overlap(16).flip(flip));
    segmenter->eval();
    {  // prototypes at four places of the picture, so that all of them are some place's label
      const torch::NoGradGuard no_grad;
      const Tensor cells = segmenter->code(image).flatten(2)[0].t();  // (N,D)
      segmenter->predictor->teacher.copy_(cells.index_select(0, torch::tensor({0, 200, 500, 900})));
    }
    const int64_t height = 350, width = 200;  // of the labels
    int64_t top = 0, largest = 0;
    WindowSegmenter windows(
        *segmenter, image.size(2), image.size(3),
        [&](int64_t y, int64_t x, int64_t rows, int64_t columns) {
          CHECK(y >= top);
          top = y;
          largest = std::max(largest, rows * columns);
          return image.narrow(2, y, rows).narrow(3, x, columns);
        },
        height, width);
    const Tensor labels = segmenter->labels(image, height, width), logits = segmenter->logits(image, height, width);
    CHECK(labels.min().item<int64_t>() < labels.max().item<int64_t>());
    std::vector<Tensor> rows;
    double error = 0;
    for (int64_t y = 0; y < height; y += 70) {
      const Tensor part = windows.logits(y, y + 60, 30, 170);
      error = std::max(error, (part - logits.slice(2, y, y + 60).slice(3, 30, 170)).abs().max().item<double>());
      rows.push_back(windows.labels(y, y + 70));
    }
    CHECK(error < 1e-4);
    CHECK(torch::cat(rows, 1).eq(labels).to(torch::kFloat64).mean().item<double>() > 0.999);
    CHECK(largest <= (64 + 2 * reach) * (64 + 2 * reach));
    CHECK_ERROR(windows.labels(0, 5), "expected rows not above those of an earlier call, which begin at 280, got 0");
    CHECK_ERROR(windows.labels(340, 351), "WindowSegmenter::labels: expected rows within 0..350, got 340 to 351");
    CHECK_ERROR(windows.logits(340, 341, 5, 201), "expected columns within 0..200, got 5 to 201");
  };
  for (const bool flip : {false, true}) {
    check(texture, picture, 56, flip);                             // sees its place, and what lies around
    check(std::make_shared<PatchMeans>(false), picture, 0, flip);  // tiles in either way
  }
  Segmenter small = make();
  const auto none = [](int64_t, int64_t, int64_t, int64_t) { return torch::zeros({1, 3, 5, 5}); };
  CHECK_ERROR(WindowSegmenter(*small, 3, 20, none), "at least a patch of 4 x 4 pixels, got 3 x 20");
  WindowSegmenter wrong(*small, 20, 20, none);
  CHECK_ERROR(wrong.labels(0, 1), "expected the window that was asked for, 20 x 20 pixels, got (1, 3, 5, 5)");
}

TEST_CASE("labels are those of evaluation, whatever the mode", "[segmenter]") {
  Segmenter segmenter = make();
  const Tensor images = torch::rand({2, 3, 16, 20}), expected = segmenter->logits(images);
  segmenter->train();
  CHECK(segmenter->projector->is_training());
  CHECK_FALSE(segmenter->backbone->is_training());
  CHECK(segmenter->logits(images).equal(expected));
}

TEST_CASE("a segmenter can be cloned where its backbone can", "[segmenter]") {
  CHECK_ERROR(make()->clone(), "has no clone(): derive it from smooseg::backbone::CloneableBackbone");
  const auto backbone =
      std::make_shared<backbone::VisionTransformerImpl>(backbone::VisionTransformerOptions(4, 6, 1, 2).image_size(16));
  Segmenter segmenter(backbone, Projector(6, 5), PrototypePredictor(4, 5), SegmenterOptions().flip(true));
  segmenter->eval();
  const auto clone = std::dynamic_pointer_cast<SegmenterImpl>(segmenter->clone());
  const Tensor images = torch::rand({1, 3, 16, 16}), expected = segmenter->logits(images);
  CHECK(clone->options.flip());
  CHECK_FALSE(clone->is_training());
  {
    const torch::NoGradGuard no_grad;
    for (const Tensor& p : segmenter->parameters()) p.zero_();
  }
  CHECK(clone->logits(images).equal(expected));
}

TEST_CASE("the segmenter refuses what does not fit", "[segmenter]") {
  Segmenter segmenter = make();
  CHECK_ERROR(segmenter->labels(torch::rand({1, 3, 3, 20})), "at least a patch of 4 x 4 pixels, got (1, 3, 3, 20)");
  CHECK_ERROR(segmenter->labels(torch::rand({1, 1, 20, 20})), "expected images of shape (B,3,H,W)");
  CHECK_ERROR(segmenter->labels(torch::rand({3, 20, 20})), "smooseg::Segmenter::code: expected images");
  CHECK_ERROR(segmenter->labels(torch::rand({1, 3, 8, 8}), 0, 4), "expected a size of at least 1 x 1, got 0 x 4");
  const auto backbone = std::make_shared<PatchMeans>(true);
  CHECK_ERROR(Segmenter(backbone, Projector(4, 5), PrototypePredictor(4, 5)), "backbone's 3 channels, got one for 4");
  CHECK_ERROR(Segmenter(backbone, Projector(3, 5), PrototypePredictor(4, 6)), "one embed_dim, got 5 and 6");
  CHECK_ERROR(Segmenter(backbone, Projector(3, 5), PrototypePredictor(4, 5), SegmenterOptions().tile(64)),
              "expected a tile of more pixels than the overlap plus a patch of 4, got 64 and 64");
  struct WrongPatch : PatchMeans {
    using PatchMeans::PatchMeans;
    int64_t patch_size() const override { return 2; }
  };
  Segmenter wrong(std::make_shared<WrongPatch>(true), Projector(3, 5), PrototypePredictor(4, 5));
  CHECK_ERROR(wrong->labels(torch::rand({1, 3, 8, 8})),
              "expected the backbone to give features of shape [1, 3, 4, 4] for images of (1, 3, 8, 8), since its "
              "patch_size() is 2 and channels() 3; got (1, 3, 2, 2)");
  CHECK_ERROR(Segmenter(nullptr, Projector(3, 5), PrototypePredictor(4, 5)), "the backbone is null");
}

namespace {

/// The smallest transformer with rotary positions, whose tables are the only thing that calls share.
Segmenter small_transformer() {
  torch::manual_seed(4);
  auto options = backbone::VisionTransformerOptions(4, 16, 2, 2).positions(backbone::PositionKind::kRotary);
  Segmenter segmenter(std::make_shared<backbone::VisionTransformerImpl>(options), Projector(16, 4),
                      PrototypePredictor(3, 4));
  segmenter->eval();
  return segmenter;
}

}  // namespace

TEST_CASE("one model labels on several threads at once", "[segmenter]") {
  Segmenter segmenter = small_transformer();
  std::vector<Tensor> images, expected;
  for (const int64_t side : {8, 12, 16, 20}) {
    images.push_back(torch::randn({2, 3, side, 24}));
    expected.push_back(small_transformer()->labels(images.back()));
  }
  std::vector<int> wrong(images.size(), 0);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < images.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = 0; i < 100; ++i) {
        const std::size_t at = (t + i) % images.size();
        wrong[t] += segmenter->labels(images[at]).equal(expected[at]) ? 0 : 1;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(images.size(), 0));
}

TEST_CASE("memory does not grow from call to call", "[segmenter]") {
#if defined(SMOOSEG_OTHER_MALLOC)
  WARN("not tested: sanitizers keep freed memory");
#else
  Segmenter segmenter = small_transformer();
  const auto label = [&](int calls) {
    for (int i = 0; i < calls; ++i) segmenter->labels(torch::ones({1, 3, 8 + 4 * (i % 3), 8}));
  };
  const auto resident_pages = [] {
    std::ifstream file("/proc/self/statm");
    int64_t all = 0, resident = 0;
    file >> all >> resident;
    return resident;
  };
  label(1000);
  const int64_t before = resident_pages();
  label(9000);
  CHECK(resident_pages() - before < 256);  // of 4 kB: a megabyte
#endif
}
