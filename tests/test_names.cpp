// Weights under the names that other programs give them: each file gives the features that its own program gave.

#include <ATen/Functions.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/batchnorm.h>

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "golden_transformers.hpp"
#include "smooseg/backbone/vision_transformer.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/io/names.hpp"
#include "smooseg/predictor.hpp"
#include "smooseg/projector.hpp"
#include "smooseg/segmenter.hpp"
#include "support.hpp"
#include "tensor_files.hpp"

using smooseg::Tensor;
using namespace smooseg::backbone;
using namespace smooseg::io;

namespace {

using Options = VisionTransformerOptions;

/// A file of weights, what it is of, whose names it has, and what its program's model gives.
struct Client {
  std::string file, naming, expected, size;  ///< `size`: which of several inputs, as a prefix of their names
  Options options;
};

const std::vector<Client>& clients() {
  static const std::vector<Client> all{
      {"dino_vit_p8.pth", "dino", "dino_vit_p8", "96x80.", dino_p8()},
      {"dino_vit_p16.pth", "dino", "dino_vit_p16", "128x64.", dino_p16()},
      {"dino_vit_p8_hf.safetensors", "huggingface", "dino_vit_p8", "40x120.", dino_p8()},
      {"dinov2_vit_p14.pth", "dino", "dinov2_vit_p14", "98x56.", dinov2()},
      {"dinov2_vit_p14_reg4.pth", "dino", "dinov2_vit_p14_reg4", "98x56.", dinov2_registers()},
      {"dinov2_vit_p14_reg4_hf.safetensors", "huggingface", "dinov2_vit_p14_reg4", "98x56.", dinov2_registers()},
      {"dinov2_vit_p14_swiglu.pth", "dino", "dinov2_vit_p14_swiglu", "70x70.", dinov2().depth(2).swiglu(true)},
      {"timm_dino_p8.safetensors", "dino", "timm_dino_p8_expected", "", dino_p8()},
      {"timm_dinov2_reg4_p14.safetensors", "timm", "timm_dinov2_reg4_p14_expected", "", dinov2_registers()},
      {"hf_vit_p8.safetensors", "huggingface", "hf_vit_p8_expected", "", dino_p8()},
      {"hf_dinov2_p14.safetensors", "huggingface", "hf_dinov2_p14_expected", "", dinov2()},
      {"hf_dinov2_swiglu_p14.safetensors", "huggingface", "hf_dinov2_swiglu_p14_expected", "", dinov2().swiglu(true)},
      {"hf_dinov2_reg4_p14.safetensors", "huggingface", "hf_dinov2_reg4_p14_expected", "", dinov2_registers()},
      {"dino_full.pth", "dino", "dino_full_expected", "", dino_p8().depth(2)},
  };
  return all;
}

/// The relative error of the features of these weights, in any names.
double features_error(const Client& client, const TensorMap& tensors) {
  VisionTransformer vit(client.options);
  load_tensors(*vit, tensors);
  const TensorMap expected = golden(client.expected + ".safetensors");
  return relative_error(vit->features(expected.at(client.size + "input")), expected.at(client.size + "features"));
}

TensorMap with_prefix(const std::string& prefix, const TensorMap& tensors) {
  TensorMap result;
  for (const auto& [name, tensor] : tensors) result[prefix + name] = tensor;
  return result;
}

}  // namespace

TEST_CASE("load: every program's weights, with no hint beyond their path", "[io][names]") {
  for (const Client& client : clients()) {
    INFO(client.file);
    VisionTransformer vit(client.options);
    const LoadReport report = load(*vit, data_path(client.file));
    CHECK(report.complete());
    CHECK(report.naming == client.naming);
    CHECK(report.prefix == (client.file == "dino_full.pth" ? "teacher.backbone." : ""));
    CHECK(report.loaded.size() == vit->parameters().size());
    const TensorMap expected = golden(client.expected + ".safetensors");
    const Tensor features = vit->features(expected.at(client.size + "input"));
    CHECK(relative_error(features, expected.at(client.size + "features")) < kGoldenTolerance);
  }
}

