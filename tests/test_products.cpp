// The kernels below the losses, on every instruction set of this machine.

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <array>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "smooseg/detail/autograd/unit_vectors.hpp"
#include "smooseg/detail/kernels/columnwise.hpp"
#include "smooseg/detail/kernels/moments.hpp"
#include "smooseg/detail/kernels/products.hpp"
#include "smooseg/detail/kernels/silu.hpp"
#include "support.hpp"

using namespace smooseg;
using smooseg::detail::Isa;
using smooseg::detail::Rows;

namespace {

/// The instruction sets of this machine; those that it lacks are named in a warning.
std::vector<Isa> isas() {
  std::vector<Isa> result;
  const std::vector<std::pair<Isa, const char*>> all{
      {Isa::kBaseline, "the baseline"}, {Isa::kAvx2, "AVX2"}, {Isa::kAvx512, "AVX-512"}};
  for (const auto& [isa, name] : all) {
    if (isa <= smooseg::detail::machine_isa()) {
      result.push_back(isa);
    } else {
      WARN("not tested: this machine lacks " << name);
    }
  }
  return result;
}

template <class T>
Rows<const T> rows(const Tensor& t) {
  return {t.data_ptr<T>(), t.stride(0)};
}

template <class T>
void check_kernels(Isa isa, int64_t m, int64_t r, int64_t n) {
  using namespace smooseg::detail;
  INFO("isa " << static_cast<int>(isa) << ", " << sizeof(T) << " bytes, " << m << " x " << r << " x " << n);
  const auto options = torch::TensorOptions().dtype(sizeof(T) == 4 ? torch::kFloat32 : torch::kFloat64);
  const double tolerance = sizeof(T) == 4 ? 3e-6 : 1e-14;
  const Tensor left = torch::randn({m, r}, options), scale = torch::randn({n}, options);
  const Tensor right = torch::randn({r, n}, options), dots = right.t().contiguous();
  for (const bool scaled : {false, true}) {
    const Tensor expected = scaled ? left.matmul(right) * scale : left.matmul(right);
    const T* factor = scaled ? scale.data_ptr<T>() : nullptr;
    // What lies beyond the result's columns stays as it was.
    const Tensor out = torch::full({m, n + 3}, 7, options);
    run_kernel<RowProduct>(isa, m, r, n, rows<T>(left), rows<T>(right), factor, Rows<T>{out.data_ptr<T>(), n + 3},
                           false);
    CHECK(relative_error(out.narrow(1, 0, n), expected) < tolerance);
    CHECK(out.narrow(1, n, 3).eq(7).all().item<bool>());
    out.fill_(7);
    run_kernel<DotProduct>(isa, m, r, n, rows<T>(left), rows<T>(dots), factor, Rows<T>{out.data_ptr<T>(), n + 3},
                           false);
    CHECK(relative_error(out.narrow(1, 0, n), expected) < tolerance);
    CHECK(out.narrow(1, n, 3).eq(7).all().item<bool>());
  }
  const Tensor other = torch::randn({r, n}, options), sums = torch::full({n + 3}, 7, options);
  run_kernel<ColumnDots>(isa, r, n, rows<T>(right), rows<T>(other), sums.data_ptr<T>());
  CHECK((sums.narrow(0, 0, n) - (right * other).sum(0)).abs().max().template item<double>() < tolerance * 40);
  CHECK(sums.narrow(0, n, 3).eq(7).all().item<bool>());

  // Added to what is there.
  for (const bool dot : {false, true}) {
    const Tensor before = torch::randn({m, n}, options), out = before.clone();
    const Rows<T> to{out.data_ptr<T>(), n};
    const T* const none = nullptr;
    if (dot) {
      run_kernel<DotProduct>(isa, m, r, n, rows<T>(left), rows<T>(dots), none, to, true);
    } else {
      run_kernel<RowProduct>(isa, m, r, n, rows<T>(left), rows<T>(right), none, to, true);
    }
    CHECK(relative_error(out, before + left.matmul(right)) < tolerance);
  }

  // A column's softmax and cross-entropy, with ties among the labels: the first counts.
  const Tensor teacher = (other * 2).round(), out = torch::full({r, n + 3}, 7, options);
  const Rows<T> to{out.data_ptr<T>(), n + 3};
  const auto check_out = [&](const Tensor& expected) {
    CHECK(relative_error(out.narrow(1, 0, n), expected) < tolerance);
    CHECK(out.narrow(1, n, 3).eq(7).all().item<bool>());
  };
  run_kernel<ColumnSoftmax>(isa, r, n, rows<T>(right), T{3}, to);
  const Tensor softmax = at::softmax(3 * right, 0);
  check_out(softmax);
  sums.fill_(7);
  run_kernel<ColumnCrossEntropy>(isa, r, n, rows<T>(right), rows<T>(teacher), T{0.5}, sums.data_ptr<T>(), to);
  Tensor one_hot = torch::zeros({r, n}, options);
  for (int64_t j = 0; j < n; ++j) {
    int64_t label = 0;
    for (int64_t k = 1; k < r; ++k) {
      if (teacher[k][j].item<double>() > teacher[label][j].item<double>()) label = k;
    }
    one_hot[label][j] = 1;
  }
  CHECK(relative_error(sums.narrow(0, 0, n), -(at::log_softmax(right, 0) * one_hot).sum(0)) < tolerance);
  CHECK(sums.narrow(0, n, 3).eq(7).all().item<bool>());
  check_out((at::softmax(right, 0) - one_hot) / 2);

  // Gradients of a column's softmax and of unit vectors, of which the first is shorter than eps.
  run_kernel<ColumnSoftmaxBackward>(isa, r, n, rows<T>(softmax), rows<T>(other), T{3}, to);
  CHECK((out.narrow(1, 0, n) - 3 * softmax * (other - (softmax * other).sum(0))).abs().max().template item<double>() <
        tolerance * 40);
  Tensor x = right.clone();
  x.select(1, 0).mul_(1e-3);
  const double eps = 0.1;
  const Tensor offset = torch::randn({r}, options);
  x.requires_grad_();
  const Tensor norms = x.square().sum(0).sqrt().clamp_min(eps), units = x / norms;
  const Tensor expected = torch::autograd::grad({units}, {x}, {other + offset.unsqueeze(1)})[0];
  const Tensor factors = norms.detach().reciprocal(), values = x.detach();
  run_kernel<ColumnUnitBackward>(isa, r, n, rows<T>(values), rows<T>(other),
                                 static_cast<const T*>(factors.data_ptr<T>()), static_cast<T>(eps),
                                 static_cast<const T*>(offset.data_ptr<T>()), to);
  CHECK((out.narrow(1, 0, n) - expected).abs().max().template item<double>() <
        tolerance * 100 * expected.abs().max().template item<double>());
  CHECK(out.narrow(1, n, 3).eq(7).all().item<bool>());

  run_kernel<Silu>(isa, r, n, rows<T>(right), to, Rows<T>{nullptr, 0});
  check_out(at::silu(right));
  Tensor gradient = other.clone();
  run_kernel<Silu>(isa, r, n, rows<T>(right), to, Rows<T>{gradient.data_ptr<T>(), n});
  const Tensor sigmoid = at::sigmoid(right);
  CHECK(relative_error(gradient, other * sigmoid * (1 + right * (1 - sigmoid))) < tolerance);
}

}  // namespace

