// The frozen backbone: features of 224-pixel crops by DINO's ViT-S/8, of 224 and 448 pixels by DINOv3's ViT-S/16 with its
// rotary positions, and what layers consist of.

#include <torch/nn/functional/activation.h>

#include <cmath>
#include <string>
#include <vector>

#include "smooseg/backbone/vision_transformer.hpp"
#include "support.hpp"

namespace {

using smooseg::backbone::VisionTransformer;
using smooseg::backbone::VisionTransformerOptions;
using torch::Tensor;

VisionTransformerOptions options(int64_t embed_dim) {
  return {8, embed_dim, 12, embed_dim / 64};
}

/// The transformer as its papers write it: each block's queries, keys and values apart, all scores, their softmax; with
/// rotary positions queries and keys turned before, by angles computed in each call.
class Naive {
 public:
  explicit Naive(const VisionTransformer& vit) : options_(vit->options), weights_(vit->named_parameters()) {}

  /// (B,3,H,W), with learned positions of the size that these are for -> (B,N,C), the class token first.
  Tensor tokens(const Tensor& images) const {
    const Tensor patches =
        at::conv2d(images, weight("patch_embed.proj.weight"), weight("patch_embed.proj.bias"), options_.patch_size());
    const auto for_all = [&](const char* name) { return weight(name).expand({images.size(0), -1, -1}); };
    std::vector<Tensor> tokens{for_all("cls_token")};
    if (options_.register_tokens() > 0) tokens.push_back(for_all("register_tokens"));
    tokens.push_back(patches.flatten(2).transpose(1, 2));
    Tensor x = at::cat(tokens, 1), cos, sin;
    const bool rotary = options_.positions() == smooseg::backbone::PositionKind::kRotary;
    if (rotary) {
      const Tensor angles = rotary_angles(patches.size(2), patches.size(3)).to(images.device());
      cos = angles.cos();
      sin = angles.sin();
    } else {
      x = x + weight("pos_embed");
    }
    const auto scaled = [&](const Tensor& y, const std::string& name) {
      return options_.layer_scale() ? y * weight(name + ".gamma") : y;
    };
    for (int64_t i = 0; i < options_.depth(); ++i) {
      const std::string block = "blocks." + std::to_string(i) + ".";
      x = x + scaled(attention(norm(x, block + "norm1"), block + "attn.", cos, sin), block + "ls1");
      const Tensor hidden = at::gelu(linear(norm(x, block + "norm2"), block + "mlp.fc1"));
      x = x + scaled(linear(hidden, block + "mlp.fc2"), block + "ls2");
    }
    return norm(x, "norm");
  }

 private:
  const Tensor& weight(const std::string& name) const { return weights_[name]; }

  Tensor linear(const Tensor& x, const std::string& name) const {
    return at::linear(x, weight(name + ".weight"), weight(name + ".bias"));
  }

  Tensor norm(const Tensor& x, const std::string& name) const {
    return at::layer_norm(x, {options_.embed_dim()}, weight(name + ".weight"), weight(name + ".bias"),
                          options_.norm_eps());
  }

  /// The angles of the patches, for all channels of a head: (rows columns, d).
  Tensor rotary_angles(int64_t rows, int64_t columns) const {
    const int64_t d = options_.embed_dim() / options_.heads();
    const Tensor periods = at::pow(options_.rotary_base(), torch::arange(d / 4) / (static_cast<double>(d) / 4));
    const auto along = [&](int64_t n) {
      const Tensor centres = (torch::arange(n) + 0.5) / static_cast<double>(n) * 2 - 1;
      return (2 * std::acos(-1.0) * centres).unsqueeze(1) / periods;
    };
    const std::vector<int64_t> grid{rows, columns, d / 4};
    const Tensor halves = at::cat({along(rows).unsqueeze(1).expand(grid), along(columns).expand(grid)}, 2);
    return halves.flatten(0, 1).repeat({1, 2});
  }

