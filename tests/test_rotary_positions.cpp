// Rotary positions: their angles, and attention with them against the textbook's.

#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "smooseg/backbone/rotary_positions.hpp"
#include "smooseg/detail/kernels/attention.hpp"
#include "smooseg/detail/kernels/rotation.hpp"
#include "smooseg/io/load.hpp"
#include "support.hpp"

using smooseg::Tensor;
using smooseg::backbone::RotaryPositions;
using smooseg::detail::Rotation;

namespace {

/// x (B,N,heads d) turned as the paper writes it: v cos + rotate_half(v) sin.
Tensor turned(const Tensor& x, int64_t heads, const Rotation& rotation) {
  const Tensor v = x.unflatten(2, {heads, x.size(2) / heads}).to(torch::kFloat64);
  const auto twice = [&](const Tensor& t) { return torch::cat({t, t}, 1).to(torch::kFloat64).unsqueeze(1); };
  const int64_t half = v.size(3) / 2;
  const Tensor rotated = torch::cat({-v.slice(3, half), v.slice(3, 0, half)}, 3);
  return (v * twice(rotation.cos) + rotated * twice(rotation.sin)).flatten(2);
}

/// softmax(q k^T / sqrt(d)) v of turned queries and keys, in float64.
Tensor rotary_textbook(const Tensor& qkv, int64_t heads, const Rotation& rotation) {
  const std::vector<Tensor> parts = qkv.chunk(3, 2);
  const auto split = [&](const Tensor& t) {
    return t.to(torch::kFloat64).unflatten(2, {heads, t.size(2) / heads}).transpose(1, 2);
  };
  const Tensor q = split(turned(parts[0], heads, rotation)), k = split(turned(parts[1], heads, rotation));
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(3)));
  return torch::matmul((torch::matmul(q, k.transpose(2, 3)) * scale).softmax(-1), split(parts[2]))
      .transpose(1, 2)
      .flatten(2);
}

/// Random angles of tokens for heads of d channels.
Rotation random_rotation(int64_t tokens, int64_t d) {
  const Tensor angles = torch::rand({tokens, d / 2}, torch::kFloat64) * 6;
  return {angles.cos(), angles.sin()};
}

}  // namespace

TEST_CASE("attention with rotary positions is the textbook's, in any dtype", "[backbone][rotary]") {
  torch::manual_seed(0);
  // Heads of less than a vector and of several, several blocks of queries and several tasks.
  for (const auto& [batch, tokens, heads, d] : std::vector<std::array<int64_t, 4>>{
           {1, 1, 1, 4}, {2, 3, 2, 12}, {1, 65, 3, 16}, {2, 201, 2, 64}, {1, 1100, 1, 40}}) {
    INFO(batch << " x " << tokens << " tokens, " << heads << " heads of " << d);
    const Tensor qkv = torch::randn({batch, tokens, 3 * heads * d}, torch::kFloat64) * 2;
    const Rotation rotation = random_rotation(tokens, d);
    const Tensor expected = rotary_textbook(qkv, heads, rotation);
    CHECK(relative_error(smooseg::detail::attention(qkv, heads, rotation), expected) < 1e-13);
    CHECK(relative_error(smooseg::detail::attention(qkv.to(torch::kFloat32), heads, rotation), expected) < 1e-5);
    if (tokens > 3) CHECK(relative_error(smooseg::detail::attention(qkv, heads), expected) > 0.1);
    for (const torch::ScalarType dtype : {torch::kBFloat16, torch::kHalf}) {
      const Tensor narrow = smooseg::detail::attention(qkv.to(dtype), heads, rotation);
      CHECK(narrow.scalar_type() == dtype);
      CHECK(relative_error(narrow, rotary_textbook(qkv.to(dtype), heads, rotation)) < 0.02);
    }
    Tensor ours = qkv.clone().requires_grad_(), theirs = qkv.clone().requires_grad_();
    const Tensor recorded = smooseg::detail::attention(ours, heads, rotation);
    CHECK(relative_error(recorded, expected) < 1e-12);
    recorded.square().sum().backward();
    rotary_textbook(theirs, heads, rotation).square().sum().backward();
    CHECK(relative_error(ours.grad(), theirs.grad()) < 1e-12);

    // Rounded to bfloat16 on the way: the kernel and LibTorch's operators round alike.
    const Rotation rounding{rotation.cos.to(torch::kBFloat16).to(torch::kFloat32),
                            rotation.sin.to(torch::kBFloat16).to(torch::kFloat32), true};
    const Tensor rounded = smooseg::detail::attention(qkv.to(torch::kFloat32), heads, rounding);
    const Tensor by_operators =
        smooseg::detail::attention(qkv.to(torch::kFloat32).requires_grad_(), heads, rounding).detach();
    CHECK(relative_error(rounded, by_operators) < 1e-5);
    if (tokens > 3) CHECK(relative_error(rounded, expected) > 1e-4);
  }
}

