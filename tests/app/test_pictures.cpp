#include <torch/types.h>

#include <vector>

#include "report/pictures.hpp"
#include "support.hpp"

using namespace smooseg::app;
using torch::Tensor;

namespace {

const std::vector<Color> kColors{{200, 0, 0}, {0, 100, 0}};

Tensor pixel(int r, int g, int b) {
  return torch::tensor({r, g, b}, torch::kUInt8);
}

}  // namespace

TEST_CASE("colorize gives each index its colour", "[pictures]") {
  const Tensor indices = torch::tensor({{0, 1, -1}});
  const Tensor picture = colorize(indices, kColors, {7, 8, 9});
  CHECK(picture.sizes() == torch::IntArrayRef({1, 3, 3}));
  CHECK(picture.scalar_type() == torch::kUInt8);
  CHECK(picture[0][0].equal(pixel(200, 0, 0)));
  CHECK(picture[0][1].equal(pixel(0, 100, 0)));
  CHECK(picture[0][2].equal(pixel(7, 8, 9)));
  CHECK(colorize(indices.t(), kColors)[2][0].equal(pixel(0, 0, 0)));
  CHECK(colorize(indices.clamp_min(0).to(torch::kUInt8), kColors)[0][1].equal(pixel(0, 100, 0)));

  CHECK_ERROR(colorize(indices + 1, kColors), "colorize: expected indices below the number of colours, 2, got 2");
  CHECK_ERROR(colorize(indices[0], kColors),
              "expected indices of shape (H,W) and an integral dtype on the CPU, got (3)");
  CHECK_ERROR(colorize(indices.to(torch::kFloat32), kColors), "got (1, 3), Float");
}

TEST_CASE("overlay blends and draws borders", "[pictures]") {
  const Tensor image = torch::full({3, 6, 3}, 100, torch::kUInt8);
  const Tensor indices = torch::tensor({0, 0, 1, 1, 1, 1}).expand({3, 6});
  const Tensor picture = overlay(image, indices, kColors, 0.25);
  CHECK(picture.scalar_type() == torch::kUInt8);
  CHECK(picture[1][0].equal(pixel(125, 75, 75)));
  CHECK(picture[1][1].equal(pixel(200, 0, 0)));
  CHECK(picture[1][2].equal(pixel(0, 100, 0)));
  CHECK(picture[1][3].equal(pixel(75, 100, 75)));
  CHECK(overlay(image, indices, kColors, 1).equal(colorize(indices, kColors)));
  CHECK(overlay(image, torch::zeros({3, 6}, torch::kInt64), kColors, 0).equal(image));
  CHECK(overlay(image, torch::full({3, 6}, -1), kColors, 1).equal(image));

  // Large pictures are drawn in strips, which show in no pixel.
  torch::manual_seed(1);
  const Tensor large = torch::randint(256, {1500, 2000, 3}, torch::kUInt8), noise = torch::randint(2, {1500, 2000});
  const Tensor whole = overlay(large, noise, kColors, 0.25),
               middle = overlay(large.slice(0, 1000, 1100), noise.slice(0, 1000, 1100), kColors, 0.25);
  CHECK(whole.slice(0, 1001, 1099).equal(middle.slice(0, 1, 99)));

  const Tensor with_hole = torch::tensor({{0, 0}, {0, -1}});
  CHECK(overlay(image.narrow(0, 0, 2).narrow(1, 0, 2), with_hole, kColors, 0.5)[1][1].equal(pixel(100, 100, 100)));

  CHECK_ERROR(overlay(image, indices.t(), kColors, 0.5),
              "overlay: expected indices of the image's size 3 x 6, got 6 x 3");
  CHECK_ERROR(overlay(image, indices, kColors, 1.5), "overlay: expected alpha within 0..1, got 1.5");
  CHECK_ERROR(overlay(image.to(torch::kFloat32), indices, kColors, 0.5), "expected an image of shape (H,W,3), uint8");
}

TEST_CASE("panel puts pictures side by side", "[pictures]") {
  const Tensor a = torch::zeros({2, 3, 3}, torch::kUInt8);
  const Tensor b = torch::full({2, 5, 3}, 9, torch::kUInt8);
  const Tensor picture = panel({a, b});
  CHECK(picture.sizes() == torch::IntArrayRef({2, 3 + 4 + 5, 3}));
  CHECK(picture.narrow(1, 0, 3).equal(a));
  CHECK(picture.narrow(1, 3, 4).eq(255).all().item<bool>());
  CHECK(picture.narrow(1, 7, 5).equal(b));
  CHECK(panel({b}).equal(b));
  CHECK_ERROR(panel({}), "panel: expected at least one picture, got none");
  CHECK_ERROR(panel({a, b.narrow(0, 0, 1)}), "panel: expected pictures of one height, 2, got 1");
}
