// Labels on a robot or a phone, without LibTorch: ONNX Runtime, TensorRT or the like computes the features, smooseg and
// Eigen the rest.
//
//     embedded MODEL.safetensors [ROWS COLUMNS HEIGHT WIDTH]    patches of a picture, and its size in pixels

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <random>
#include <smooseg/eigen/segment.hpp>
#include <vector>

namespace {

/// Stands for the backbone: patches of four textures, with noise, as a vision transformer gives its tokens: one after
/// the other, each with all of its channels.
std::vector<float> backbone(Eigen::Index patches, Eigen::Index channels) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> textures(static_cast<std::size_t>(4 * channels)), tokens;
  for (float& value : textures) value = normal(random);
  for (Eigen::Index p = 0; p < patches; ++p) {
    const Eigen::Index texture = 4 * p / patches;
    for (Eigen::Index c = 0; c < channels; ++c) {
      tokens.push_back(textures[static_cast<std::size_t>(texture * channels + c)] + 0.2F * normal(random));
    }
  }
  return tokens;
}
}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2 && argc != 6) {
    std::cerr << "usage: embedded MODEL.safetensors [ROWS COLUMNS HEIGHT WIDTH]\n";
    return 2;
  }
  const auto head = smooseg::eigen::read_head<float>(argv[1]);
  const auto number = [&](int i, long otherwise) { return argc == 6 ? std::max(0L, std::atol(argv[i])) : otherwise; };
  smooseg::eigen::Layout layout;
  layout.rows = number(2, 28), layout.columns = number(3, 28);
  layout.height = number(4, 224), layout.width = number(5, 224);

  const Eigen::Index channels = head.linear_weight.cols();
  const std::vector<float> tokens = backbone(layout.rows * layout.columns, channels);
  const auto begin = std::chrono::steady_clock::now();
  const Eigen::Map<const Eigen::MatrixXf> features(tokens.data(), channels,
                                                   layout.rows * layout.columns);  // not copied
  const smooseg::eigen::LabelMap labels = smooseg::eigen::segment(features, head, layout);
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - begin;

  for (Eigen::Index k = 0; k < head.teacher.rows(); ++k) {
    std::cout << "class " << k << ": " << (labels.array() == static_cast<int>(k)).count() << " pixels\n";
  }
  std::cout << taken.count() << " ms\n";
} catch (const std::exception& e) {
  std::cerr << e.what() << "\n";
  return 1;
}