  /// The patches of x (B,heads,N,d) turned, x itself where there are no angles.
  static Tensor turned(const Tensor& x, const Tensor& cos, const Tensor& sin) {
    if (!cos.defined()) return x;
    const int64_t others = x.size(2) - cos.size(0);
    const Tensor patches = x.slice(2, others);
    const std::vector<Tensor> halves = patches.chunk(2, -1);
    const Tensor rotated = patches * cos + at::cat({-halves[1], halves[0]}, -1) * sin;
    return at::cat({x.slice(2, 0, others), rotated}, 2);
  }

  Tensor attention(const Tensor& x, const std::string& name, const Tensor& cos, const Tensor& sin) const {
    const int64_t heads = options_.heads(), d = options_.embed_dim() / heads;
    const Tensor qkv = linear(x, name + "qkv").reshape({x.size(0), x.size(1), 3, heads, d}).permute({2, 0, 3, 1, 4});
    const Tensor q = turned(qkv[0], cos, sin), k = turned(qkv[1], cos, sin);
    const Tensor scores = at::matmul(q, k.transpose(-2, -1)) / std::sqrt(static_cast<double>(d));
    const Tensor out = at::matmul(at::softmax(scores, -1), qkv[2]);
    return linear(out.transpose(1, 2).reshape(x.sizes()), name + "proj");
  }

  VisionTransformerOptions options_;
  torch::OrderedDict<std::string, Tensor> weights_;
};

/// @param forward images through a transformer.
template <class Forward>
void run(benchmark::State& state, const VisionTransformerOptions& made_with, int64_t pixels, torch::ScalarType dtype,
         const Forward& forward) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(0);
  VisionTransformer vit(made_with);
  vit->to(bench::device(), dtype);
  const int64_t b = state.range(0), c = made_with.embed_dim(), side = pixels / made_with.patch_size();
  const int64_t n = 1 + made_with.register_tokens() + side * side;
  const Tensor images = torch::randn({b, 3, pixels, pixels}, bench::device());
  const double block = 24. * static_cast<double>(n * c * c) + 4. * static_cast<double>(n * n * c);
  const double operations = static_cast<double>(b * made_with.depth()) * block;
  bench::measure(state, {operations, static_cast<double>(images.nbytes())}, [&] { forward(vit, images); });
}

constexpr auto kOurs = [](auto& vit, const Tensor& images) { vit->features(images); };
constexpr auto kNaive = [](auto& vit, const Tensor& images) { Naive(vit).tokens(images); };

template <torch::ScalarType dtype>
void BM_VisionTransformer(benchmark::State& state) {
  run(state, options(state.range(1)), 224, dtype, kOurs);
}

void BM_VisionTransformerNaive(benchmark::State& state) {
  run(state, options(state.range(1)), 224, torch::kFloat32, kNaive);
}

template <torch::ScalarType dtype>
void BM_RotaryTransformer(benchmark::State& state) {
  run(state, VisionTransformerOptions::dinov3_vits16(), state.range(1), dtype, kOurs);
}

void BM_RotaryTransformerNaive(benchmark::State& state) {
  run(state, VisionTransformerOptions::dinov3_vits16(), state.range(1), torch::kFloat32, kNaive);
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
    const auto add_rotary = [](const char* name, void (*function)(benchmark::State&)) {
      bench::add(name, function, {"b", "px"})->Args({1, 224})->Args({1, 448})->Args({8, 224});
    };
    add_rotary("BM_RotaryTransformer", BM_RotaryTransformer<torch::kFloat32>);
    add_rotary("BM_RotaryTransformerNaive", BM_RotaryTransformerNaive);
    add_rotary("BM_RotaryTransformerBFloat16", BM_RotaryTransformer<torch::kBFloat16>);
    bench::add("BM_Matmul", BM_Matmul<torch::kFloat32>, {"n"})->Arg(2048);
    bench::add("BM_MatmulBFloat16", BM_Matmul<torch::kBFloat16>, {"n"})->Arg(2048);
  });
}