TEST_CASE("names: there and back, in each naming that fits", "[io][names]") {
  for (const Client& client : clients()) {
    const TensorMap ours = with_our_names(read_tensors(data_path(client.file)), client.file);
    CHECK(ours.size() == VisionTransformer(client.options)->parameters().size());
    for (const std::string naming : {"dino", "timm", "huggingface"}) {
      INFO(client.file << " as " << naming);
      const TensorMap theirs = with_names(ours, naming);
      CHECK((theirs.count("embeddings.cls_token") == 1) == (naming == "huggingface"));
      CHECK(features_error(client, theirs) < kGoldenTolerance);
      CHECK(features_error(client, with_our_names(theirs, naming)) < kGoldenTolerance);
    }
  }
}

TEST_CASE("names: what other programs wrote is written name for name", "[io][names]") {
  for (const Client& client : clients()) {
    if (client.naming == "dino") continue;
    INFO(client.file);
    TensorMap original = read_tensors(data_path(client.file));
    const TensorMap written = with_names(with_our_names(original, client.file), client.naming);
    for (const char* unused : {"embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias"}) {
      original.erase(unused);
    }
    check_same(written, original);
  }
}

TEST_CASE("names: timm's SwiGLU has the names of its MLP", "[io][names]") {
  const std::string file = "hf_dinov2_swiglu_p14.safetensors";
  const TensorMap timm = with_names(with_our_names(golden(file), file), "timm");
  CHECK(timm.count("blocks.0.mlp.fc1.weight") == 1);
  CHECK(timm.count("blocks.0.mlp.w12.weight") == 0);
  CHECK(timm.at("blocks.2.mlp.fc2.weight").sizes() == torch::IntArrayRef({48, 128}));
  VisionTransformer vit(dinov2().swiglu(true));
  CHECK(load_tensors(*vit, timm).naming == "timm");
}

TEST_CASE("load: what transformers 5 calls its tensors in memory", "[io][names]") {
  // From the names of save_pretrained's files, of which Hugging Face's model changes these.
  const std::vector<std::pair<std::string, std::string>> both{{".attention.attention.query.", ".attention.q_proj."},
                                                              {".attention.attention.key.", ".attention.k_proj."},
                                                              {".attention.attention.value.", ".attention.v_proj."},
                                                              {".attention.output.dense.", ".attention.o_proj."}};
  const std::vector<std::pair<std::string, std::string>> vit{
      {".intermediate.dense.", ".mlp.fc1."}, {".output.dense.", ".mlp.fc2."}, {"encoder.layer.", "layers."}};
  for (const Client& client : clients()) {
    if (client.naming != "huggingface") continue;
    INFO(client.file);
    TensorMap in_memory;
    for (const auto& [name, tensor] : golden(client.file)) {
      std::string renamed = name;
      auto changes = both;
      if (!client.options.layer_scale()) changes.insert(changes.end(), vit.begin(), vit.end());
      changes.emplace_back(".mlp.weights_out.", ".mlp.down_proj.");
      for (const auto& [saved, now] : changes) {
        const size_t at = renamed.find(saved);
        if (at != std::string::npos) renamed.replace(at, saved.size(), now);
      }
      const std::string gated = ".mlp.weights_in.";
      if (const size_t at = renamed.find(gated); at != std::string::npos) {
        const auto parts = tensor.chunk(2);
        in_memory[std::string(renamed).replace(at, gated.size(), ".mlp.gate_proj.")] = parts[0];
        in_memory[std::string(renamed).replace(at, gated.size(), ".mlp.up_proj.")] = parts[1];
      } else {
        in_memory[renamed] = tensor;
      }
    }
    CHECK(in_memory.count("encoder.layer.0.attention.attention.query.weight") == 0);
    CHECK(features_error(client, in_memory) < kGoldenTolerance);
    check_same(with_our_names(in_memory, client.file), with_our_names(golden(client.file), client.file));
  }
}

TEST_CASE("load: prefixes, and what is beside the wanted network", "[io][names]") {
  const std::vector<std::string> prefixes{"module.",           "backbone.",
                                          "net.model.",        "state_dict.net.model.",
                                          "teacher.",          "teacher.module.backbone.",
                                          "student.backbone.", "vit.",
                                          "model.encoder."};
  for (const Client& client : {clients()[0], clients()[8], clients()[10]}) {
    const TensorMap tensors = read_tensors(data_path(client.file));
    VisionTransformer vit(client.options);
    for (const std::string& prefix : prefixes) {
      INFO(client.file << " under " << prefix);
      TensorMap prefixed = with_prefix(prefix, tensors);
      prefixed["optimizer.state.0.exp_avg"] = torch::ones({1});
      prefixed["classifier.weight"] = torch::ones({1});
      const LoadReport report = load_tensors(*vit, prefixed);
      CHECK(report.prefix == prefix);
      CHECK(report.complete());
    }
    TensorMap both = with_prefix("student.module.backbone.", tensors);
    both.merge(with_prefix("teacher.backbone.", tensors));
    CHECK(load_tensors(*vit, both).prefix == "teacher.backbone.");
    CHECK(load_tensors(*vit, both, LoadOptions().prefix("student.module.backbone.")).complete());
  }
}

