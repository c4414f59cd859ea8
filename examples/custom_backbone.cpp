// A backbone of one's own in a Segmenter: a step of training, labels of a picture, and the model in a file and back.

#include <filesystem>
#include <iostream>
#include <smooseg/io/load.hpp>
#include <smooseg/io/safetensors.hpp>
#include <smooseg/loss.hpp>
#include <smooseg/segmenter.hpp>

/// Mean colours of patches of 4 pixels, with horizontal and vertical position as two more channels: what is not in the
/// pictures, such as height, depth or near infrared, joins the features in the same way.
struct PatchColors : smooseg::backbone::Backbone {
  torch::Tensor features(const torch::Tensor& images) override {
    check_images(images, "PatchColors::features");
    const torch::Tensor colors = torch::avg_pool2d(images, patch_size());
    const int64_t height = colors.size(2), width = colors.size(3);
    const torch::Tensor y = torch::linspace(-1, 1, height, images.options()).view({1, 1, height, 1});
    const torch::Tensor x = torch::linspace(-1, 1, width, images.options()).view({1, 1, 1, width});
    const auto map = [&](const torch::Tensor& t) { return t.expand({images.size(0), 1, height, width}); };
    return torch::cat({colors, map(y), map(x)}, 1);
  }
  int64_t patch_size() const override { return 4; }
  int64_t channels() const override { return 5; }
};

smooseg::Segmenter make_segmenter() {
  return smooseg::Segmenter(std::make_shared<PatchColors>(), smooseg::Projector(5, 8),
                            smooseg::PrototypePredictor(3, 8));
}

int main() {
  torch::manual_seed(0);
  const torch::Tensor images = torch::randn({4, 3, 32, 48});
  smooseg::Segmenter segmenter = make_segmenter();
  smooseg::EnergyLoss energy;

  const auto projected = segmenter->projector(segmenter->backbone->features(images));
  const auto logits = segmenter->predictor(projected.code);
  energy(projected.features, logits, smooseg::functional::random_pairing(4)).total.backward();

  const auto path = (std::filesystem::temp_directory_path() / "smooseg_custom_backbone.safetensors").string();
  smooseg::io::write_safetensors(path, smooseg::io::tensors_of(*segmenter));
  smooseg::Segmenter loaded = make_segmenter();
  smooseg::io::load(*loaded, path);
  std::filesystem::remove(path);
  std::cout << "labels agree: " << std::boolalpha << loaded->labels(images).equal(segmenter->labels(images)) << "\n";
}
