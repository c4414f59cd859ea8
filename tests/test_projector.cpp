// From features to codes.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "smooseg/projector.hpp"
#include "support.hpp"

using namespace smooseg;

TEST_CASE("projector", "[projector]") {
  torch::manual_seed(8);
  Projector projector(ProjectorOptions(6, 3).dropout(0.5));
  const Tensor x = torch::randn({4, 6, 3, 5});

  SECTION("evaluation: the sum of a linear map and an MLP, patch by patch") {
    projector->eval();
    const ProjectorOutput o = projector(x);
    CHECK(o.features.equal(x));
    CHECK(o.code.sizes() == torch::IntArrayRef{4, 3, 3, 5});
    const auto p = projector->named_parameters();
    const auto linear = [&](const std::string& name, const Tensor& v) {
      return p[name + ".weight"].flatten(1).mv(v) + p[name + ".bias"];
    };
    const Tensor v = x[2].select(1, 1).select(1, 4);
    const Tensor hidden = linear("mlp.0", v);
    const Tensor expected = linear("linear", v) + linear("mlp.2", hidden * hidden.sigmoid());
    CHECK(relative_error(o.code[2].select(1, 1).select(1, 4), expected) < 1e-5);
  }
  SECTION("training: whole channels are dropped, the rest scaled, with three different masks") {
    const Tensor ratio = projector(x).features / x;
    const Tensor first = ratio.flatten(2).select(2, 0);
    CHECK((ratio - first.view({4, 6, 1, 1})).abs().max().item<double>() < 1e-6);
    CHECK(((first == 0) | ((first - 2).abs() < 1e-6)).all().item<bool>());
    CHECK((first == 0).any().item<bool>());
    CHECK((first != 0).any().item<bool>());
    // Were the code computed from the returned features, this would hold:
    const ProjectorOutput o = projector(x);
    projector->eval();
    CHECK(relative_error(projector(o.features).code, o.code) > 1e-3);
  }
  SECTION("several forward passes before their backward passes, one of them twice, and inference mode") {
    const auto gradient = [&](const std::vector<Tensor>& sums, bool twice) {
      projector->zero_grad();
      for (const Tensor& sum : sums) sum.backward({}, twice);
      if (twice) {
        for (const Tensor& sum : sums) sum.backward();
      }
      return projector->mlp->ptr<torch::nn::Conv2dImpl>(0)->weight.grad().clone();
    };
    const auto seeded = [&](const Tensor& input) {
      return projector(input, at::make_generator<at::CPUGeneratorImpl>(1)).code;
    };
    const auto sum_of = [&](const Tensor& input) { return seeded(input).square().sum(); };
    const Tensor first = gradient({sum_of(x)}, false), second = gradient({sum_of(3 * x)}, false);
    CHECK(relative_error(gradient({sum_of(x), sum_of(3 * x)}, false), first + second) < 1e-6);
    CHECK(relative_error(gradient({sum_of(x), sum_of(3 * x)}, true), 2 * (first + second)) < 1e-6);
    const Tensor expected = seeded(x).detach();
    const c10::InferenceMode inference;
    CHECK(seeded(x).equal(expected));
  }
  SECTION("code() is that of evaluation, whatever the mode") {
    const Tensor code = projector->code(x);
    projector->eval();
    CHECK(code.equal(projector(x).code));
  }
  SECTION("results are the same on any number of threads") {
    const int threads = at::get_num_threads();
    const auto run = [&](int count) {
      at::set_num_threads(count);
      projector->zero_grad();
      const Tensor wide = torch::linspace(-2, 2, 5 * 6 * 30 * 31).view({5, 6, 30, 31});
      const Tensor code = projector(wide, at::make_generator<at::CPUGeneratorImpl>(1)).code;
      code.square().sum().backward();
      return std::pair(code.detach(), projector->linear->weight.grad().clone());
    };
    const auto alone = run(1), together = run(3);
    at::set_num_threads(threads);
    CHECK(together.first.equal(alone.first));
    CHECK(together.second.equal(alone.second));
  }
  SECTION("values and gradients are those of its layers, in any dtype and layout") {
    const auto generator = [] { return at::make_generator<at::CPUGeneratorImpl>(3); };
    for (const torch::ScalarType dtype : {torch::kFloat64, torch::kFloat32}) {
      for (const int64_t batch : {1, 2, 5}) {
        for (const auto& [channels_last, of_features] : {std::pair(false, false), {false, true}, {true, false}}) {
          INFO(c10::toString(dtype) << ", " << batch << " images" << (channels_last ? ", channels last" : ""));
          projector->to(dtype);
          projector->zero_grad();
          Tensor ours = torch::randn({batch, 6, 3, 5}, dtype);
          if (channels_last) ours = ours.contiguous(at::MemoryFormat::ChannelsLast);
          Tensor theirs = ours.clone();
          ours.requires_grad_(of_features);
          theirs.requires_grad_();

          at::Generator masks = generator();
          const auto dropped = [&] {
            return theirs * torch::empty({batch, 6, 1, 1}, dtype).bernoulli_(0.5, masks).div_(0.5);
          };
          const Tensor linear = projector->linear(dropped());
          const Tensor expected = linear + projector->mlp->forward(dropped());
          const Tensor weights = torch::randn_like(expected);
          (expected * weights).sum().backward();
          std::vector<Tensor> expected_gradients{theirs.grad()};
          for (const Tensor& p : projector->parameters()) expected_gradients.push_back(p.grad().clone());

          projector->zero_grad();
          const Tensor code = projector(ours, generator()).code;
          (code * weights).sum().backward();
          const double tolerance = dtype == torch::kFloat64 ? 1e-13 : 1e-5;
          CHECK(relative_error(code, expected) < tolerance);
          std::vector<Tensor> gradients{of_features ? ours.grad() : theirs.grad()};
          for (const Tensor& p : projector->parameters()) gradients.push_back(p.grad());
          for (std::size_t i = 0; i < gradients.size(); ++i) {
            CHECK(relative_error(gradients[i], expected_gradients[i]) < tolerance);
          }
          CHECK(relative_error(projector(ours.detach(), generator()).code, expected) < tolerance);
          const torch::NoGradGuard no_grad;
          CHECK(relative_error(projector(ours, generator()).code, expected) < tolerance);
        }
      }
    }
  }
  SECTION("a frozen layer gets no gradient, the others theirs") {
    projector->linear->weight.set_requires_grad(false);
    projector(x).code.sum().backward();
    CHECK_FALSE(projector->linear->weight.grad().defined());
    CHECK(projector->linear->bias.grad().allclose(torch::full({3}, 4. * 15)));
  }
  SECTION("far from 0 nothing overflows") {
    projector->eval();
    for (const double scale : {-1e4, 1e4}) {
      CHECK(projector(x * scale).code.isfinite().all().item<bool>());
    }
  }
  SECTION("autocast") {
    const AutocastOnCpu autocast(true);
    CHECK(projector(x).code.scalar_type() == torch::kBFloat16);
  }
  SECTION("masks come from the generator that is passed") {
    const auto run = [&](uint64_t seed) { return projector(x, at::make_generator<at::CPUGeneratorImpl>(seed)).code; };
    CHECK(run(1).equal(run(1)));
    CHECK_FALSE(run(1).equal(run(2)));
  }
  SECTION("bad input") {
    CHECK_ERROR(projector(torch::rand({1, 5, 2, 2})), "expected features of 6 channels, got (1, 5, 2, 2)");
    CHECK_ERROR(projector(torch::rand({1, 6, 2})), "smooseg::Projector: expected features of shape (B,C,h,w)");
    CHECK_ERROR(projector(x.to(torch::kFloat64)),
                "smooseg::Projector: expected features of the parameters' dtype Float, got Double");
    projector->to(torch::kHalf);
    CHECK_ERROR(projector(x.to(torch::kHalf)), "half precision is not for the CPU");
    CHECK_ERROR(Projector(ProjectorOptions(6, 3).dropout(1)), "expected dropout in [0,1), got 1");
    CHECK_ERROR(Projector(ProjectorOptions(0, 3)), "of at least 1, got 0 and 3");
  }
}
