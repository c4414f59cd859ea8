// From features to labels in Eigen alone: against Projector and Segmenter, by way of a model file.

#include <torch/nn/functional/pooling.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "catch.hpp"
#include "eigen_maps.hpp"
#include "smooseg/backbone/backbone.hpp"
#include "smooseg/eigen/segment.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/segmenter.hpp"
#include "support.hpp"
#include "tensor_files.hpp"

namespace {

using namespace smooseg;
using eigen::Matrix;

/// Means of patches of 4 x 4 pixels, and their squares.
class MeansAndSquares : public backbone::Backbone {
 public:
  Tensor features(const Tensor& images) override {
    const Tensor x = torch::nn::functional::avg_pool2d(images, torch::nn::functional::AvgPool2dFuncOptions(4));
    return at::cat({x, x.square()}, 1);
  }
  int64_t patch_size() const override { return 4; }
  int64_t channels() const override { return 6; }
};

Segmenter means_segmenter(torch::ScalarType dtype) {
  torch::manual_seed(5);
  Segmenter segmenter(std::make_shared<MeansAndSquares>(), Projector(6, 5), PrototypePredictor(7, 5));
  segmenter->to(dtype);
  segmenter->eval();
  return segmenter;
}

/// Features (1,C,h,w) of type Scalar as a map (C,N), in their own memory.
template <class Scalar>
auto map_over(const Tensor& features) {
  using RowMajor = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  return Eigen::Map<const RowMajor>(features.data_ptr<Scalar>(), features.size(1), features.size(2) * features.size(3));
}

void save_tensors(const Segmenter& segmenter, const std::string& path) {
  io::write_safetensors(path, io::tensors_of(*segmenter));
}

template <class Scalar>
void check_eigen_labels(torch::ScalarType dtype, double least_share) {
  const TempDir dir;
  const std::string path = (dir.path / "model.safetensors").string();
  Segmenter segmenter = means_segmenter(dtype);
  save_tensors(segmenter, path);
  const auto head = eigen::read_head<Scalar>(path);
  struct Size {
    int64_t height, width, out_height, out_width;
  };
  for (const Size& s : {Size{24, 32, 24, 32}, Size{22, 29, 22, 29}, Size{22, 29, 100, 45}, Size{16, 40, 3, 5},
                        Size{4, 4, 9, 11}, Size{5, 400, 5, 400}}) {
    INFO(s.height << " x " << s.width << " to " << s.out_height << " x " << s.out_width);
    const Tensor images = torch::rand({1, 3, s.height, s.width}, dtype);
    const int64_t right = (4 - s.width % 4) % 4, below = (4 - s.height % 4) % 4;
    const Tensor features =
        segmenter->backbone->features(at::replication_pad2d(images, {0, right, 0, below})).contiguous();
    eigen::Layout layout;
    layout.rows = features.size(2);
    layout.columns = features.size(3);
    layout.height = s.out_height;
    layout.width = s.out_width;
    layout.filled_rows = static_cast<double>(s.height) / 4;
    layout.filled_columns = static_cast<double>(s.width) / 4;
    const eigen::LabelMap labels = eigen::segment(map_over<Scalar>(features), head, layout);
    const Tensor expected = segmenter->labels(images, s.out_height, s.out_width)[0];
    REQUIRE(labels.rows() == s.out_height);
    REQUIRE(labels.cols() == s.out_width);
    const Tensor got = torch_tensor_of(labels);
    CHECK(got.eq(expected).to(torch::kFloat64).mean().item<double>() >= least_share);
    if (right + below == 0) {  // then the picture fills all patches
      layout.filled_rows = layout.filled_columns = 0;
      CHECK((eigen::segment(map_over<Scalar>(features), head, layout).array() == labels.array()).all());
    }
  }
}

}  // namespace