TEST_CASE("load: DINOv2's training checkpoints number their blocks in groups", "[io][names]") {
  const Client client = clients()[4];
  TensorMap training;
  for (const auto& [name, tensor] : read_tensors(data_path(client.file))) {
    const std::string block = "blocks.";
    const bool in_block = name.compare(0, block.size(), block) == 0;
    const std::string group = in_block && name[block.size()] == '2' ? "1." : "0.";
    training["teacher.backbone." + (in_block ? block + group + name.substr(block.size()) : name)] = tensor;
  }
  training["teacher.dino_head.last_layer.weight"] = torch::ones({2});
  CHECK(features_error(client, training) < kGoldenTolerance);
}

TEST_CASE("load: what no known naming leaves out is an error in every one", "[io][names]") {
  for (const Client& client : clients()) {
    INFO(client.file);
    VisionTransformer vit(client.options);
    const TensorMap tensors = read_tensors(data_path(client.file));
    const std::string prefix = load_tensors(*vit, tensors).prefix;
    const std::string heads = client.naming == "huggingface" ? "pooler.dense.weight" : "head.weight";
    for (const std::string name : {"extra", "blocks.0.attn.rel_pos", "encoder.layer.0.attention.extra", "norm.extra"}) {
      TensorMap more = tensors;
      more[prefix + heads] = torch::ones({1});
      CHECK(load_tensors(*vit, more).complete());
      more[prefix + name] = torch::ones({1});
      CHECK_ERROR(load_tensors(*vit, more), "1 unexpected (" + name);
      const LoadReport report = load_tensors(*vit, more, LoadOptions().strict(false));
      CHECK(report.unexpected == std::vector<std::string>{name});
      CHECK(report.missing.empty());
      CHECK(load_tensors(*vit, more, LoadOptions().ignore({name})).complete());
    }
  }
  for (const size_t index : {size_t{0}, size_t{8}, size_t{10}}) {
    const Client& client = clients()[index];
    VisionTransformer vit(client.options);
    const TensorMap tensors = with_names(with_our_names(golden(client.file), client.file), client.naming);
    for (const auto& [name, tensor] : tensors) {
      INFO(client.file << " without " << name);
      TensorMap less = tensors;
      less.erase(name);
      CHECK_ERROR(load_tensors(*vit, less), "1 missing (");
      if (index > 0) continue;
      less[name] = torch::ones({7});
      CHECK_ERROR(load_tensors(*vit, less), "1 mismatched (" + name + ": expected shape ");
    }
  }
  VisionTransformer vit(dino_p8());
  CHECK_ERROR(load(*vit, data_path("timm_dinov2_reg4_p14.safetensors")),
              "timm_dinov2_reg4_p14.safetensors: does not fit");
  // Queries of another width than the keys cannot be put together.
  TensorMap uneven = golden("hf_vit_p8.safetensors");
  uneven["encoder.layer.1.attention.attention.query.weight"] = torch::ones({48, 47});
  CHECK_ERROR(load_tensors(*vit, uneven), "1 missing (blocks.1.attn.qkv.weight); 3 unexpected (encoder.layer.1.");
}

TEST_CASE("load: what a module wants is never left out", "[io][names]") {
  struct OwnerImpl : torch::nn::Module {
    OwnerImpl() { register_module("bn1", torch::nn::BatchNorm2d(3)); }
  } owner;
  TensorMap tensors = tensors_of(owner);
  tensors.at("bn1.num_batches_tracked") = torch::tensor(7, torch::kInt64);
  CHECK(load_tensors(owner, tensors).complete());
  CHECK(owner.named_buffers()["bn1.num_batches_tracked"].item<int64_t>() == 7);
}