TEST_CASE("kernels agree with LibTorch's operators on every instruction set", "[products]") {
  torch::manual_seed(1);
  // Fewer columns than a vector, whole vectors, whole tiles and one more; blocks of the reduced side; odd rows.
  const std::vector<std::array<int64_t, 3>> shapes{{1, 1, 1},    {3, 5, 2},   {4, 64, 16},  {5, 65, 17},
                                                   {28, 70, 97}, {9, 3, 200}, {7, 1100, 7}, {2, 1024 + 3, 13}};
  for (const Isa isa : isas()) {
    for (const auto& [m, r, n] : shapes) {
      check_kernels<float>(isa, m, r, n);
      check_kernels<double>(isa, m, r, n);
    }
  }
}

TEST_CASE("batched products take any layout and are the same on any number of threads", "[products]") {
  using namespace smooseg::detail;
  torch::manual_seed(2);
  const Tensor left = torch::randn({3, 5, 130}), right = torch::randn({3, 130, 900}), scale = torch::randn({3, 1, 900});
  const Tensor expected = left.matmul(right);
  const auto transposed = [](const Tensor& t) { return t.transpose(1, 2).contiguous().transpose(1, 2); };
  const auto strided = [](const Tensor& t) { return at::repeat_interleave(t, 2, 2).slice(2, 0, c10::nullopt, 2); };
  for (const Tensor& l : {left, transposed(left), strided(left)}) {
    for (const Tensor& r : {right, transposed(right), strided(right)}) {
      CHECK(relative_error(batched_product(l, r), expected) < 3e-6);
      CHECK(relative_error(batched_product(l, r, scale), expected * scale) < 3e-6);
    }
  }
  const Tensor shared = left.narrow(0, 1, 1);
  CHECK(relative_error(batched_product(shared, right), shared.matmul(right)) < 3e-6);
  CHECK(relative_error(batched_product(left.to(torch::kBFloat16), right.to(torch::kBFloat16)), expected) < 5e-2);
  CHECK(relative_error(inverse_norms(right, 1e-10), right.norm(2, {1}, true).reciprocal()) < 3e-6);
  CHECK(relative_error(column_softmax(right, 0.5), at::softmax(right * 2, 1)) < 3e-6);
  CHECK(relative_error(column_softmax(transposed(right), 0.5), at::softmax(right * 2, 1)) < 3e-6);

  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Tensor alone = batched_product(left, right), alone_dots = batched_product(left, transposed(right));
  at::set_num_threads(3);
  CHECK(batched_product(left, right).equal(alone));
  CHECK(batched_product(left, transposed(right)).equal(alone_dots));
  at::set_num_threads(threads);
}