TEST_CASE("labels in Eigen: those of the Segmenter, by way of its model file", "[eigen][segmenter]") {
  check_eigen_labels<double>(torch::kFloat64, 1);
  check_eigen_labels<float>(torch::kFloat32, 0.99);
}

TEST_CASE("code in Eigen: that of the Projector", "[eigen][projector]") {
  const TempDir dir;
  const std::string path = (dir.path / "model.safetensors").string();
  Segmenter segmenter = means_segmenter(torch::kFloat64);
  save_tensors(segmenter, path);
  const auto head = eigen::read_head<double>(path);
  const Tensor features = torch::randn({1, 6, 23, 30}, torch::kFloat64);  // more patches than a block
  const Tensor expected = segmenter->projector->code(features)[0].flatten(1).detach();
  CHECK(relative_error(torch_tensor_of(eigen::code(map_over<double>(features), head)), expected) < 1e-13);

  // The tokens of a vision transformer, (1 + N, C) with one for the class, are read where they lie.
  const Tensor tokens = at::cat({torch::zeros({1, 6}, torch::kFloat64), features[0].flatten(1).t()}).contiguous();
  const Eigen::Map<const Matrix<double>> all(tokens.data_ptr<double>(), 6, tokens.size(0));
  CHECK(relative_error(torch_tensor_of(eigen::code(all.rightCols(all.cols() - 1), head)), expected) < 1e-13);
  // Far from 0 the activation neither overflows nor loses its sign.
  CHECK(eigen::code((1e6 * map_over<double>(features)).eval(), head).allFinite());
}

