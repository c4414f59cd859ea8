// Tensors into modules, by name.

#include <torch/nn/module.h>
#include <torch/types.h>

#include <memory>
#include <string>
#include <vector>

#include "catch.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/io/safetensors.hpp"
#include "support.hpp"
#include "tensor_files.hpp"

namespace {

using namespace smooseg::io;
using torch::Tensor;

/// A module with a parameter, a buffer of integers, one without a size yet, and one inside.
struct Inner : torch::nn::Module {
  Inner() { bias = register_parameter("bias", torch::zeros({2})); }
  Tensor bias;
};
struct Outer : torch::nn::Module {
  Outer() {
    weight = register_parameter("weight", torch::zeros({2, 3}, torch::kFloat64));
    count = register_buffer("count", torch::zeros({}, torch::kInt64));
    textons = register_buffer("textons", torch::empty({0}));
    inner = register_module("inner", std::make_shared<Inner>());
  }
  Tensor weight, count, textons;
  std::shared_ptr<Inner> inner;
};

/// What fits an `Outer`, with `prefix` before the names.
TensorMap outer_tensors(const std::string& prefix = "") {
  return {{prefix + "weight", torch::arange(6).reshape({2, 3}).to(torch::kFloat16)},
          {prefix + "count", torch::tensor(7, torch::kInt64)},
          {prefix + "textons", torch::ones({4, 2})},
          {prefix + "inner.bias", torch::tensor({1.5F, -2.0F})}};
}

}  // namespace

TEST_CASE("load: by name, converted, from any format", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.safetensors").string();
  write_safetensors(path, outer_tensors());
  Outer module;
  const LoadReport report = load(module, path);
  CHECK(report.complete());
  CHECK(report.prefix.empty());
  CHECK(report.loaded == std::vector<std::string>{"count", "inner.bias", "textons", "weight"});
  CHECK(report.message() == "4 tensors fit");
  CHECK(same(module.weight, torch::arange(6, torch::kFloat64).reshape({2, 3})));
  CHECK(module.weight.requires_grad());
  CHECK(module.count.item<int64_t>() == 7);
  CHECK(same(module.inner->bias, torch::tensor({1.5F, -2.0F})));
  // The buffer without a size took the file's, in the module's own list and in its member.
  CHECK(same(module.textons, torch::ones({4, 2})));
  CHECK(same(module.named_buffers()["textons"], torch::ones({4, 2})));
}

TEST_CASE("load: what does not fit is told, and nothing is changed", "[io]") {
  TensorMap tensors = outer_tensors();
  tensors.erase("count");
  tensors["weight"] = torch::ones({3, 2});
  tensors["inner.bias"] = torch::ones({2}, torch::kInt64);
  tensors["head.weight"] = torch::ones({1});
  Outer module;
  CHECK_ERROR(load_tensors(module, tensors, {}, "file.pth"),
              "file.pth: does not fit the module: 1 tensor fits; 1 missing (count); 1 unexpected (head.weight); "
              "2 mismatched (inner.bias: expected dtype Float, got Long, weight: expected shape (2, 3), got (3, 2))");
  CHECK(module.textons.numel() == 0);
  CHECK(module.weight.abs().sum().item<double>() == 0);

  const LoadReport report = load_tensors(module, tensors, LoadOptions().strict(false));
  CHECK_FALSE(report.complete());
  CHECK(report.loaded == std::vector<std::string>{"textons"});
  CHECK(report.missing == std::vector<std::string>{"count"});
  CHECK(report.unexpected == std::vector<std::string>{"head.weight"});
  CHECK(report.mismatched.size() == 2);
  CHECK(module.textons.numel() == 8);
  CHECK(module.weight.abs().sum().item<double>() == 0);

  CHECK_ERROR(load_tensors(module, {{"x", torch::ones({1})}}, LoadOptions().strict(false)),
              "load_tensors: does not fit the module: 0 tensors fit; 4 missing (count, inner.bias, textons, weight)");
  CHECK_ERROR(load_tensors(module, {}), "0 tensors fit; 4 missing");
}

TEST_CASE("load: names that may be in the file nevertheless", "[io]") {
  TensorMap tensors = outer_tensors("backbone.");
  tensors["backbone.head.weight"] = torch::ones({1});
  Outer module;
  CHECK_ERROR(load_tensors(module, tensors), "1 unexpected (head.weight); under the prefix 'backbone.'");
  CHECK(load_tensors(module, tensors, LoadOptions().ignore({"head."})).complete());
}

TEST_CASE("load: the prefix is found, or given", "[io]") {
  Outer module;
  CHECK(load_tensors(module, outer_tensors("state_dict.module.")).prefix == "state_dict.module.");

  // A whole training checkpoint: the teacher is the one to use, and everything else is left alone.
  TensorMap tensors = outer_tensors("student.module.backbone.");
  tensors.merge(outer_tensors("teacher.backbone."));
  tensors["teacher.backbone.inner.bias"] = torch::tensor({3.0F, 4.0F});
  tensors["optimizer.state.0.exp_avg"] = torch::ones({1});
  const LoadReport report = load_tensors(module, tensors);
  CHECK(report.complete());
  CHECK(report.prefix == "teacher.backbone.");
  CHECK(same(module.inner->bias, torch::tensor({3.0F, 4.0F})));
  CHECK(load_tensors(module, tensors, LoadOptions().prefix("student.module.backbone.")).complete());
  CHECK(same(module.inner->bias, torch::tensor({1.5F, -2.0F})));

  // Names that fit as they are come before those under a prefix.
  tensors.merge(outer_tensors());
  CHECK(load_tensors(module, tensors, LoadOptions().strict(false)).prefix.empty());

  TensorMap alike = outer_tensors("a.");
  alike.merge(outer_tensors("b."));
  CHECK_ERROR(load_tensors(module, alike), "the module's names are found under 'a.' and under 'b.' alike; choose");
}

TEST_CASE("load: a long list of names is cut", "[io]") {
  TensorMap tensors = outer_tensors();
  for (int i = 10; i < 21; ++i) tensors["x" + std::to_string(i)] = torch::ones({1});
  Outer module;
  CHECK_ERROR(load_tensors(module, tensors), "11 unexpected (x10, x11, x12, x13, x14, x15, x16, x17, x18, x19, ...)");
}
