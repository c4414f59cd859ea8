// Pictures of any size to labels: padding, flips, tiles, upsampling.

#include <torch/nn/functional/pooling.h>
#include <torch/nn/functional/upsampling.h>

#include <memory>

#include "catch.hpp"
#include "smooseg/backbone/vision_transformer.hpp"
#include "smooseg/segmenter.hpp"
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
