// PyTorch's checkpoints, from Python and C++.

#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/serialize.h>
#include <torch/types.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "catch.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/io/torch_checkpoint.hpp"
#include "support.hpp"
#include "tensor_files.hpp"

namespace {

using namespace smooseg::io;
using torch::Tensor;

/// The tensors whose names begin so, without that beginning.
TensorMap under(const std::string& prefix, const TensorMap& tensors) {
  TensorMap result;
  for (const auto& [name, tensor] : tensors) {
    if (name.rfind(prefix, 0) == 0) result[name.substr(prefix.size())] = tensor;
  }
  return result;
}

}  // namespace

TEST_CASE("torch checkpoints: dtypes, views, Parameters and nested dicts", "[io]") {
  const TensorMap got = golden("dtypes_and_views.pth");
  const auto range = [](int begin, int end) { return torch::arange(begin, end, torch::kFloat32); };
  const TensorMap expected{{"half", range(0, 12).reshape({3, 4}).to(torch::kFloat16)},
                           {"bf16", range(0, 6).to(torch::kBFloat16)},
                           {"transposed", range(0, 20).reshape({4, 5}).t()},
                           {"slice", range(3, 9)},
                           {"shared_a", range(0, 10)},
                           {"shared_b", range(10, 20)},
                           {"scalar", torch::tensor(3.5F)},
                           {"empty", torch::empty({0, 4})},
                           {"param", torch::ones({2, 2})},
                           {"int", torch::tensor({1, -2}, torch::kInt64)},
                           {"bool", torch::tensor({true, false})},
                           {"nested.x", torch::ones({1})}};
  check_same(got, expected);
  CHECK(got.at("transposed").strides() == c10::IntArrayRef{1, 5});
  CHECK(got.at("shared_a").data_ptr<float>() + 10 == got.at("shared_b").data_ptr<float>());
  CHECK(got.at("shared_a").storage().data_ptr().get() == got.at("shared_b").storage().data_ptr().get());
}

// Written by torch.save(..., pickle_protocol=4) of PyTorch 2.15 and repacked by Python's zipfile with every size and
// offset in zip64 fields, and nothing aligned.
TEST_CASE("torch checkpoints: zip64, pickle protocol 4, lists and tuples", "[io]") {
  const TensorMap got = golden("zip64_protocol4.pth");
  const TensorMap expected{{"a.0", torch::tensor({{0, 1, 2}, {3, 4, 5}}, torch::kInt16)},
                           {"a.1.7", torch::tensor({0.5, -0.25}, torch::kFloat64)},
                           {"a.1.b", torch::tensor({{1, 4}, {2, 5}}, torch::kInt16)},
                           {"c.0", torch::view_as_complex(torch::tensor({{1.0F, 2.0F}, {-0.0F, -3.0F}}))},
                           {"expanded", torch::full({3}, 2.5F)},
                           {"i32", torch::tensor({std::numeric_limits<int32_t>::min()}, torch::kInt32)},
                           {"i8", torch::tensor({-128, 127}, torch::kInt8)},
                           {"u8", torch::tensor({0, 255}, torch::kUInt8)}};
  check_same(got, expected);
}

TEST_CASE("torch checkpoints: Lightning's, with objects of unknown classes", "[io]") {
  const TensorMap expected = golden("lightning_expected.safetensors");
  REQUIRE(expected.size() == 9);
  const TensorMap got = golden("lightning.ckpt");
  CHECK(got.size() == 12);
  check_same(under("state_dict.", got), expected);
  CHECK(got.at("optimizer_states.0.state.0.step").item<float>() == 1200);

  const TensorMap real = golden("lightning_real_expected.safetensors");
  REQUIRE(real.size() == 8);
  check_same(under("state_dict.", golden("lightning_real.ckpt")), real);
}

TEST_CASE("torch checkpoints: the legacy format", "[io]") {
  const TensorMap expected = golden("lightning_expected.safetensors");
  const TensorMap got = golden("legacy_format.pth");
  check_same(got, expected);
}

// Written by PyTorch 2.15. What it does with every kind of file is compared in python_files.py.
TEST_CASE("torch checkpoints: attributes, lazy conjugates, complex32, pickle protocol 5", "[io]") {
  const TensorMap got = golden("attributes_protocol5.pth");
  const auto complex = [](double a, double b, double c, double d) {
    return torch::view_as_complex(torch::tensor({{a, b}, {c, d}}, torch::kFloat32));
  };
  const TensorMap expected{{"parameter", torch::tensor({1.0F, 2.0F})},
                           {"attribute", torch::tensor({3.0F, 4.0F})},
                           {"plain", complex(1, 2, -0.0, -3)},
                           {"conj", complex(1, -2, -0.0, 3)},
                           {"neg", torch::tensor({-2.0F, 3.0F})},
                           {"complex32", torch::view_as_complex(torch::tensor({{1, 2}}).to(torch::kFloat16))}};
  check_same(got, expected);
  CHECK(got.at("plain").data_ptr() == got.at("conj").data_ptr());
}