TEST_CASE("a head is read from a file of any floating dtype", "[eigen][io]") {
  const TempDir dir;
  const std::string path = (dir.path / "model.safetensors").string();
  for (const auto dtype : {torch::kFloat64, torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
    INFO(dtype);
    io::TensorMap tensors = io::tensors_of(*means_segmenter(torch::kFloat64));
    for (auto& item : tensors) item.second = item.second.to(dtype);
    io::write_safetensors(path, tensors);
    const auto head = eigen::read_head<double>(path);
    const Tensor expected = tensors.at("projector.mlp.0.weight").detach().flatten(1).to(torch::kFloat64);
    CHECK(torch_tensor_of(head.hidden_weight).equal(expected));
    CHECK(torch_tensor_of(head.teacher).equal(tensors.at("predictor.teacher").to(torch::kFloat64)));
    CHECK(torch_tensor_of(Matrix<double>(head.out_bias))
              .flatten()
              .equal(tensors.at("projector.mlp.2.bias").detach().to(torch::kFloat64)));
    CHECK(eigen::read_head<float>(path).linear_weight.isApprox(head.linear_weight.cast<float>()));
  }
}

TEST_CASE("files that hold no head are refused by name", "[eigen][io][bad input]") {
  const TempDir dir;
  const std::string path = (dir.path / "model.safetensors").string();
  const auto error = [&](const std::string& of = "") {
    return error_of([&] { eigen::read_head<float>(of.empty() ? path : of); });
  };
  CHECK(error() == path + ": no such file");
  CHECK(error(dir.path.string()) == dir.path.string() + ": is a folder, expected a file");
  write_content(path, "");
  CHECK(error() == path + ": is empty");
  CHECK_THROWS_AS(eigen::read_head<float>(path), std::invalid_argument);

  const io::TensorMap good = io::tensors_of(*means_segmenter(torch::kFloat32));
  const auto error_with = [&](const std::string& name, const Tensor& tensor) {
    io::TensorMap tensors = good;
    tensors.erase(name);
    if (tensor.defined()) tensors[name] = tensor;
    io::write_safetensors(path, tensors);
    return error();
  };
  CHECK(error_with("", {}).empty());
  CHECK(error_with("predictor.teacher", {}) == path + ": no model of smooseg: it has no tensor 'predictor.teacher'");
  CHECK(error_with("predictor.teacher", torch::zeros({7})) ==
        path + ": expected tensor 'predictor.teacher' of shape [rows, columns], got [7]");
  CHECK(error_with("predictor.teacher", torch::zeros({7, 4})) ==
        path + ": expected teacher of shape (K, 5) to go with linear_weight (5, 6), got (7, 4)");
  CHECK(error_with("projector.mlp.0.weight", torch::zeros({6, 6, 3, 3})) ==
        path + ": expected tensor 'projector.mlp.0.weight' of shape [rows, columns, 1, 1], got [6, 6, 3, 3]");
  CHECK(error_with("projector.mlp.0.weight", torch::zeros({5, 6, 1, 1})) ==
        path + ": expected hidden_weight of shape (6, 6) to go with linear_weight (5, 6), got (5, 6)");
  CHECK(error_with("projector.linear.bias", torch::zeros({6})) ==
        path + ": expected linear_bias of shape (5) to go with linear_weight (5, 6), got (6)");
  CHECK(error_with("projector.linear.bias", torch::zeros({5}, torch::kInt64)) ==
        path + ": tensor 'projector.linear.bias' has dtype I64, expected F64, F32, F16 or BF16");
  CHECK(error_with("projector.linear.weight", torch::zeros({0, 6, 1, 1})) ==
        path + ": expected linear_weight of shape (D, C), with no dimension of size 0, got (0, 6)");

  error_with("", {});
  const std::string content = content_of(path);
  for (const size_t length : {size_t{5}, size_t{60}, content.size() - 1}) {
    INFO(length);
    write_content(path, content.substr(0, length));
    CHECK(error().find(path + ": truncated or corrupt: ") == 0);
  }
}

TEST_CASE("numbers of a safetensors file without LibTorch", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.safetensors").string();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const Tensor numbers =
      torch::tensor({0.0, -0.0, 1.0, -2.5, 65504.0, 6.1e-5, 6e-8, -5.97e-8, 1.0 / 3, kInfinity, -kInfinity});
  io::TensorMap tensors{
      {"none", torch::empty({0, 3})}, {"scalar", torch::tensor(2.5)}, {"int", torch::ones({2}, torch::kInt32)}};
  const std::map<std::string, torch::ScalarType> dtypes{
      {"F64", torch::kFloat64}, {"F32", torch::kFloat32}, {"F16", torch::kFloat16}, {"BF16", torch::kBFloat16}};
  for (const auto& [name, dtype] : dtypes) tensors[name] = numbers.to(dtype);
  tensors["all"] = torch::arange(-32768, 32768).to(torch::kInt16).view(torch::kFloat16);
  io::write_safetensors(path, tensors, {{"key", "ü"}});

  io::SafetensorsReader reader(path);
  CHECK(reader.metadata() == std::map<std::string, std::string>{{"key", "ü"}});
  CHECK(reader.has("F64"));
  CHECK_FALSE(reader.has("F63"));
  CHECK(reader.shape("none") == std::vector<int64_t>{0, 3});
  CHECK(reader.values<float>("none").empty());
  CHECK(reader.values<float>("scalar") == std::vector<float>{2.5F});
  for (const auto& item : dtypes) {
    INFO(item.first);
    const Tensor expected = tensors.at(item.first).to(torch::kFloat64);
    const auto got = reader.values<double>(item.first);
    CHECK(torch::tensor(got, torch::kFloat64).equal(expected));
    CHECK(std::signbit(got[1]));
  }
  const auto all = reader.values<float>("all");  // every float16 there is
  const Tensor expected = tensors.at("all").to(torch::kFloat32), got = torch::tensor(all);
  CHECK((got.eq(expected).logical_or(got.isnan().logical_and(expected.isnan()))).all().item<bool>());
  CHECK_ERROR(reader.values<float>("int"), path + ": tensor 'int' has dtype I32, expected F64, F32, F16 or BF16");
  CHECK_ERROR(reader.values<float>("other"), path + ": has no tensor 'other'");

  write_content(path, safetensors_content(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8));
  CHECK_ERROR(io::SafetensorsReader(path).values<float>("a"),
              "'a' of shape [3] and dtype F32 does not fit its 8 bytes");
  write_content(path, safetensors_content(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7));
  CHECK_ERROR(io::SafetensorsReader(path), path + ": truncated or corrupt: expected 8 bytes of tensors, got 7");
  write_content(path, little(3, 8) + "{}");
  CHECK_ERROR(io::SafetensorsReader(path), "truncated or corrupt: expected a header of 3 bytes, the file has 10");
  write_content(path, little(uint64_t{1} << 63, 8) + "{}");
  CHECK_ERROR(io::SafetensorsReader(path), "not a safetensors file: a header of 9223372036854775808 bytes");
  write_content(path, "{}");
  CHECK_ERROR(io::SafetensorsReader(path), path + ": truncated or corrupt: no length of a header");
}

TEST_CASE("labels in Eigen: what does not fit is refused", "[eigen][bad input]") {
  const TempDir dir;
  const std::string path = (dir.path / "model.safetensors").string();
  save_tensors(means_segmenter(torch::kFloat32), path);
  const auto head = eigen::read_head<float>(path);
  const Matrix<float> features = Matrix<float>::Ones(6, 12);
  const auto error = [&](const Matrix<float>& x, const eigen::Head<float>& h, Eigen::Index rows, Eigen::Index columns,
                         Eigen::Index height, Eigen::Index width, double filled_rows = 0) {
    eigen::Layout layout;
    layout.rows = rows, layout.columns = columns;
    layout.height = height, layout.width = width;
    layout.filled_rows = filled_rows;
    return error_of([&] { eigen::segment(x, h, layout); });
  };
  CHECK(error(features, head, 3, 4, 5, 6).empty());
  CHECK(error(features, head, 3, 5, 5, 6) ==
        "smooseg::eigen::segment: expected rows x columns to be the features' 12 patches, got 3 x 5");
  CHECK(error(features, head, 0, 0, 5, 6).find("got 0 x 0") != std::string::npos);
  CHECK(error(features, head, -3, -4, 5, 6).find("got -3 x -4") != std::string::npos);
  CHECK(error(features, head, std::numeric_limits<Eigen::Index>::max(), 4, 5, 6).find("12 patches") !=
        std::string::npos);
  CHECK(error(features, head, 3, 4, 0, 6).find("expected a height and width of at least 1, got 0 x 6") !=
        std::string::npos);
  CHECK(error(features, head, 3, 4, 5, 6, 3.5).find("filled_rows and filled_columns of 0 to 3 x 4") !=
        std::string::npos);
  CHECK(error(features, head, 3, 4, 5, 6, NAN).find("filled_rows and filled_columns") != std::string::npos);
  CHECK(error(Matrix<float>::Ones(5, 12), head, 3, 4, 5, 6) ==
        "smooseg::eigen::code: expected features of shape (C,N) with 6 channels and at least one patch, got (5, 12)");
  CHECK(error(Matrix<float>(6, 0), head, 3, 4, 5, 6).find("0 patches") != std::string::npos);
  Matrix<float> broken = features;
  broken(2, 3) = NAN;
  CHECK(error(broken, head, 3, 4, 5, 6).find("hold values that are not finite") != std::string::npos);
  eigen::Head<float> half = head;
  half.hidden_bias.resize(5);
  CHECK(error(features, half, 3, 4, 5, 6) ==
        "smooseg::eigen::code: expected hidden_bias of shape (6) to go with linear_weight (5, 6), got (5)");
  half = head;
  half.teacher(1, 1) = INFINITY;
  CHECK(error(features, half, 3, 4, 5, 6).find("expected teacher to be finite") != std::string::npos);
  CHECK(error(features, {}, 3, 4, 5, 6).find("expected linear_weight of shape (D, C)") != std::string::npos);
}
