// Backbones that are no networks known by name: modules exported from Python, and features of files; and what
// `smooseg doctor --backbone` says of a backbone.

#include <torch/csrc/jit/api/module.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "app/program.hpp"
#include "data/image_file.hpp"
#include "data/transforms.hpp"
#include "model/model.hpp"
#include "model/score.hpp"
#include "smooseg/backbone/exported.hpp"
#include "smooseg/backbone/precomputed.hpp"
#include "support/hash.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;
namespace io = smooseg::io;

namespace {

/// A TorchScript module: random filters of patches of 8 pixels, 12 channels.
std::string save_module(const fs::path& path, int64_t seed = 1, const std::string& image_size = "") {
  torch::manual_seed(seed);
  torch::jit::Module module("net");
  module.register_parameter("weight", torch::randn({12, 3, 8, 8}), /*is_buffer=*/false);
  module.define("def forward(self, x):\n    return torch.relu(torch.conv2d(x, self.weight, stride=[8, 8]))\n");
  std::unordered_map<std::string, std::string> files{{"smooseg.patch_size", "8"}};
  if (!image_size.empty()) files["smooseg.image_size"] = image_size;
  module.save(path.string(), files);
  return path.string();
}

Words with_module(const fs::path& out, const std::string& module, const fs::path& data = scenes()) {
  return train_arguments(out, data) + Words{"--backbone", "exported", "--weights", module};
}

/// Square scenes, whose whole pictures are what training sees.
const fs::path& square_scenes() {
  static const TempDir dir;
  static const fs::path root = [] {
    SceneOptions options;
    options.train = 4;
    options.test = 2;
    options.height = options.width = 64;
    write_scenes(dir.path / "square", options);
    return dir.path / "square";
  }();
  return root;
}

/// The files of a module's features of the pictures of both splits, below `out`.
fs::path write_features(const fs::path& out, const std::string& module, torch::Dtype dtype = torch::kFloat32) {
  smooseg::backbone::Exported net(module);
  for (const std::string split : {"train", "test"}) {
    for (const auto& entry : fs::directory_iterator(square_scenes() / "images" / split)) {
      const Tensor map = net->features(normalize(read_image(entry.path()), {}).unsqueeze(0))[0];
      fs::create_directories(out / split);
      io::write_safetensors((out / split / (entry.path().stem().string() + ".safetensors")).string(),
                            {{"features", map.to(dtype)}, {"note", torch::zeros({1})}});
    }
  }
  return out;
}

Words with_features(const fs::path& out, const fs::path& features) {
  return train_arguments(out, square_scenes()) + Words{"--backbone", "features", "--features-dir", features.string()};
}

nlohmann::json scores_of(const fs::path& folder) {
  return nlohmann::json::parse(content_of(folder / "scores.json"));
}

}  // namespace