TEST_CASE("rows are turned alike on every instruction set, from and to any dtype", "[backbone][rotary]") {
  using namespace smooseg::detail;
  torch::manual_seed(1);
  constexpr int64_t kRows = 3;
  for (const int64_t d : {4, 20, 64, 72}) {
    const Tensor x = torch::randn({1, kRows, d});
    const Rotation rotation = random_rotation(kRows, d).to(torch::kFloat32);
    for (const Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512}) {
      if (isa > machine_isa()) {
        if (d == 4) WARN("skipped: this machine lacks instruction set " << static_cast<int>(isa));
        continue;
      }
      INFO(d << " channels, instruction set " << static_cast<int>(isa));
      const auto run = [&](auto in_zero, auto out_zero, const Tensor& from) {
        using In = decltype(in_zero);
        using Out = decltype(out_zero);
        const Tensor out = torch::empty({1, kRows, d}, c10::CppTypeToScalarType<Out>::value);
        run_kernel<Rotate>(isa, kRows, d, Rows<const In>{from.data_ptr<In>(), d}, turns_of<float>(rotation), 1.f,
                           Rows<Out>{out.data_ptr<Out>(), d});
        return out;
      };
      const auto to_bfloat16 = [](const Tensor& t) { return t.to(torch::kBFloat16); };
      CHECK(relative_error(run(0.f, 0.f, x), turned(x, 1, rotation)) < 1e-6);
      const Tensor narrow = to_bfloat16(x), half = x.to(torch::kHalf);
      CHECK(relative_error(run(c10::Half(), 0.f, half), turned(half, 1, rotation)) < 1e-6);
      const Tensor wide = run(c10::BFloat16(), 0.f, narrow);
      CHECK(relative_error(wide, turned(narrow, 1, rotation)) < 1e-6);
      CHECK(run(c10::BFloat16(), c10::BFloat16(), narrow).equal(to_bfloat16(wide)));

      // With rounding: bit for bit what bfloat16 operators give.
      const auto twice = [](const Tensor& t) { return torch::cat({t, t}, 1).to(torch::kBFloat16); };
      const std::vector<Tensor> halves = narrow.chunk(2, 2);
      const Tensor expected =
          narrow * twice(rotation.cos) + torch::cat({-halves[1], halves[0]}, 2) * twice(rotation.sin);
      const Rotation rounded{to_bfloat16(rotation.cos).to(torch::kFloat32),
                             to_bfloat16(rotation.sin).to(torch::kFloat32), true};
      const Tensor out = torch::empty({1, kRows, d}, torch::kBFloat16);
      run_kernel<Rotate>(isa, kRows, d, Rows<const float>{x.data_ptr<float>(), d}, turns_of<float>(rounded), 1.f,
                         Rows<c10::BFloat16>{out.data_ptr<c10::BFloat16>(), d});
      CHECK(out.equal(expected));
    }
  }
  // What is no number stays none.
  const Tensor odd = torch::tensor({NAN, 2.f, 1.f, 3e38f}).view({1, 1, 4});
  const Tensor out = torch::empty({1, 1, 4}, torch::kBFloat16);
  const Rotation none{torch::ones({1, 2}), torch::zeros({1, 2})};
  run_kernel<Rotate>(machine_isa(), int64_t{1}, int64_t{4}, Rows<const float>{odd.data_ptr<float>(), 4},
                     turns_of<float>(none), 1.f, Rows<c10::BFloat16>{out.data_ptr<c10::BFloat16>(), 4});
  CHECK(out.isnan()[0][0][0].item<bool>());
  CHECK(out[0][0][3].item<float>() > 2.9e38f);
}

