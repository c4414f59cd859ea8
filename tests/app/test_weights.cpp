// Weights as users get and convert them: `smooseg weights`, `smooseg convert`, and training on each kind of backbone.

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "app/program.hpp"
#include "catch.hpp"
#include "features/weight_files.hpp"
#include "model/model.hpp"
#include "smooseg/backbone/vision_transformer.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/io/names.hpp"
#include "support.hpp"
#include "support/file_lock.hpp"
#include "support/hash.hpp"

namespace fs = std::filesystem;
namespace io = smooseg::io;
using namespace smooseg::app;
using smooseg::Tensor;

namespace {

size_t files_in(const fs::path& folder) {
  size_t count = 0;
  for (const auto& entry : fs::directory_iterator(folder)) count += entry.is_regular_file() ? 1 : 0;
  return count;
}

/// A mirror of the publisher's server in a folder, an empty folder for what is fetched, and no torch.hub.
struct Mirror {
  TempDir dir;
  fs::path server = dir.path / "server", folder = dir.path / "weights";
  ScopedVariable url{"SMOOSEG_WEIGHTS_URL", "file://" + server.string()};
  ScopedVariable weights{"SMOOSEG_WEIGHTS", folder.string()};
  ScopedVariable hub{"TORCH_HOME", (dir.path / "torch").string()};

  /// Puts a file where a backbone's weights are published. @return its path.
  fs::path publish(const std::string& name, const std::string& content) const {
    const fs::path path = server / smooseg::backbone::find(name).weights.path;
    write_content(path, content);
    return path;
  }
};

/// The content of a file with a backbone's tensors, in half precision, which takes half the time.
std::string weights_text(const std::string& backbone = "dino_vits16") {
  const TempDir dir;
  const std::string path = (dir.path / "x").string();
  io::TensorMap tensors = io::tensors_of(*smooseg::backbone::make(backbone));
  for (auto& item : tensors) item.second = torch::ones_like(item.second, torch::kHalf);
  io::write_safetensors(path, tensors);
  return content_of(path);
}

/// The backbone's state with random values, written under a naming ("" for ours) and a prefix.
void write_random_weights(const std::string& backbone, const std::string& naming, const std::string& prefix,
                          const fs::path& path) {
  torch::manual_seed(3);
  io::TensorMap tensors = io::tensors_of(*smooseg::backbone::make(backbone));
  if (!naming.empty()) tensors = io::with_names(tensors, naming);
  io::TensorMap prefixed;
  for (const auto& [name, tensor] : tensors) prefixed[prefix + name] = tensor;
  fs::create_directories(path.parent_path());
  io::write_safetensors(path.string(), prefixed);
}

void check_same_tensors(const io::TensorMap& got, const io::TensorMap& expected) {
  REQUIRE(got.size() == expected.size());
  for (const auto& [name, tensor] : expected) {
    INFO(name);
    REQUIRE(got.count(name) == 1);
    CHECK(tensor.equal(got.at(name)));
  }
}

}  // namespace

TEST_CASE("weights are fetched once, under their name when they are whole", "[weights]") {
  const Mirror mirror;
  const std::string content = weights_text();
  const fs::path published = mirror.publish("dino_vits16", content);
  const fs::path target = mirror.folder / "dino_deitsmall16_pretrain.pth";

  CHECK(run_program({"weights", "list"}).out.find(target.string()) == std::string::npos);
  const Outcome got = run_program({"weights", "get", "dino_vits16"});
  INFO(got.err);
  REQUIRE(got.status == 0);
  CHECK(got.out == target.string() + "\n");
  CHECK(got.err.find("licence Apache-2.0") != std::string::npos);
  CHECK(got.err.find("SHA-256 " + sha256_of(published) + " (none is published to compare with)") != std::string::npos);
  CHECK(content_of(target) == content);
  CHECK(files_in(mirror.folder) == 1);
  CHECK(run_program({"weights", "list"}).out.find(target.string()) != std::string::npos);

  fs::remove(published);
  CHECK(run_program({"weights", "get", "dino_vits16"}).out == target.string() + "\n");

  // Another folder, and several at a time.
  mirror.publish("dino_vits8", weights_text("dino_vits8"));
  mirror.publish("dino_resnet50", weights_text("dino_resnet50"));
  const fs::path other = mirror.dir.path / "other";
  check_runs({"weights", "get", "dino_vits8", "dino_resnet50", "--folder", other.string()});
  CHECK(files_in(other) == 2);
}