TEST_CASE("a module exported from Python, from training to labels", "[exported]") {
  const TempDir dir;
  const std::string module = save_module(dir.path / "net.pt");
  const fs::path out = dir.path / "out", model = out / "best.safetensors";
  const Outcome o = check_runs(with_module(out, module) + Words{"--cache", (dir.path / "cache").string()});
  CHECK(o.err.find(module + ": a module that gives 12 channels for patches of 8 pixels") != std::string::npos);

  // The model file names the module, and holds nothing of it.
  const auto [tensors, metadata] = io::read_safetensors_content(model.string());
  for (const auto& item : tensors) CHECK(item.first.rfind("backbone.", 0) != 0);
  CHECK(metadata.at("module") == sha256_of(module));

  const Words evaluate{"evaluate", "--model", model.string(), "--data", scenes().string(), "--resolution", "64"};
  check_runs(evaluate + Words{"--weights", module, "--out", (dir.path / "scores").string(), "--kmeans"});
  CHECK(scores_of(dir.path / "scores").at("images") == 3);
  const Words segment{"segment",      "--model",
                      model.string(), (scenes() / "images" / "test").string(),
                      "--out",        (dir.path / "labels").string()};
  check_runs(segment + Words{"--weights", module});
  CHECK(file_count(dir.path / "labels") == 9);
  check_runs({"convert", model.string(), (dir.path / "small.safetensors").string(), "--weights", module});
  CHECK(io::read_safetensors_metadata((dir.path / "small.safetensors").string()).at("module") == sha256_of(module));

  // Nothing runs a module unasked, or another one.
  check_fails(segment, "--weights: the backbone of " + model.string() + " is a module exported from Python");
  check_fails({"convert", model.string(), (dir.path / "b.safetensors").string()}, "is a module exported from Python");
  const std::string other = save_module(dir.path / "other.pt", 2);
  check_fails(evaluate + Words{"--weights", other}, "--weights: expected the module that " + model.string());
  check_fails(segment + Words{"--weights", (dir.path / "none.pt").string()}, "none.pt");
  check_fails({"segment", "--model", model_file().string(), (scenes() / "images" / "test").string(), "--out",
               (dir.path / "c").string(), "--weights", module},
              "holds all of its backbone, 'texture'");
  check_fails({"convert", data_path("dino_full.pth"), (dir.path / "d.safetensors").string(), "--weights", module},
              "is no model of smooseg train");
  check_fails(
      {"convert", model.string(), (dir.path / "e.safetensors").string(), "--weights", module, "--names", "timm"},
      "no other program has its backbone 'exported'");

  // A run goes on with its module alone, to the same weights.
  check_runs(with_module(dir.path / "two", module) + Words{"--iterations", "2"});
  check_fails(train_arguments(dir.path / "two") + Words{"--backbone", "exported", "--resume"},
              "--weights: the backbone");
  check_fails(with_module(dir.path / "two", other) + Words{"--resume"}, "--weights: expected the module that ");
  check_runs(with_module(dir.path / "two", module) + Words{"--resume"});
  check_same_tensors(dir.path / "two" / "last.safetensors", out / "last.safetensors");

  // The cache keeps the features of two modules apart.
  const Words cached{"--cache", (dir.path / "cache").string()};
  check_runs(with_module(dir.path / "cached", other) + cached);
  check_runs(with_module(dir.path / "fresh", other));
  check_same_tensors(dir.path / "cached" / "last.safetensors", dir.path / "fresh" / "last.safetensors");
}

TEST_CASE("modules for pictures of one size, and wrong settings of modules", "[exported][bad input]") {
  const TempDir dir;
  const std::string module = save_module(dir.path / "net.pt", 1, "64");
  const fs::path out = dir.path / "out";
  check_fails(with_module(out, module) + Words{"--resolution", "72"},
              "--resolution: expected 64, the side of the pictures that " + module + " was exported for, got 72");
  check_runs(with_module(out, module));
  // Larger pictures are seen in tiles of that size.
  check_runs({"segment", "--model", (out / "best.safetensors").string(), (scenes() / "images" / "test").string(),
              "--out", (dir.path / "labels").string(), "--weights", module, "--resolution", "100"});

  const std::string plain = save_module(dir.path / "plain.pt");
  const auto refused = [&](const Words& more, const std::string& text, int status = 1) {
    check_fails(with_module(dir.path / "refused", plain) + more, text, status);
  };
  refused({"--exported-patch", "16"}, "with patches of 16 pixels");
  refused({"--exported-skip-tokens", "-1"}, "--exported-skip-tokens", 2);
  refused({"--exported-mean", "1,2"}, "--exported-mean: expected three numbers as R,G,B, got '1,2'", 2);
  refused({"--exported-mean", "1,2,3,"}, "--exported-mean", 2);
  refused({"--exported-std", "1,0,1"}, "--exported-std: expected three numbers above 0 as R,G,B, got '1,0,1'", 2);
  refused({"--features", "keys"}, "--features: the backbone 'exported' has no keys");
  refused({"--precision", "bfloat16"}, "--precision");
  check_fails(train_arguments(dir.path / "refused") + Words{"--backbone", "exported"},
              "--weights: the backbone 'exported' is a module exported from Python: name its file");
  check_fails(
      train_arguments(dir.path / "refused") + Words{"--backbone", "exported", "--weights", data_path("dino_full.pth")},
      "dino_full.pth: expected a TorchScript module");

  check_runs(with_module(dir.path / "set", plain) +
             Words{"--exported-image-size", "64", "--exported-mean", "0.5,0.4,0.3"});
  const LoadedModel loaded = load_model(dir.path / "set" / "best.safetensors", torch::kCPU, {}, plain);
  const auto& net = dynamic_cast<smooseg::backbone::ExportedImpl&>(*loaded.model.segmenter->backbone);
  CHECK(net.image_size() == 64);
  CHECK(net.mean() == std::array<double, 3>{0.5, 0.4, 0.3});
  CHECK(loaded.model.segmenter->options.tile() == 64);

  // Pictures are normalised as the module wants them, everywhere.
  const auto teacher_of = [&](const std::string& name, const Words& more) {
    check_runs(with_module(dir.path / name, plain) + more);
    return io::read_tensors((dir.path / name / "last.safetensors").string()).at("predictor.teacher");
  };
  const Words imagenet{"--exported-mean", "0.485,0.456,0.406", "--exported-std", "0.229,0.224,0.225"};
  const Tensor as_imagenet = teacher_of("default", {});
  CHECK(teacher_of("imagenet", imagenet).equal(as_imagenet));
  CHECK_FALSE(teacher_of("other", {"--exported-mean", "0.1,0.2,0.3"}).equal(as_imagenet));
}