TEST_CASE("torch checkpoints: dtypes that this LibTorch does not have are named", "[io]") {
  const std::string path = data_path("newer_dtypes.pth");
  if (!smooseg::detail::newer_dtype("uint64")) {
    CHECK_ERROR(read_tensors(path),
                path + ": tensor 'uint64' has dtype torch.uint64, which cannot be read with LibTorch ");
    return;
  }
  const TensorMap got = read_tensors(path);
  CHECK(got.at("uint64").scalar_type() == smooseg::detail::newer_dtype("uint64"));
  CHECK(same(got.at("uint64").view(torch::kInt64), torch::tensor({0, -1}, torch::kInt64)));
  CHECK(got.at("float8").scalar_type() == smooseg::detail::newer_dtype("float8_e4m3fn"));
  CHECK(same(got.at("float8").to(torch::kFloat32), torch::tensor({0.5F, -448.0F})));
}

TEST_CASE("torch checkpoints: what torch::pickle_save writes", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.pth").string();
  const Tensor a = torch::arange(6, torch::kFloat32).reshape({2, 3}), b = torch::tensor({true, false});
  c10::Dict<std::string, Tensor> dict;
  dict.insert("a", a.t());
  dict.insert("b", b);
  const auto save = [&](const c10::IValue& value) {
    const std::vector<char> bytes = torch::pickle_save(value);
    write_content(path, std::string(bytes.begin(), bytes.end()));
  };
  save(dict);
  check_same(read_tensors(path), {{"a", a.t()}, {"b", b}});
  save(std::vector<Tensor>{b, a});
  check_same(read_tensors(path), {{"0", b}, {"1", a}});
  save(a);
  CHECK(same(read_tensors(path).at(""), a));
}

TEST_CASE("torch checkpoints: what torch::save writes of a module", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.pt").string();
  const auto make = [] { return torch::nn::Sequential(torch::nn::Linear(3, 2), torch::nn::BatchNorm1d(2)); };
  auto saved = make(), module = make();
  saved->forward(torch::ones({4, 3}));  // buffers that differ from a new module's
  torch::save(saved, path);
  check_same(read_tensors(path), tensors_of(*saved));
  CHECK(load(*module, path).complete());
  check_same(tensors_of(*module), tensors_of(*saved));
  CHECK(error_of([&] { verify_torch_checkpoint(path); }).empty());
}

TEST_CASE("torch checkpoints: members of an OrderedDict as Python 2 wrote them", "[io]") {
  const TempDir dir;
  const std::string pairs =
      "]]" + pickled("w") + "a" + pickled_tensor(0, 2, 1, 4) + "aa](U\1v" + pickled_tensor(2, 2, 1, 4) + "ea";
  write_content(dir.path / "x.pth", zip_of("ccollections\nOrderedDict\n" + pairs + "\x85R",
                                           std::string("\0\0\x80\x3f\0\0\0\0\0\0\0\0\0\0\0\xc0", 16)));
  check_same(read_tensors((dir.path / "x.pth").string()),
             {{"w", torch::tensor({1.0F, 0.0F})}, {"v", torch::tensor({0.0F, -2.0F})}});
}

TEST_CASE("torch checkpoints: DINO's full training checkpoint", "[io]") {
  const TensorMap got = golden("dino_full.pth");
  const auto count = [&](const std::string& prefix) {
    return std::count_if(got.begin(), got.end(), [&](const auto& t) { return t.first.rfind(prefix, 0) == 0; });
  };
  CHECK(count("teacher.backbone.") == 30);
  CHECK(count("student.module.backbone.") == 30);
  CHECK(count("optimizer.state.") > 0);
  CHECK(count("args") == 0);
}