TEST_CASE("a download that was cut off goes on, or starts anew", "[weights]") {
  const Mirror mirror;
  const std::string content = weights_text();
  mirror.publish("dino_vits16", content);
  const fs::path target = mirror.folder / "dino_deitsmall16_pretrain.pth", part = target.string() + ".part";
  for (const std::string& begun : {content.substr(0, 1000), content, content + "more than there is", std::string()}) {
    INFO(begun.size() << " of " << content.size() << " bytes");
    write_content(part, begun);
    check_runs({"weights", "get", "dino_vits16"});
    CHECK(content_of(target) == content);
    CHECK_FALSE(fs::exists(part));
    fs::remove(target);
  }
  // Of another file: what came of it is not kept.
  write_content(part, "<html>" + content.substr(6, 500));
  check_fails({"weights", "get", "dino_vits16"}, "what came is not the published file");
  CHECK(files_in(mirror.folder) == 0);
  check_runs({"weights", "get", "dino_vits16"});

  // Without the server: what is there is kept, and enough where it is all.
  fs::remove(target);
  const fs::path published = mirror.server / smooseg::backbone::find("dino_vits16").weights.path;
  fs::remove(published);
  write_content(part, content.substr(0, 1000));
  check_fails({"weights", "get", "dino_vits16"}, "what came so far is kept for another try: " + part.string());
  CHECK(content_of(part) == content.substr(0, 1000));
  write_content(part, content);
  check_runs({"weights", "get", "dino_vits16"});
  CHECK(content_of(target) == content);
  write_content(published, content);

  // Two at once.
  fs::remove(target);
  write_content(part, "");
  auto lock = std::make_unique<FileLock>(part);
  check_fails({"weights", "get", "dino_vits16"}, "another download of it is under way");
  lock.reset();
  check_runs({"weights", "get", "dino_vits16"});
}

TEST_CASE("weights that are not the published ones are refused", "[weights]") {
  const Mirror mirror;
  mirror.publish("dino_vits16", "<!DOCTYPE html> log in first");
  check_fails({"weights", "get", "dino_vits16"}, "neither a safetensors file nor a PyTorch checkpoint");
  mirror.publish("dino_vits16", weights_text("dino_vits8"));
  check_fails({"weights", "get", "dino_vits16"},
              "patch_embed.proj.weight: expected shape (384, 3, 16, 16), got (384, 3, 8, 8)");
  const fs::path vits14 = mirror.publish("dinov2_vits14", "<!DOCTYPE html> log in first");
  check_fails({"weights", "get", "dinov2_vits14"}, "expected 88283115 bytes, got 28");
  fs::resize_file(vits14, 88'283'115);
  check_fails({"weights", "get", "dinov2_vits14"},
              "expected the SHA-256 b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9, got ");
  CHECK(files_in(mirror.folder) == 0);

  // The right one has its name; one of another size in its place is noticed before it is loaded.
  smooseg::backbone::RegistryEntry entry = smooseg::backbone::find("dinov2_vits14");
  const std::string content = "its content is known by its hash";
  write_content(vits14, content);
  entry.weights.bytes = static_cast<int64_t>(content.size());
  entry.weights.sha256 = sha256_of(vits14);
  std::ostringstream err;
  CHECK(content_of(download_weights(entry, mirror.folder, err)) == content);
  CHECK(err.str().find("SHA-256 as expected") != std::string::npos);
  const std::string size = std::to_string(content.size());
  for (const auto& arguments : {std::vector<std::string>{"weights", "get", "dinov2_vits14"},
                                train_arguments(mirror.dir.path / "out") +
                                    std::vector<std::string>{"--resolution", "70", "--backbone", "dinov2_vits14"}}) {
    check_fails(arguments, "dinov2_vits14_pretrain.pth: expected 88283115 bytes, found " + size);
  }
  CHECK(run_program({"weights", "list"}).out.find("expected 88283115 bytes, found " + size) != std::string::npos);
}