TEST_CASE("features of files, from training to labels", "[features]") {
  const TempDir dir;
  const std::string module = save_module(dir.path / "net.pt");
  const fs::path features = write_features(dir.path / "features", module);
  const fs::path out = dir.path / "files", model = out / "best.safetensors";
  check_runs(with_features(out, features) + Words{"--select", "labels", "--validation-split", "test",
                                                  "--validation-resolution", "64", "--validate-every", "2"});

  // Training, scores and labels are those of the network whose features they are.
  check_runs(with_module(dir.path / "module", module, square_scenes()));
  const auto from_files = io::read_tensors((out / "last.safetensors").string());
  for (const auto& [name, tensor] : io::read_tensors((dir.path / "module" / "last.safetensors").string())) {
    INFO(name);
    CHECK(relative_error(from_files.at(name), tensor) < 1e-3);
  }
  const auto evaluate = [&](const std::string& run, const Words& more) {
    check_runs(Words{"evaluate", "--model", (dir.path / run / "last.safetensors").string(), "--data",
                     square_scenes().string(), "--resolution", "64", "--out", (dir.path / (run + "-scores")).string()} +
               more);
    return scores_of(dir.path / (run + "-scores"));
  };
  const auto scores = evaluate("files", {"--features-dir", features.string(), "--kmeans", "--crf"});
  const auto expected = evaluate("module", {"--weights", module, "--kmeans", "--crf"});
  CHECK(std::abs(scores.at("accuracy").get<double>() - expected.at("accuracy").get<double>()) < 0.01);
  const auto kmeans = [](const nlohmann::json& json) { return json.at("kmeans").at("accuracy").get<double>(); };
  CHECK(std::abs(kmeans(scores) - kmeans(expected)) < 0.01);

  const fs::path pictures = square_scenes() / "images" / "test", labels = dir.path / "labels";
  const Words segment{"segment", "--model", model.string(), "--out", labels.string()};
  check_runs(segment + Words{pictures.string(), "--features-dir", (features / "test").string()});
  CHECK(file_count(labels) == 6);
  check_runs(segment + Words{first_file(pictures).string(), "--features-dir", (features / "test").string()});
  check_fails(segment + Words{pictures.string(), "--features-dir", (features / "test").string(), "--flip"}, "--flip");
  check_fails(segment + Words{pictures.string()}, "--features-dir: the backbone 'features' needs the folder");
  check_fails(
      segment + Words{pictures.string(), "--features-dir", features.string()},
      ": expected the features of the picture '" + first_file(pictures).stem().string() + "', found no such file");

  // Halves, from files to the end; other features than those it began with are noticed.
  const fs::path halves = write_features(dir.path / "halves", module, torch::kBFloat16);
  check_runs(with_features(dir.path / "half", halves) + Words{"--iterations", "2"});
  check_fails(with_features(dir.path / "half", features) + Words{"--resume"}, "cannot resume with other pictures");
  check_runs(with_features(dir.path / "half", halves) + Words{"--resume"});
}