TEST_CASE("patch moments in one pass", "[products]") {
  using namespace smooseg::detail;
  torch::manual_seed(4);
  for (const auto dtype : {torch::kFloat32, torch::kFloat64}) {
    for (const int64_t n : {1, 15, 1024, 2100}) {
      INFO(dtype << ", " << n << " patches");
      Tensor x = torch::randn({2, 20, n}, dtype);
      x.select(2, n - 1).zero_();
      const Tensor a = torch::rand({2, 6, n}, dtype);
      for (const double eps : {0.1, -1.0}) {  // negative: taken as they are
        const auto unit = [&](const Tensor& t) { return eps < 0 ? t : t / t.norm(2, {1}, true).clamp_min(eps); };
        const Tensor last = x.transpose(1, 2).contiguous().transpose(1, 2);
        const double tolerance = dtype == torch::kFloat32 ? 3e-6 : 1e-13;
        for (const Tensor& features : {x, last}) {
          const PatchMoments m = patch_moments(features, a, eps, eps);
          CHECK(relative_error(m.product.narrow(1, 0, 6), unit(a).matmul(unit(x).transpose(1, 2))) < tolerance);
          CHECK((m.product.narrow(1, 6, 1) - unit(x).sum(2).unsqueeze(1)).abs().max().item<double>() <
                tolerance * static_cast<double>(n));
          CHECK(relative_error(m.labels, unit(a).sum(2, true)) < tolerance);
          CHECK(relative_error(x * m.x_scale, unit(x)) < tolerance);
          CHECK(relative_error(a * m.a_scale, unit(a)) < tolerance);
        }
      }
    }
  }
}

TEST_CASE("unit vectors, forward and backward", "[products]") {
  torch::manual_seed(3);
  const auto options = torch::TensorOptions().dtype(torch::kFloat64);
  for (const bool channels_last : {false, true}) {
    Tensor x = torch::randn({2, 3, 5}, options);
    x.select(2, 1).mul_(1e-3);  // shorter than eps: divided by eps
    if (channels_last) x = x.transpose(1, 2).contiguous().transpose(1, 2);
    const Tensor weights = torch::randn({2, 3, 5}, options);
    const auto gradient = [&](const auto& unit) {
      const Tensor leaf = x.detach().clone().requires_grad_();
      (unit(leaf) * weights).sum().backward();
      return leaf.grad();
    };
    const auto ours = [](const Tensor& t) { return smooseg::detail::UnitVectors::apply(t, 0.1); };
    const auto textbook = [](const Tensor& t) { return t / t.norm(2, {1}, true).clamp_min(0.1); };
    CHECK(relative_error(ours(x), textbook(x)) < 1e-14);
    CHECK(relative_error(gradient(ours), gradient(textbook)) < 1e-13);
  }
}