TEST_CASE("without a network or curl, what to fetch and where to put it is said", "[weights]") {
  const Mirror mirror;
  const auto check_says_how = [&](const std::vector<std::string>& arguments, const std::string& why) {
    const Outcome o = run_program(arguments);
    INFO(o.err);
    CHECK(o.status == 1);
    for (const std::string& text :
         {why, "file://" + mirror.server.string() + "/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
          (mirror.folder / "dinov2_vits14_pretrain.pth").string(), std::string("88283115 bytes"),
          std::string("b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9")}) {
      CHECK(o.err.find(text) != std::string::npos);
    }
  };
  const std::vector<std::string> get{"weights", "get", "dinov2_vits14"};
  check_says_how(get, "curl ended with status 37 (there is no such file)");
  CHECK(files_in(mirror.folder) == 0);
  check_says_how(train_arguments(mirror.dir.path / "out") +
                     std::vector<std::string>{"--resolution", "70", "--backbone", "dinov2_vits14"},
                 "--weights: the backbone 'dinov2_vits14' needs its pretrained weights. Run "
                 "'smooseg weights get dinov2_vits14'");
  {
    const ScopedVariable no_programs("PATH", mirror.dir.path.string());
    check_says_how(get, "the program curl is not installed");
  }
  write_content(mirror.dir.path / "file", "");
  const fs::path below = mirror.dir.path / "file" / "below";
  check_fails(get + std::vector<std::string>{"--folder", below.string()}, "cannot create the folder " + below.string());
  check_fails({"weights", "get"}, "expected the name of a backbone");
  check_fails({"weights", "list", "dino_vits8"}, "weights list: expected no names");
  check_fails({"weights", "get", "texture"}, "texture", 2);
  check_fails({"weights", "put", "dino_vits8"}, "put", 2);
}

TEST_CASE("weights behind a form: whom to ask, and whether the file is the one", "[weights]") {
  const Mirror mirror;
  const std::string file = "dinov3_vits16_pretrain_lvd1689m-08c60483.pth";
  const fs::path target = mirror.folder / file;
  const Outcome asked = run_program({"weights", "get", "dinov3_vits16"});
  CHECK(asked.status == 1);
  INFO(asked.err);
  for (const std::string& text : {std::string("DINOv3 License"),
                                  std::string("https://ai.meta.com/resources/models-and-libraries/dinov3-downloads/"),
                                  target.string(), std::string("08c60483...")}) {
    CHECK(asked.err.find(text) != std::string::npos);
  }
  CHECK(run_program({"weights", "list"}).out.find("ask at https://ai.meta.com/") != std::string::npos);
  check_fails(train_arguments(mirror.dir.path / "out") +
                  std::vector<std::string>{"--resolution", "64", "--backbone", "dinov3_vits16"},
              "ask at  https://ai.meta.com/");

  const std::string content = weights_text();
  write_content(target, content);
  check_fails({"weights", "get", "dinov3_vits16"},
              target.string() + ": is not the published file: expected a SHA-256 that begins with 08c60483, got " +
                  sha256_of(target));
  CHECK(content_of(target) == content);
  smooseg::backbone::RegistryEntry entry = smooseg::backbone::find("dinov3_vits16");
  entry.weights.sha256 = sha256_of(target).substr(0, 8);
  std::ostringstream err;
  CHECK(download_weights(entry, mirror.folder, err) == target);
  CHECK(err.str().find("SHA-256 begins as expected: " + sha256_of(target)) != std::string::npos);
  CHECK(run_program({"weights", "list"}).out.find(target.string()) != std::string::npos);
}