TEST_CASE("wrong features of files", "[features][bad input]") {
  const TempDir dir;
  const fs::path features = write_features(dir.path / "features", save_module(dir.path / "net.pt"));
  const fs::path damaged = features / "train" / "0003.safetensors";
  REQUIRE(fs::exists(damaged));
  const Words train = with_features(dir.path / "out", features);
  const auto refused = [&](const io::TensorMap& tensors, const std::string& text) {
    io::write_safetensors(damaged.string(), tensors);
    check_fails(train, damaged.string() + ": expected " + text);
  };
  const std::string shape =
      "features of shape (12, h, w), float32, float16, bfloat16 or float64, with the channels of "
      "the first picture's, found ";
  refused({{"featurs", torch::zeros({12, 8, 8})}, {"x", torch::zeros({1})}}, "a tensor 'features', found featurs, x");
  refused({}, "a tensor 'features', found none");
  refused({{"features", torch::zeros({11, 8, 8})}}, shape + "(11, 8, 8), Float");
  refused({{"features", torch::zeros({1, 12, 8, 8})}}, shape + "(1, 12, 8, 8), Float");
  refused({{"features", torch::zeros({12, 0, 8})}}, shape + "(12, 0, 8), Float");
  refused({{"features", torch::zeros({12, 8, 8}, torch::kInt32)}}, shape + "(12, 8, 8), Int");
  refused({{"features", torch::ones({12, 8, 9}) / 0}}, "finite features, found nan or infinite values");
  refused({{"features", torch::zeros({12, 7, 8})}},
          "a map whose shorter side has 8 cells, as that of the first picture, since training compares squares of one "
          "size, found 7 x 8");
  write_content(damaged, "no tensors");
  check_fails(train, damaged.string());
  fs::remove(damaged);
  check_fails(train, damaged.string() + ": expected the features of the picture 'train/0003', found no such file");
  io::write_safetensors(damaged.string(), {{"features", torch::zeros({12, 30, 8}, torch::kFloat64)}});
  check_runs(train);  // the middle of a longer map will do

  check_fails(train + Words{"--crops", "five", "--overwrite"}, "--crops five: features of files");
  check_fails(train + Words{"--cache", (dir.path / "cache").string(), "--overwrite"}, "--cache: features of files");
  check_fails(train_arguments(dir.path / "a") + Words{"--backbone", "features"},
              "--features-dir: the backbone 'features'");
  check_fails(train_arguments(dir.path / "a") + Words{"--features-dir", features.string()},
              "--features-dir: the backbone 'texture' computes its features");
  check_fails(with_features(dir.path / "a", dir.path / "none"), "--features-dir: expected a folder, found nothing");
  check_fails(train + Words{"--weights", "x.pth", "--overwrite"}, "--weights: the backbone 'features' has none");
  check_fails({"prepare", "features", "--backbone", "features", "--data", square_scenes().string(), "--cache",
               (dir.path / "cache").string()},
              "--cache: features of files");

  // Two pictures that would share a file.
  fs::create_directories(dir.path / "twins");
  for (const char* name : {"a.png", "a.PNG"}) {
    fs::copy(first_file(square_scenes() / "images" / "test"), dir.path / "twins" / name);
  }
  check_fails(train_arguments(dir.path / "b", dir.path / "twins") +
                  Words{"--classes", "2", "--backbone", "features", "--features-dir", features.string()},
              "another picture, of another ending, has the same features");
}