TEST_CASE("torch checkpoints: DINO's weights", "[io]") {
  const TensorMap got = golden("dino_vit_p8.pth");
  std::vector<std::string> names{"cls_token",   "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias",
                                 "norm.weight", "norm.bias"};
  for (const std::string block : {"blocks.0.", "blocks.1.", "blocks.2."}) {
    for (const std::string part : {"norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"}) {
      for (const std::string kind : {".weight", ".bias"}) names.push_back(block + part + kind);
    }
  }
  std::sort(names.begin(), names.end());
  CHECK(names_of(got) == names);
  // As Python prints them.
  const auto sum_of = [&](const std::string& name) { return got.at(name).to(torch::kFloat64).sum().item<double>(); };
  CHECK(got.at("pos_embed").sizes() == c10::IntArrayRef{1, 65, 48});
  CHECK(got.at("pos_embed").flatten()[1].item<float>() == 0.009803025051951408F);
  CHECK(sum_of("pos_embed") == Catch::Approx(10.944004614138976).epsilon(1e-12));
  CHECK(sum_of("cls_token") == Catch::Approx(0.6776534551754594).epsilon(1e-12));
  CHECK(sum_of("blocks.1.attn.qkv.weight") == Catch::Approx(-8.377149251871742).epsilon(1e-12));
  CHECK(got.at("norm.bias")[-1].item<float>() == -0.14047643542289734F);
}

TEST_CASE("torch checkpoints: nothing is run, and unknown objects are skipped with all they hold", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.pth").string();
  const std::string flag = (dir.path / "flag").string();
  const std::string harm = "cos\nsystem\n(" + pickled("touch " + flag) + "tR";
  const std::string object = "cmine\nModel\n)\x81" + dict_of("w", pickled_tensor(0, 2, 1, 4)) + "b";
  write_content(path, zip_of("}(" + pickled("harm") + harm + pickled("object") + object + pickled("w") +
                                 pickled_tensor(1, 2, 2, 4) + "u",
                             std::string("\0\0\0\0\0\0\x80\x3f\0\0\0\0\0\0\0\xc0", 16)));
  const TensorMap got = read_torch_checkpoint(path);
  CHECK(names_of(got) == std::vector<std::string>{"w"});
  CHECK(same(got.at("w"), torch::tensor({1.0F, -2.0F})));
  CHECK_FALSE(std::filesystem::exists(flag));

  write_content(path, zip_of(object));
  CHECK_ERROR(read_tensors(path),
              path + ": no tensors in it; where a whole Python module was saved, save its state_dict()");
}

TEST_CASE("torch checkpoints: tensors must lie within their storage, and storages in the file", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x.pth").string();
  const auto check_tensor = [&](const std::string& tensor, const std::string& error) {
    write_content(path, zip_of(dict_of("w", tensor)));
    CHECK_ERROR(read_tensors(path), error);
    CHECK_ERROR(read_tensors(path), path + ": ");
  };
  check_tensor(pickled_tensor(0, 5, 1, 4), "tensor 'w' with offset 0, sizes [5] and strides [1] does not fit its");
  check_tensor(pickled_tensor(3, 2, 1, 4), "tensor 'w' with offset 3");
  check_tensor(pickled_tensor(0, 3, 2, 4), "strides [2] does not fit its storage of 4 elements");
  check_tensor(pickled_tensor(0, 0x7fffffff, 0x7fffffff, 4), "does not fit its storage of 4 elements");
  check_tensor(pickled_tensor(0xffffffff, 1, 1, 4), "tensor 'w' with offset -1");
  check_tensor(pickled_tensor(0, 0xffffffff, 1, 4), "sizes or strides that are not up to 64 numbers from 0 up");
  check_tensor(pickled_tensor(0, 5, 1, 5), "storage '0' has 16 bytes, expected 20");
  check_tensor(pickled_tensor(0, 1, 1, 4, "0", "QInt8Storage"),
               "tensor 'w': storages of class torch.QInt8Storage are not");
  check_tensor("ctorch._utils\n_rebuild_sparse_tensor\n)R",
               "tensor 'w' was saved by torch._utils._rebuild_sparse_tensor");
  check_tensor(pickled_tensor(0, 1, 1, 0xffffffff), "a storage without class, key and size");
  write_content(path, ZipMaker().entry("x/data.pkl", dict_of("w", pickled_tensor(0, 1, 1, 4)) + ".").content());
  CHECK_ERROR(read_tensors(path), path + ": corrupt archive: no entry 'x/data/0'");
}

TEST_CASE("read_tensors says what is wrong with a path", "[io]") {
  const TempDir dir;
  const std::string path = (dir.path / "x").string();
  CHECK_ERROR(read_tensors(path), path + ": no such file");
  CHECK_ERROR(read_tensors(dir.path.string()), dir.path.string() + ": is a folder, expected a file");
  CHECK_ERROR(read_tensors("/dev/null"), "/dev/null: is not a regular file");
  write_content(path, "");
  CHECK_ERROR(read_tensors(path), path + ": is empty");
  write_content(path, "<!DOCTYPE html>\n<title>404");
  CHECK_ERROR(read_tensors(path),
              path + ": neither a safetensors file nor a PyTorch checkpoint: it begins with '<!DOCTYPE html>.'");
}