TEST_CASE("weights are found in their folder, else where torch.hub keeps them", "[weights]") {
  const TempDir dir;
  const ScopedVariable hub("TORCH_HOME", (dir.path / "torch").string());
  smooseg::backbone::PretrainedWeights weights;
  weights.file = "x.pth";
  const fs::path own = dir.path / "own" / "x.pth", hubs = dir.path / "torch" / "hub" / "checkpoints" / "x.pth";
  const auto find = [&] { return find_weights(weights, dir.path / "own"); };
  CHECK_FALSE(find());
  write_content(hubs, "12345");
  CHECK(find() == hubs);
  write_content(own, "123");
  CHECK(find() == own);  // of unknown size: any will do

  weights.bytes = 3;
  CHECK(find() == own);
  weights.bytes = 5;  // in the folder it is an error, since we put it there; in torch.hub's it is another file
  CHECK_ERROR(find(), own.string() + ": expected 5 bytes, found 3: remove it and fetch it anew");
  fs::remove(own);
  CHECK(find() == hubs);
  weights.bytes = 4;
  CHECK_FALSE(find());
  fs::create_directories(own);  // a folder of this name is no file
  CHECK_FALSE(find());
  {
    const ScopedVariable none("TORCH_HOME", ""), cache("XDG_CACHE_HOME", (dir.path / "cache").string());
    const fs::path by_default = dir.path / "cache" / "torch" / "hub" / "checkpoints" / "x.pth";
    write_content(by_default, "1234");
    CHECK(find() == by_default);
  }
}

TEST_CASE("where weights are kept and published", "[weights]") {
  const auto& weights = smooseg::backbone::find("mocov2_resnet50").weights;
  {
    const ScopedVariable none("SMOOSEG_WEIGHTS_URL", "");
    CHECK(weights_url(weights) ==
          "https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar");
  }
  const ScopedVariable mirror("SMOOSEG_WEIGHTS_URL", "https://mirror.example/");
  CHECK(weights_url(weights) ==
        "https://mirror.example/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar");
  const ScopedVariable home("HOME", "/home/somebody"), cache("XDG_CACHE_HOME", ""), own("SMOOSEG_WEIGHTS", "");
  CHECK(weights_folder() == "/home/somebody/.cache/smooseg/weights");
  const ScopedVariable other_cache("XDG_CACHE_HOME", "/var/cache/somebody");
  CHECK(weights_folder() == "/var/cache/somebody/smooseg/weights");
  const ScopedVariable named("SMOOSEG_WEIGHTS", "/data/weights");
  CHECK(weights_folder() == "/data/weights");
}

TEST_CASE("training on each kind of backbone, whose weights are found", "[weights][program]") {
  const Mirror mirror;
  struct Kind {
    std::string backbone, naming, prefix, resolution;
  };
  // Under their own file's names and under others'.
  for (const Kind& kind : {Kind{"dino_vits16", "", "", "64"},
                           {"dinov2_vits14", "huggingface", "", "70"},
                           {"dinov2_vits14_reg", "timm", "", "70"},
                           {"dinov3_vits16", "dino", "", "64"},
                           {"dinov3_convnext_tiny", "huggingface", "", "64"},
                           {"dino_resnet50", "", "", "64"},
                           {"mocov2_resnet50", "", "state_dict.module.encoder_q.", "64"}}) {
    INFO(kind.backbone);
    const auto& entry = smooseg::backbone::find(kind.backbone);
    const bool by_hub = kind.backbone == "dino_resnet50" || kind.backbone == "mocov2_resnet50";
    // What has a published size is given by its path, since random weights have another.
    const bool by_path = entry.weights.bytes > 0;
    const fs::path folder = by_hub ? mirror.dir.path / "torch" / "hub" / "checkpoints" : mirror.folder;
    const fs::path weights = by_path ? mirror.dir.path / "weights.safetensors" : folder / entry.weights.file;
    write_random_weights(kind.backbone, kind.naming, kind.prefix, weights);
    const fs::path out = mirror.dir.path / kind.backbone;
    auto arguments = train_arguments(out) + std::vector<std::string>{"--backbone",    kind.backbone,  "--resolution",
                                                                     kind.resolution, "--iterations", "2"};
    if (by_path) arguments = arguments + std::vector<std::string>{"--weights", weights.string()};
    const Outcome trained = run_program(arguments);
    INFO(trained.err);
    REQUIRE(trained.status == 0);
    CHECK(trained.err.find(weights.string() + ": ") != std::string::npos);
    const std::string model = (out / "best.safetensors").string();
    check_runs({"evaluate", "--model", model, "--data", scenes().string(), "--resolution", "64", "--panels", "0"});
    check_runs({"segment", "--model", model, "--resolution", "50", "--out", (out / "drawn").string(),
                (scenes() / "images" / "test").string()});
    fs::remove_all(out);
    fs::remove(weights);
  }
  check_fails(train_arguments(mirror.dir.path / "x") +
                  std::vector<std::string>{"--backbone", "dino_resnet50", "--features", "keys", "--weights", "x"},
              "--features: the backbone 'dino_resnet50' has no keys");
  check_fails(train_arguments(mirror.dir.path / "x") +
                  std::vector<std::string>{"--backbone", "dino_resnet50", "--resolution", "48", "--weights", "x"},
              "--resolution: expected a multiple of the backbone's patch of 32 pixels, got 48");
}