TEST_CASE("labels from features of files lie where the picture's parts do", "[features]") {
  // Two classes, left and right of x = 40 in a picture of 48 x 64 pixels, on a grid of 6 x 8 cells.
  const TempDir dir;
  const Tensor right = (torch::arange(64) >= 40).to(torch::kUInt8).expand({48, 64}).contiguous();
  fs::create_directories(dir.path / "images" / "test");
  fs::create_directories(dir.path / "labels" / "test");
  write_png(dir.path / "images" / "test" / "x.png", right.mul(255));
  write_png(dir.path / "labels" / "test" / "x.png", right);
  write_content(dir.path / "classes.json", R"({"classes": ["left", "right"]})");
  const Tensor cells = (torch::arange(8) >= 5).to(torch::kFloat32).expand({6, 8});
  fs::create_directories(dir.path / "features" / "test");
  io::write_safetensors((dir.path / "features" / "test" / "x.safetensors").string(),
                        {{"features", torch::stack({1 - cells, cells})}});

  const torch::NoGradGuard no_grad;
  smooseg::Projector projector(smooseg::ProjectorOptions(2, 2).dropout(0));
  for (auto& parameter : projector->parameters()) parameter.zero_();
  projector->linear->weight.copy_(torch::eye(2).view({2, 2, 1, 1}));
  smooseg::PrototypePredictor predictor(2, 2);
  predictor->teacher.copy_(torch::eye(2));
  smooseg::Segmenter segmenter(smooseg::backbone::Precomputed(2).ptr(), projector, predictor);
  segmenter->eval();

  const Dataset dataset = open_dataset(dir.path, "test");
  ScoreOptions options;
  options.features.emplace(dir.path / "features");
  for (const int64_t resolution : {48, 96, 31}) {  // of the middle square, 8 to 56 of 64 columns
    options.resolution = resolution;
    const auto scores = score(*segmenter, dataset, torch::kCPU, options).scores();
    INFO(resolution);
    CHECK(scores.accuracy >= (resolution == 31 ? 0.96 : 1.0));
  }
}

TEST_CASE("doctor examines a backbone", "[doctor]") {
  const TempDir dir;
  const Outcome o = check_runs({"doctor", "--backbone", "texture", "--device", "cpu", "--textons", "8", "--pictures",
                                "3", "--resolution", "64"});
  for (const char* text :
       {"pictures              3 made-up scenes, 64 x 64 pixels\n", "8 channels, 8 x 8 patches", "time of a picture",
        "memory of a picture", "within a picture", "across pictures", "50 %", "at the same place"}) {
    INFO(text << "\n" << o.out);
    CHECK(o.out.find(text) != std::string::npos);
  }
  const std::string module = save_module(dir.path / "net.pt");
  const Outcome exported = check_runs({"doctor", "--backbone", "exported", "--weights", module, "--data",
                                       square_scenes().string(), "--resolution", "64", "--device", "cpu"});
  CHECK(exported.out.find("beside 9.2 kB of parameters") != std::string::npos);  // 12 x 3 x 8 x 8 of 4 bytes
  CHECK(exported.out.find("4 of " + square_scenes().string()) != std::string::npos);
  CHECK(exported.out.find("12 channels, 8 x 8 patches") != std::string::npos);

  // Features that are the same everywhere make no sense, and it says so; so it does of such that know the place alone.
  const fs::path features = dir.path / "features";
  const Words doctor{
      "doctor",   "--backbone", "features", "--features-dir", features.string(), "--data", square_scenes().string(),
      "--device", "cpu"};
  const auto write = [&](const Tensor& map) {
    for (const auto& entry : fs::directory_iterator(square_scenes() / "images" / "train")) {
      fs::create_directories(features / "train");
      io::write_safetensors((features / "train" / (entry.path().stem().string() + ".safetensors")).string(),
                            {{"features", map}});
    }
  };
  write(torch::ones({5, 6, 6}));
  CHECK(check_runs(doctor).out.find("all patches of a picture are nearly alike (deviation 0.000)") !=
        std::string::npos);
  torch::manual_seed(1);
  write(torch::randn({5, 6, 6}));
  const Outcome place = check_runs(doctor);
  INFO(place.out);
  CHECK(place.out.find("patches at the same place of two pictures are closer (1.000)") != std::string::npos);
  write(torch::ones({5, 1, 1}));
  CHECK(check_runs(doctor).out.find("a picture is a single patch") != std::string::npos);

  check_fails({"doctor", "--weights", module}, "--backbone", 2);
  check_fails({"doctor", "--backbone", "features", "--features-dir", features.string()}, "--data is required");
  check_fails({"doctor", "--backbone", "dino_vits8", "--weights", module, "--device", "cpu"}, module);
  check_fails({"doctor", "--backbone", "texture", "--data", (dir.path / "none").string()}, "none");
}