TEST_CASE("rotary positions are the formula's, computed once a size", "[backbone][rotary]") {
  RotaryPositions positions(8, 100.0);
  const smooseg::io::TensorMap state = smooseg::io::tensors_of(*positions);
  CHECK(relative_error(state.at("periods"), torch::tensor({1.0, 10.0})) < 1e-6);

  // Two tokens before 1 x 2 patches, whose centres are y = 0 and x = -1/2, 1/2: angles -pi and -pi/10 for x.
  const Tensor like = torch::zeros({1}), wide = torch::zeros({1}, torch::kFloat64);
  const Rotation rotation = positions->rotation(2, 1, 2, wide);
  CHECK(rotation.cos.sizes() == torch::IntArrayRef({4, 4}));
  const double pi = std::acos(-1.0);
  const Tensor angles =
      torch::tensor({0., 0., 0., 0., 0., 0., 0., 0., 0., 0., -pi, -pi / 10, 0., 0., pi, pi / 10}, torch::kFloat64)
          .view({4, 4});
  CHECK((rotation.cos - angles.cos()).abs().max().item<double>() < 1e-7);
  CHECK((rotation.sin - angles.sin()).abs().max().item<double>() < 1e-6);

  const Rotation first = positions->rotation(5, 14, 14, like);
  CHECK(first.cos.scalar_type() == torch::kFloat32);
  CHECK(positions->rotation(5, 14, 14, like).cos.data_ptr() == first.cos.data_ptr());
  CHECK(positions->rotation(5, 14, 14, torch::zeros({1}, torch::kBFloat16)).cos.data_ptr() == first.cos.data_ptr());
  CHECK(positions->rotation(5, 14, 15, like).cos.data_ptr() != first.cos.data_ptr());
  for (int64_t rows = 1; rows < 40; ++rows) positions->rotation(5, rows, 2, like);  // more sizes than are kept
  CHECK(positions->rotation(5, 14, 14, like).cos.equal(first.cos));

  std::vector<const void*> seen(8);
  std::vector<std::thread> threads;
  for (const void*& data : seen) {
    threads.emplace_back([&] { data = positions->rotation(5, 30, 40, like).cos.data_ptr(); });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(std::count(seen.begin(), seen.end(), seen[0]) == 8);

  // Other periods, as a file has them, count at once; conversions of the module do not touch them.
  const Rotation before = positions->rotation(5, 14, 14, like);
  positions->to(torch::kBFloat16);
  CHECK(state.at("periods").scalar_type() == torch::kFloat32);
  CHECK(positions->rotation(5, 14, 14, like).cos.data_ptr() == before.cos.data_ptr());
  state.at("periods").copy_(torch::tensor({1.f, 5.f}));
  CHECK_FALSE(positions->rotation(5, 14, 14, like).cos.equal(before.cos));
  state.at("bfloat16").fill_(true);
  const Rotation rounding = positions->rotation(5, 14, 14, like);
  CHECK(rounding.bfloat16);
  CHECK(rounding.cos.equal(rounding.cos.to(torch::kBFloat16).to(torch::kFloat32)));
}