TEST_CASE("convert: a backbone's weights to every naming and back", "[weights][convert]") {
  using smooseg::backbone::VisionTransformer;
  using Options = smooseg::backbone::VisionTransformerOptions;
  const TempDir dir;
  const auto options = Options(14, 48, 3, 3).image_size(70).layer_scale(true).register_tokens(4);
  const auto features = [&](const std::string& path) {
    VisionTransformer vit(Options(options).interpolate_offset(0.0).interpolate_antialias(true));
    io::load(*vit, path);
    return vit->features(golden("dinov2_vit_p14_reg4.safetensors").at("98x56.input"));
  };
  const std::string original = data_path("dinov2_vit_p14_reg4.pth");
  const Tensor expected = golden("dinov2_vit_p14_reg4.safetensors").at("98x56.features");
  for (const std::string naming : {"ours", "dino", "timm", "huggingface"}) {
    INFO(naming);
    const std::string there = (dir.path / (naming + ".safetensors")).string();
    const std::string back = (dir.path / (naming + "_back.safetensors")).string();
    const Outcome o = run_program({"convert", original, there, "--names", naming});
    INFO(o.err);
    REQUIRE(o.status == 0);
    CHECK(o.out.find("in the naming '" + naming + "'") != std::string::npos);
    CHECK(relative_error(features(there), expected) < 1e-5);
    CHECK(io::read_safetensors_metadata(there).at("format") == "pt");
    check_runs({"convert", there, back});
    CHECK(relative_error(features(back), expected) < 1e-5);
    CHECK(io::read_tensors(back).count("register_tokens") == 1);
  }
  CHECK(io::read_tensors((dir.path / "timm.safetensors").string()).count("reg_token") == 1);
  const auto refused = [&](const std::string& in, const std::vector<std::string>& more, const std::string& error,
                           int status = 1) {
    check_fails(std::vector<std::string>{"convert", in, (dir.path / "refused.safetensors").string()} + more, error,
                status);
    CHECK_FALSE(fs::exists(dir.path / "refused.safetensors"));
  };
  refused(original, {"--names", "torchvision"}, "has no name in the naming 'torchvision'");
  refused(original, {"--names", "authors"}, "expected a whole model for --names authors, found a backbone's weights");
  refused(original, {"--names", "keras"}, "--names", 2);
  refused(data_path("dtypes_and_views.pth"), {}, "dtypes_and_views.pth: none of its ");
  refused((dir.path / "none.pth").string(), {}, "none.pth: ");
  check_fails({"convert", original, (dir.path / "x.pth").string()}, "x.pth: expected a name that ends in .safetensors");
}

TEST_CASE("convert: a file of another network is refused", "[weights][convert][bad input]") {
  const TempDir dir;
  const std::string in = (dir.path / "in.safetensors").string(), out = (dir.path / "out.safetensors").string();
  io::write_safetensors(in, {{"foo", torch::ones(3)}});
  check_fails({"convert", in, out}, "in.safetensors: none of its 1 names is known; the first is 'foo'");
  io::write_safetensors(in, {{"norm.weight", torch::ones(3)}, {"norm.bias", torch::ones(3)}, {"foo", torch::ones(3)}});
  check_fails({"convert", in, out}, "in.safetensors: fits no known naming: 2 of its 3 names are known, but not 'foo'");
  CHECK_FALSE(fs::exists(out));
}

