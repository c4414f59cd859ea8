// The frozen backbone: features of 224-pixel crops by DINO's ViT-S/8, and what its layers consist of.

#include <torch/nn/functional/activation.h>

#include <cmath>

#include "smooseg/backbone/vision_transformer.hpp"
#include "support.hpp"

namespace {

using smooseg::backbone::VisionTransformer;
using smooseg::backbone::VisionTransformerOptions;
using torch::Tensor;

VisionTransformerOptions options(int64_t embed_dim) {
  return {8, embed_dim, 12, embed_dim / 64};
}

/// The transformer as its papers write it: each block's queries, keys and values apart, all scores, their softmax.
class Naive {
 public:
  explicit Naive(const VisionTransformer& vit) : options_(vit->options), weights_(vit->named_parameters()) {}

  /// (B,3,H,W) of the size that the positions are for -> (B,N,C), the class token first.
  Tensor tokens(const Tensor& images) const {
    const Tensor patches =
        at::conv2d(images, weight("patch_embed.proj.weight"), weight("patch_embed.proj.bias"), options_.patch_size());
    const Tensor first = weight("cls_token").expand({images.size(0), -1, -1});
    Tensor x = at::cat({first, patches.flatten(2).transpose(1, 2)}, 1) + weight("pos_embed");
    for (int64_t i = 0; i < options_.depth(); ++i) {
      const std::string block = "blocks." + std::to_string(i) + ".";
      x = x + attention(norm(x, block + "norm1"), block + "attn.");
      x = x + linear(at::gelu(linear(norm(x, block + "norm2"), block + "mlp.fc1")), block + "mlp.fc2");
    }
    return norm(x, "norm");
  }

 private:
  const Tensor& weight(const std::string& name) const { return weights_[name]; }

  Tensor linear(const Tensor& x, const std::string& name) const {
    return at::linear(x, weight(name + ".weight"), weight(name + ".bias"));
  }

  Tensor norm(const Tensor& x, const std::string& name) const {
    return at::layer_norm(x, {options_.embed_dim()}, weight(name + ".weight"), weight(name + ".bias"), 1e-6);
  }

  Tensor attention(const Tensor& x, const std::string& name) const {
    const int64_t heads = options_.heads(), d = options_.embed_dim() / heads;
    const Tensor qkv = linear(x, name + "qkv").reshape({x.size(0), x.size(1), 3, heads, d}).permute({2, 0, 3, 1, 4});
    const Tensor scores = at::matmul(qkv[0], qkv[1].transpose(-2, -1)) / std::sqrt(static_cast<double>(d));
    const Tensor out = at::matmul(at::softmax(scores, -1), qkv[2]);
    return linear(out.transpose(1, 2).reshape(x.sizes()), name + "proj");
  }

  VisionTransformerOptions options_;
  torch::OrderedDict<std::string, Tensor> weights_;
};

/// @param forward images through a transformer.
template <class Forward>
void run(benchmark::State& state, torch::ScalarType dtype, const Forward& forward) {
  const torch::NoGradGuard no_grad;
  const int64_t b = state.range(0), c = state.range(1), n = 785, pixels = 224;
  torch::manual_seed(0);
  VisionTransformer vit(options(c));
  vit->to(bench::device(), dtype);
  const Tensor images = torch::randn({b, 3, pixels, pixels}, bench::device());
  const double block = 24. * static_cast<double>(n * c * c) + 4. * static_cast<double>(n * n * c);
  const double operations = static_cast<double>(b) * 12 * block;
  bench::measure(state, {operations, static_cast<double>(images.nbytes())}, [&] { forward(vit, images); });
}

template <torch::ScalarType dtype>
void BM_VisionTransformer(benchmark::State& state) {
  run(state, dtype, [](auto& vit, const Tensor& images) { vit->features(images); });
}

void BM_VisionTransformerNaive(benchmark::State& state) {
  run(state, torch::kFloat32, [](auto& vit, const Tensor& images) { Naive(vit).tokens(images); });
}

/// The machine's rate for large products: the floor of the above is their operations over this.
template <torch::ScalarType dtype>
void BM_Matmul(benchmark::State& state) {
  const torch::NoGradGuard no_grad;
  const int64_t n = state.range(0);
  const Tensor a = torch::randn({n, n}, torch::TensorOptions(bench::device()).dtype(dtype));
  const auto cube = static_cast<double>(n * n * n);
  bench::measure(state, {2 * cube, static_cast<double>(3 * a.nbytes())}, [&] { at::mm(a, a); });
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [] {
    const auto add = [](const char* name, void (*function)(benchmark::State&)) {
      bench::add(name, function, {"b", "c"})->Args({8, 384})->Args({1, 384});
    };
    add("BM_VisionTransformer", BM_VisionTransformer<torch::kFloat32>);
    add("BM_VisionTransformerNaive", BM_VisionTransformerNaive);
    add("BM_VisionTransformerBFloat16", BM_VisionTransformer<torch::kBFloat16>);
    bench::add("BM_Matmul", BM_Matmul<torch::kFloat32>, {"n"})->Arg(2048);
    bench::add("BM_MatmulBFloat16", BM_Matmul<torch::kBFloat16>, {"n"})->Arg(2048);
  });
}