TEST_CASE("load: SmooSeg's published checkpoints, whole and in parts", "[io][names]") {
  const auto backbone = VisionTransformer(Options(8, 24, 1, 2).image_size(32));
  smooseg::Segmenter segmenter(backbone.ptr(), smooseg::Projector(24, 8), smooseg::PrototypePredictor(5, 8));
  for (const std::string name : {"lightning", "lightning_real"}) {
    INFO(name);
    const std::string file = data_path(name + ".ckpt");
    const TensorMap expected = golden(name + "_expected.safetensors");
    const auto is = [&](const Tensor& got, const std::string& of) { return torch::equal(got, expected.at(of)); };

    smooseg::Projector projector(24, 8);
    CHECK(load(*projector, file).prefix == "state_dict.projection.");
    CHECK(is(projector->linear->weight, "projection.cluster1.0.weight"));
    const auto parameters = projector->named_parameters();
    CHECK(is(parameters["mlp.0.weight"], "projection.cluster2.0.weight"));
    CHECK(is(parameters["mlp.2.bias"], "projection.cluster2.2.bias"));
    smooseg::PrototypePredictor predictor(5, 8);
    CHECK(load(*predictor, file).naming == "authors");
    CHECK(is(predictor->student, "prediction.local_clusters"));
    CHECK(is(predictor->teacher, "prediction.global_clusters"));

    // With the backbone that these small ones lack.
    CHECK_ERROR(load(*segmenter, file), "8 tensors fit; 18 missing (backbone.blocks.0.attn.proj.bias, ");
    TensorMap whole = read_tensors(file);
    whole.merge(with_prefix("state_dict.net.model.", tensors_of(*backbone)));
    const LoadReport report = load_tensors(*segmenter, whole);
    CHECK(report.prefix == "state_dict.");
    CHECK(report.loaded.size() == 8 + 18);
    CHECK(is(segmenter->predictor->teacher, "prediction.global_clusters"));
    whole["state_dict.prediction.extra"] = torch::ones({1});
    CHECK_ERROR(load_tensors(*segmenter, whole), "1 unexpected (prediction.extra)");
    whole.erase("state_dict.prediction.extra");
    CHECK(load_tensors(*VisionTransformer(Options(8, 24, 1, 2).image_size(32)), whole).prefix ==
          "state_dict.net.model.");

    // And back: the checkpoint's own state dict.
    const TensorMap back = with_names(with_our_names(whole, name), "authors");
    for (const auto& [key, tensor] : expected) {
      if (key == "cluster_metrics.stats") continue;
      INFO(key);
      REQUIRE(back.count(key) == 1);
      CHECK(torch::equal(back.at(key), tensor));
    }
    CHECK(back.size() == 8 + 18);
  }
}

TEST_CASE("load: STEGO's projector", "[io][names]") {
  TensorMap stego;
  smooseg::Projector trained(24, 8), projector(24, 8);
  for (const auto& [name, tensor] : with_names(tensors_of(*trained), "authors"))
    stego["state_dict.net." + name] = tensor;
  CHECK(stego.count("state_dict.net.cluster2.0.weight") == 1);
  stego["state_dict.net.model.cls_token"] = torch::ones({1, 1, 24});
  CHECK_ERROR(load_tensors(*projector, stego), "1 unexpected (model.cls_token)");
  CHECK(load_tensors(*projector, stego, LoadOptions().ignore({"model."})).prefix == "state_dict.net.");
  check_same(tensors_of(*projector), tensors_of(*trained));
}

TEST_CASE("names: what is unknown is told", "[io][names]") {
  CHECK(known_namings() == std::vector<std::string>{"dino", "timm", "huggingface", "torchvision", "authors"});
  const TensorMap other{{"conv.weight", torch::ones({1})}};
  CHECK_ERROR(with_our_names(other, "FILE"), "FILE: none of its 1 names is known; the first is 'conv.weight'");
  CHECK_ERROR(with_our_names({}, "FILE"), "FILE: none of its 0 names is known");
  CHECK_ERROR(with_names(other, "keras"),
              "with_names: expected one of dino, timm, huggingface, torchvision, authors, got 'keras'");
  CHECK_ERROR(with_names(other, ""), "got ''");
  CHECK_ERROR(with_names(other, "timm"), "with_names: 'conv.weight' has no name in the naming 'timm'");
  TensorMap twice = with_prefix("a.", golden("hf_vit_p8.safetensors"));
  twice.merge(with_prefix("b.", golden("hf_vit_p8.safetensors")));
  CHECK_ERROR(with_our_names(twice, "FILE"), "under 'a.' and under 'b.' alike");
}