TEST_CASE("convert: a model to the authors' names and back, and its backbone to others'", "[weights][convert]") {
  const Mirror mirror;
  const fs::path weights = mirror.folder / "dino_deitsmall16_pretrain.pth";
  write_random_weights("dino_vits16", "", "", weights);
  const fs::path out = mirror.dir.path / "model";
  check_runs(train_arguments(out) + std::vector<std::string>{"--backbone", "dino_vits16", "--iterations", "1"});
  const std::string model = (out / "last.safetensors").string();
  const auto path = [&](const std::string& name) { return (mirror.dir.path / (name + ".safetensors")).string(); };

  check_runs({"convert", model, path("authors"), "--names", "authors"});
  const io::TensorMap authors = io::read_tensors(path("authors")), ours = io::read_tensors(model);
  CHECK(authors.at("projection.cluster2.2.weight").equal(ours.at("projector.mlp.2.weight")));
  CHECK(authors.at("prediction.local_clusters").equal(ours.at("predictor.student")));
  CHECK(authors.at("prediction.global_clusters").equal(ours.at("predictor.teacher")));
  CHECK(authors.at("net.model.blocks.11.attn.qkv.weight").equal(ours.at("backbone.blocks.11.attn.qkv.weight")));
  for (const auto& [name, tensor] : authors) CHECK(name.find("optimizer") == std::string::npos);

  check_runs({"convert", path("authors"), path("back"), "--backbone", "dino_vits16"});
  // The same step without what a training goes on from.
  const io::TensorMap model_alone = io::read_tensors((out / "best.safetensors").string());
  check_same_tensors(io::read_tensors(path("back")), model_alone);
  check_runs({"convert", model, path("slim")});
  check_same_tensors(io::read_tensors(path("slim")), model_alone);
  auto slim = io::read_safetensors_metadata(path("slim")), whole = io::read_safetensors_metadata(model);
  CHECK(slim.at("checksum") != whole.at("checksum"));  // of fewer tensors
  slim.erase("checksum");
  whole.erase("checksum");
  CHECK(slim == whole);
  check_runs({"evaluate", "--model", path("back"), "--data", scenes().string(), "--resolution", "64"});

  // A checkpoint without the backbone takes the published weights, and tells what it does not need.
  io::TensorMap checkpoint{{"state_dict.other.weight", torch::ones({1})}, {"epoch", torch::ones({1})}};
  for (const auto& [name, tensor] : authors) {
    if (name.rfind("net.", 0) != 0) checkpoint["state_dict." + name] = tensor;
  }
  io::write_safetensors(path("checkpoint"), checkpoint);
  const Outcome o = run_program({"convert", path("checkpoint"), path("whole"), "--backbone", "dino_vits16"});
  INFO(o.err);
  REQUIRE(o.status == 0);
  CHECK(o.err.find("its weights are those of " + weights.string()) != std::string::npos);
  CHECK(o.err.find("left out other.weight") != std::string::npos);
  check_same_tensors(io::read_tensors(path("whole")), model_alone);

  // The backbone alone.
  check_runs({"convert", model, path("hf"), "--names", "huggingface"});
  const auto vit = smooseg::backbone::make("dino_vits16");
  io::load(*vit, path("hf"));
  CHECK(vit->named_parameters()["norm.weight"].equal(ours.at("backbone.norm.weight")));

  const auto refused = [&](const std::string& in, const std::vector<std::string>& more, const std::string& error) {
    check_fails(std::vector<std::string>{"convert", in, path("refused")} + more, error);
  };
  refused(path("authors"), {}, "the file does not tell its backbone: say --backbone NAME");
  refused(path("authors"), {"--backbone", "dino_vits8"}, "does not fit a model with the backbone 'dino_vits8': ");
  refused(path("checkpoint"), {"--names", "timm"}, "checkpoint.safetensors: has no backbone");
  refused(path("checkpoint"), {"--backbone", "dino_vitb8"}, "needs its pretrained weights");
  refused(data_path("lightning.ckpt"), {"--backbone", "dino_vits16"},
          "projector.linear.weight: expected shape (8, 384, 1, 1), got (8, 24, 1, 1)");
  check_runs(train_arguments(mirror.dir.path / "texture"));
  refused((mirror.dir.path / "texture" / "best.safetensors").string(), {"--names", "authors"},
          "no other program has its backbone 'texture'");
}
