// The program as its users run it: whole commands, what they write, and what they say when something is wrong.

#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "app/program.hpp"
#include "catch.hpp"
#include "commands/command_line.hpp"
#include "data/crops.hpp"
#include "data/image_file.hpp"
#include "data/scenes.hpp"
#include "settings/model.hpp"
#include "smooseg/backbone/vision_transformer.hpp"
#include "smooseg/io/load.hpp"
#include "smooseg/version.hpp"
#include "support.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;

namespace {

/// A copy of it to damage.
fs::path copy_of_scenes(const TempDir& dir) {
  fs::copy(scenes(), dir.path / "data", fs::copy_options::recursive);
  return dir.path / "data";
}

/// A model trained once on `scenes`.
const fs::path& model_file() {
  static const TempDir dir;
  static const fs::path path = [] {
    check_runs(train_arguments(dir.path / "model") + std::vector<std::string>{"--iterations", "30"});
    return dir.path / "model" / "best.safetensors";
  }();
  return path;
}

void check_same_tensors(const fs::path& a, const fs::path& b) {
  const auto first = smooseg::io::read_tensors(a.string()), second = smooseg::io::read_tensors(b.string());
  REQUIRE(first.size() == second.size());
  for (const auto& [name, tensor] : first) {
    INFO(name);
    REQUIRE(second.count(name) == 1);
    CHECK(tensor.equal(second.at(name)));
  }
}

std::string first_file(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().string());
  std::sort(names.begin(), names.end());
  return names.at(0);
}

}  // namespace

TEST_CASE("train, evaluate and segment", "[program]") {
  const TempDir dir;
  const fs::path out = dir.path / "model";
  const Outcome trained = run_program(train_arguments(out) + std::vector<std::string>{"--log-every", "2"});
  INFO(trained.err);
  REQUIRE(trained.status == 0);
  CHECK(trained.out == "model: " + (out / "best.safetensors").string() + "\n");
  CHECK(trained.err.find("step 4/4  total ") != std::string::npos);
  CHECK(trained.err.find("ETA 0:00") != std::string::npos);

  std::ifstream log(out / "log.jsonl");
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(log, line);) lines.push_back(nlohmann::json::parse(line));
  REQUIRE(lines.size() == 2);
  CHECK(lines[1].at("step") == 4);
  CHECK(lines[1].at("total").get<double>() ==
        Approx(lines[1].at("within").get<double>() + lines[1].at("across").get<double>() +
               lines[1].at("data").get<double>()));

  const std::string model = (out / "best.safetensors").string();
  const auto metadata = smooseg::io::read_safetensors_metadata(model);
  CHECK(metadata.at("step") == "4");
  const auto settings = nlohmann::json::parse(metadata.at("settings"));
  CHECK(settings.at("textons") == "8");
  CHECK(settings.at("projector-rate") == "0.0001");

  const fs::path scored = dir.path / "scores";
  const Outcome evaluated = run_program({"evaluate", "--model", model, "--data", scenes().string(), "--out",
                                         scored.string(), "--resolution", "64", "--kmeans", "--flip", "--panels", "2"});
  INFO(evaluated.err);
  REQUIRE(evaluated.status == 0);
  const auto scores = nlohmann::json::parse(text_of(scored / "scores.json"));
  CHECK(scores.at("images") == 3);
  for (const auto& s : {scores, scores.at("kmeans")}) {
    CHECK(s.at("accuracy").get<double>() > 0);
    CHECK(s.at("accuracy").get<double>() <= 1);
    CHECK(s.at("iou").size() == static_cast<std::size_t>(scene_classes().size()));
    CHECK(s.at("class_of_cluster").size() == static_cast<std::size_t>(scene_classes().size()));
  }
  for (const char* word : {"SmooSeg", "k-means", "mIoU", "accuracy"})
    CHECK(evaluated.out.find(word) != std::string::npos);
  CHECK(std::distance(fs::directory_iterator(scored / "panels"), fs::directory_iterator()) == 2);
  const Tensor panel = read_image(first_file(scored / "panels"));
  CHECK(panel.sizes() == torch::IntArrayRef{64, 3 * 64 + 2 * 4, 3});

  // Pictures of any size, and a folder of them.
  write_png(dir.path / "odd.png", torch::randint(256, {37, 101, 3}, torch::kUInt8));
  const fs::path drawn = dir.path / "drawn";
  check_runs({"segment", "--model", model, (dir.path / "odd.png").string(), (scenes() / "images" / "test").string(),
              "--out", drawn.string(), "--scores", (scored / "scores.json").string()});
  CHECK(std::distance(fs::directory_iterator(drawn), fs::directory_iterator()) == 3 * 4);
  const Tensor index = read_label(drawn / "odd_index.png");
  CHECK(index.sizes() == torch::IntArrayRef{37, 101});
  CHECK(((index < scene_classes().size()) | (index == 255)).all().item<bool>());
  const Tensor color = read_image(drawn / "odd_color.png");
  CHECK(read_image(drawn / "odd_overlay.png").sizes() == color.sizes());
  const auto expected = scene_classes().colors.at(static_cast<std::size_t>(index[5][7].item<int64_t>()));
  for (int64_t c = 0; c < 3; ++c) CHECK(color[5][7][c].item<uint8_t>() == expected.at(static_cast<std::size_t>(c)));
}

TEST_CASE("the dense CRF in evaluate and segment", "[program][crf]") {
  const TempDir dir;
  const std::string model = model_file().string();
  const auto evaluate = [&](const std::string& out, const std::vector<std::string>& more) {
    check_runs(std::vector<std::string>{"evaluate", "--model", model, "--data", scenes().string(), "--out",
                                        (dir.path / out).string(), "--resolution", "64", "--panels", "1"} +
               more);
    return nlohmann::json::parse(text_of(dir.path / out / "scores.json"));
  };
  const auto plain = evaluate("plain", {}), with = evaluate("with", {"--crf", "--threads", "2"});
  CHECK(plain.at("crf") == false);
  CHECK(with.at("crf").at("crf-bilateral-sxy") == 67);
  CHECK(with.at("iou") != plain.at("iou"));
  const auto panel = [&](const char* out) { return read_image(first_file(dir.path / out / "panels")); };
  CHECK_FALSE(panel("with").equal(panel("plain")));
  // Each option is read: another value, other scores. No iteration and no kernel are no CRF.
  const auto iou = [&](const std::vector<std::string>& more) {
    return evaluate("more", std::vector<std::string>{"--crf"} + more).at("iou");
  };
  CHECK(iou({"--threads", "1"}) == with.at("iou"));
  CHECK(iou({"--crf-iterations", "0"}) == plain.at("iou"));
  CHECK(iou({"--crf-gaussian-weight", "0", "--crf-bilateral-weight", "0"}) == plain.at("iou"));
  for (const auto& [option, value] : std::map<std::string, std::string>{{"--crf-scale", "20"},
                                                                        {"--crf-iterations", "1"},
                                                                        {"--crf-gaussian-sxy", "3"},
                                                                        {"--crf-gaussian-weight", "0.1"},
                                                                        {"--crf-bilateral-sxy", "5"},
                                                                        {"--crf-bilateral-srgb", "30"},
                                                                        {"--crf-bilateral-weight", "0.1"},
                                                                        {"--crf-normalization", "none"},
                                                                        {"--crf-tile", "40"}}) {
    INFO(option);
    auto arguments = std::vector<std::string>{option, value};
    if (option == "--crf-tile") arguments = arguments + std::vector<std::string>{"--crf-overlap", "4"};
    CHECK(iou(arguments) != with.at("iou"));
  }
  CHECK(iou({"--crf-tile", "40", "--crf-overlap", "4"}) != iou({"--crf-tile", "40", "--crf-overlap", "19"}));

  write_text(dir.path / "crf.toml", "[evaluate]\ncrf = true\ncrf-iterations = 3\n[segment]\ncrf = true\n");
  const auto from_file = evaluate("file", {"--config", (dir.path / "crf.toml").string()});
  CHECK(from_file.at("crf").at("crf-iterations") == 3);
  CHECK(from_file.at("crf").size() == 10);

  // Pictures of several sizes, at a time and one by one.
  write_png(dir.path / "odd.png", torch::randint(256, {37, 101, 3}, torch::kUInt8));
  const auto segment = [&](const std::string& out, const std::vector<std::string>& more) {
    check_runs(std::vector<std::string>{"segment", "--model", model, (dir.path / "odd.png").string(),
                                        (scenes() / "images" / "test").string(), "--out", (dir.path / out).string()} +
               more);
    CHECK(std::distance(fs::directory_iterator(dir.path / out), fs::directory_iterator()) == 3 * 4);
    std::string all;
    for (const auto& entry :
         std::map<fs::path, int>{{"odd_index.png", 0}, {"0000_index.png", 0}, {"0002_index.png", 0}})
      all += text_of(dir.path / out / entry.first);
    return all;
  };
  const std::string one = segment("one", {"--crf", "--threads", "1"});
  CHECK(segment("three", {"--crf", "--threads", "3"}) == one);
  CHECK(segment("config", {"--config", (dir.path / "crf.toml").string()}) == one);
  CHECK(segment("none", {}) != one);
  CHECK(read_label(dir.path / "one" / "odd_index.png").sizes() == torch::IntArrayRef{37, 101});

  const auto refused = [&](const std::vector<std::string>& more, const std::string& error, int status) {
    check_fails(std::vector<std::string>{"evaluate", "--model", model, "--data", scenes().string(), "--out",
                                         (dir.path / "refused").string(), "--crf"} +
                    more,
                error, status);
    check_fails(std::vector<std::string>{"segment", "--model", model, (dir.path / "odd.png").string(), "--out",
                                         (dir.path / "refused").string(), "--crf"} +
                    more,
                error, status);
  };
  refused({"--crf-bilateral-sxy", "0"}, "--crf-bilateral-sxy", 2);
  refused({"--crf-iterations", "-1"}, "--crf-iterations", 2);
  refused({"--crf-normalization", "some"}, "--crf-normalization", 2);
  refused({"--crf-tile", "100", "--crf-overlap", "50"},
          "expected a tile of more than twice the overlap, got 100 and 50", 1);
}

TEST_CASE("a seed decides the weights", "[program]") {
  const TempDir dir;
  check_runs(train_arguments(dir.path / "a"));
  check_runs(train_arguments(dir.path / "b"));
  check_runs(train_arguments(dir.path / "c") + std::vector<std::string>{"--seed", "1"});
  check_same_tensors(dir.path / "a" / "last.safetensors", dir.path / "b" / "last.safetensors");
  const auto weight = [&](const char* run) {
    return smooseg::io::read_tensors((dir.path / run / "last.safetensors").string()).at("projector.linear.weight");
  };
  CHECK_FALSE(weight("a").equal(weight("c")));
}

TEST_CASE("a run stopped and resumed ends as one that never was", "[program]") {
  const TempDir dir;
  const std::vector<std::string> seven{"--iterations", "7"}, three{"--iterations", "3"}, resume{"--resume"};
  check_runs(train_arguments(dir.path / "whole") + seven);
  check_runs(train_arguments(dir.path / "parts") + three);
  check_runs(train_arguments(dir.path / "parts") + seven + resume);
  check_same_tensors(dir.path / "whole" / "last.safetensors", dir.path / "parts" / "last.safetensors");

  check_fails(train_arguments(dir.path / "parts") + seven + resume + std::vector<std::string>{"--momentum", "0.5"},
              "last.safetensors: cannot resume with other settings: --momentum was 0.998, got 0.5");
  check_fails(train_arguments(dir.path / "parts") + three + resume, "has 7 steps already, more than --iterations 3");
  check_fails(train_arguments(dir.path / "nothing") + resume, "last.safetensors");
}

TEST_CASE("features need not fit into memory", "[program]") {
  const TempDir dir;
  check_runs(train_arguments(dir.path / "a"));
  check_runs(train_arguments(dir.path / "b") + std::vector<std::string>{"--cache-memory", "0"});
  const auto a = smooseg::io::read_tensors((dir.path / "a" / "last.safetensors").string());
  const auto b = smooseg::io::read_tensors((dir.path / "b" / "last.safetensors").string());
  for (const auto& [name, tensor] : a) CHECK(relative_error(b.at(name), tensor) < 1e-3);
}

TEST_CASE("a cache of features changes no bit", "[program][feature cache]") {
  const TempDir dir;
  const std::vector<std::string> cached{"--cache", (dir.path / "cache").string()};
  const auto last = [&](const char* run) { return dir.path / run / "last.safetensors"; };
  check_runs(train_arguments(dir.path / "plain"));
  check_runs(train_arguments(dir.path / "first") + cached);
  check_same_tensors(last("plain"), last("first"));
  const Outcome again = run_program(train_arguments(dir.path / "again") + cached);
  CHECK(again.status == 0);
  CHECK(again.err.find("to be written") == std::string::npos);
  check_same_tensors(last("plain"), last("again"));
  check_runs(train_arguments(dir.path / "mapped") +
             std::vector<std::string>{"--cache-memory", "0", "--workers", "3", "--crops", "five"} + cached);
  check_runs(train_arguments(dir.path / "workers") + std::vector<std::string>{"--workers", "1", "--crops", "five"});
  check_same_tensors(last("mapped"), last("workers"));

  const std::vector<std::string> half{"--feature-dtype", "float16"};
  check_runs(train_arguments(dir.path / "half") + half);
  check_runs(train_arguments(dir.path / "half cached") + half + cached);
  check_same_tensors(last("half"), last("half cached"));
  const auto weight = [&](const char* run) {
    return smooseg::io::read_tensors(last(run).string()).at("projector.linear.weight");
  };
  CHECK_FALSE(weight("half").equal(weight("plain")));
  CHECK(relative_error(weight("half"), weight("plain")) < 1e-3);

  // Prepared ahead with the same settings, nothing is left to compute.
  const std::string other = (dir.path / "prepared").string();
  const Outcome prepared = run_program({"prepare", "features", "--data", scenes().string(), "--cache", other,
                                        "--resolution", "64", "--textons", "8", "--threads", "2", "--device", "cpu"});
  INFO(prepared.err);
  CHECK(prepared.status == 0);
  CHECK(prepared.out == "features of 6 crops: " + other + "\n");
  const Outcome o = run_program(train_arguments(dir.path / "o") + std::vector<std::string>{"--cache", other});
  CHECK(o.err.find("to be written") == std::string::npos);
  check_same_tensors(last("plain"), last("o"));

  // k-means takes the features that the training left.
  const auto scores = [&](const char* out, const std::vector<std::string>& more) {
    const Outcome e = run_program(std::vector<std::string>{"evaluate", "--model", last("plain").string(), "--data",
                                                           scenes().string(), "--out", (dir.path / out).string(),
                                                           "--resolution", "64", "--kmeans", "--threads", "2"} +
                                  more);
    CHECK(e.status == 0);
    CHECK(e.err.find("to be written") == std::string::npos);
    return nlohmann::json::parse(text_of(dir.path / out / "scores.json"));
  };
  CHECK(scores("with", cached).at("kmeans") == scores("without", {}).at("kmeans"));
  check_fails(train_arguments(dir.path / "bad") + std::vector<std::string>{"--cache", last("plain").string()},
              "cannot create the folder ");
  check_fails({"prepare", "features", "--data", scenes().string()}, "--cache is required for 'prepare features'");
  check_fails({"prepare", "scenes"}, "--out is required for 'prepare scenes'");
}

TEST_CASE("a run does not go on with other pictures", "[program]") {
  const TempDir dir;
  const fs::path data = copy_of_scenes(dir);
  const std::vector<std::string> resume{"--resume", "--iterations", "6"};
  check_runs(train_arguments(dir.path / "out", data));
  const fs::path picture = first_file(data / "images" / "train");
  const std::string whole = text_of(picture);
  write_png(picture, torch::zeros({64, 80, 3}, torch::kUInt8));
  check_fails(train_arguments(dir.path / "out", data) + resume,
              "last.safetensors: cannot resume with other pictures: those of " + data.string());
  write_text(picture, whole);
  fs::rename(data, dir.path / "moved");  // only the contents count
  check_runs(train_arguments(dir.path / "out", dir.path / "moved") + resume);
}

TEST_CASE("a profile of the training", "[program]") {
  const TempDir dir;
  const Outcome o = run_program(train_arguments(dir.path / "out") + std::vector<std::string>{"--profile"});
  INFO(o.err << o.out);
  REQUIRE(o.status == 0);
  std::map<std::string, int> counts;
  const auto trace = nlohmann::json::parse(text_of(dir.path / "out" / "trace.json"));
  for (const auto& event : trace.at("traceEvents")) ++counts[event.at("name").get<std::string>()];
  for (const char* part : {"projector", "predictor", "loss", "backward", "optimiser", "gather"}) {
    INFO(part);
    CHECK(counts[part] == 4);  // once a step
  }
  for (const char* part : {"hash", "fit", "backbone", "wait"}) CHECK(counts[part] == 1);
  CHECK(counts["decode"] == 6 + 1);  // six for the fit, one group for the features
  for (const auto& [part, count] : counts) {
    if (part != "thread_name") CHECK(o.out.find("\n" + part + " ") != std::string::npos);
  }
  CHECK(o.out.find((dir.path / "out" / "trace.json").string()) != std::string::npos);

  // It changes nothing, and nothing is written without it.
  check_runs(train_arguments(dir.path / "plain"));
  check_same_tensors(dir.path / "plain" / "last.safetensors", dir.path / "out" / "last.safetensors");
  CHECK_FALSE(fs::exists(dir.path / "plain" / "trace.json"));
}

TEST_CASE("batches go through all crops, epoch by epoch", "[program]") {
  std::map<int64_t, int> seen;
  std::vector<int64_t> order;
  for (int64_t step = 0; step < 5; ++step) {
    for (const int64_t i : batch_indices(step, 4, 10, 3)) {
      ++seen[i];
      order.push_back(i);
    }
  }
  CHECK(seen.size() == 10);
  for (const auto& [index, times] : seen) CHECK(times == 2);
  CHECK(std::vector<int64_t>(order.begin(), order.begin() + 10) !=
        std::vector<int64_t>(order.begin() + 10, order.end()));
  CHECK(batch_indices(3, 4, 10, 3) == batch_indices(3, 4, 10, 3));
  CHECK(batch_indices(3, 4, 10, 3) != batch_indices(3, 4, 10, 4));
}

TEST_CASE("the best step by labels, when asked for", "[program]") {
  const TempDir dir;
  const std::vector<std::string> by_labels{"--select", "labels", "--validate-every", "2", "--validation-resolution",
                                           "64"};
  check_fails(train_arguments(dir.path / "a") + by_labels, "expected this folder with the pictures of 'val'");
  check_runs(train_arguments(dir.path / "a") + by_labels + std::vector<std::string>{"--validation-split", "test"});
  const std::string log = text_of(dir.path / "a" / "log.jsonl");
  CHECK(log.find("\"miou\"") != std::string::npos);
  CHECK(fs::exists(dir.path / "a" / "best.safetensors"));
  for (const auto& entry : fs::directory_iterator(dir.path / "a")) CHECK(entry.path().extension() != ".tmp");
}

TEST_CASE("options from TOML", "[program]") {
  const TempDir dir;
  const std::string config = (dir.path / "run.toml").string();
  const auto settings_with = [&](const std::vector<std::string>& more) {
    check_runs(train_arguments(dir.path / "model") + std::vector<std::string>{"--config", config} + more);
    const auto metadata = smooseg::io::read_safetensors_metadata((dir.path / "model" / "last.safetensors").string());
    return nlohmann::json::parse(metadata.at("settings"));
  };
  write_text(config,
             "# a comment\n[train]\ntemperature = 0.2\ncrops = \"five\"\nmomentum = 0.9\n[evaluate]\nflip = true\n");
  CHECK(settings_with({}).at("temperature") == "0.2");
  CHECK(settings_with({}).at("crops") == "five");
  CHECK(settings_with({"--temperature", "0.3"}).at("temperature") == "0.3");
  CHECK(settings_with({"--temperature", "0.3"}).at("momentum") == "0.9");

  const auto refused = [&](const std::string& text, const std::string& error) {
    write_text(config, text);
    check_fails(train_arguments(dir.path / "model") + std::vector<std::string>{"--config=" + config}, error, 2);
  };
  refused("[train]\ntemprature = 0.2\n", "run.toml: unknown key 'temprature' in [train]; known keys: ");
  refused("[trian]\nmomentum = 0.2\n", "run.toml: unknown section [trian]");
  refused("[train]\nmomentum = [0.2, 0.3]\n", "run.toml: expected one value for 'momentum' in [train], found 2");
  refused("momentum = 0.2\n", "run.toml: 'momentum' is in no section");
  refused("[train]\ntemperature = \"hot\"\n", "--temperature");
  refused("[train]\ncentering = \"column\"\n", "--centering");
  check_fails({"train", "--config", (dir.path / "none.toml").string()}, "none.toml: cannot read", 2);
}

TEST_CASE("every shipped configuration is understood", "[program]") {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(data_path("../../examples/configs"))) {
    INFO(entry.path().string());
    check_fails({"train", "--config", entry.path().string(), "--data", "/nonexistent", "--out", "/nonexistent"},
                "/nonexistent: expected a folder of pictures, found nothing");
    ++count;
  }
  CHECK(count >= 3);
}

TEST_CASE("help names every option and its default", "[program]") {
  for (const char* command : {"train", "evaluate", "segment", "prepare", "weights", "convert", "doctor"}) {
    const Outcome o = run_program({command, "--help"});
    CHECK(o.status == 0);
    CHECK(o.out.find("--") != std::string::npos);
  }
  const std::string help = run_program({"train", "--help"}).out;
  for (const auto& [name, value] : values_of(ModelSettings())) CHECK(help.find("--" + name) != std::string::npos);
  CHECK(help.find("0.998") != std::string::npos);
  CHECK(run_program({"--help"}).out.find("segment") != std::string::npos);
  CHECK(run_program({"--version"}).out == std::string(SMOOSEG_VERSION) + "\n");
}

TEST_CASE("settings survive the model file to the last digit", "[program]") {
  ModelSettings settings;
  settings.temperature = 0.1 + 0.2;
  settings.within_threshold = -1.0 / 3;
  settings.seed = ~uint64_t{0};
  settings.centering = "none";
  const ModelSettings back = settings_from(values_of(settings), "test");
  CHECK(back.temperature == settings.temperature);
  CHECK(back.within_threshold == settings.within_threshold);
  CHECK(back.seed == settings.seed);
  CHECK(back.centering == "none");
  CHECK_ERROR(settings_from({{"unheard-of", "1"}}, "FILE"), "FILE: its settings do not fit");
}

TEST_CASE("doctor", "[program]") {
  const Outcome o = run_program({"doctor", "--device", "cpu"});
  CHECK(o.status == 0);
  for (const char* word : {"LibTorch", "BLAS", "threads", "GFLOP/s", "CUDA devices"})
    CHECK(o.out.find(word) != std::string::npos);
}

TEST_CASE("bad arguments", "[program][bad input]") {
  const TempDir dir;
  const auto train = train_arguments(dir.path / "out");
  check_fails({}, "A subcommand is required", 2);
  check_fails({"trian"}, "unknown command 'trian'", 2);
  check_fails(train + std::vector<std::string>{"--momentun", "1"}, "--momentun", 2);
  check_fails(train + std::vector<std::string>{"--iterations", "0"}, "--iterations", 2);
  check_fails(train + std::vector<std::string>{"--backbone", "resnext"}, "--backbone", 2);
  check_fails({"train", "--data", "x"}, "--out is required", 2);
  check_fails(train + std::vector<std::string>{"--batch", "1"}, "--batch: expected at least 2");
  check_fails(train + std::vector<std::string>{"--classes", "1"}, "--classes: expected 2 to 255, got 1");
  check_fails(train + std::vector<std::string>{"--resolution", "60"},
              "--resolution: expected a multiple of the backbone's patch of 8 pixels, got 60");
  check_fails(train + std::vector<std::string>{"--device", "gpu"},
              "--device: expected auto, cpu, cuda or cuda:N, got 'gpu'");
  check_fails(train + std::vector<std::string>{"--device", "cuda:77"}, "--device: cuda:77 is not there");
  check_fails(train + std::vector<std::string>{"--features", "keys"}, "--features: the backbone 'texture' has no keys");
  check_fails(train + std::vector<std::string>{"--weights", "x.pth"}, "--weights: the backbone 'texture' has none");
}

TEST_CASE("bad data", "[program][bad input]") {
  const TempDir dir;
  const fs::path out = dir.path / "out";
  fs::create_directories(dir.path / "empty");
  check_fails(train_arguments(out, dir.path / "empty"), "empty: expected pictures (.jpg, .jpeg, .png), found none");
  check_fails(train_arguments(out, dir.path / "missing"), "missing: expected a folder of pictures, found nothing");

  const fs::path pictures = scenes() / "images" / "train";
  check_fails(train_arguments(out, pictures), "has no classes.json that tells the number of classes: say --classes K");
  check_fails({"evaluate", "--model", model_file().string(), "--data", pictures.string(), "--out", out.string()},
              "has no labels for the split 'test'");

  const fs::path data = copy_of_scenes(dir);
  const fs::path picture = first_file(data / "images" / "train"), test = first_file(data / "images" / "test"),
                 label = first_file(data / "labels" / "test");
  const auto evaluate = [&](const std::string& error) {
    check_fails({"evaluate", "--model", model_file().string(), "--data", data.string(), "--out", out.string(),
                 "--resolution", "64"},
                error);
  };
  const std::string good_label = text_of(label);

  SECTION("a picture cut short") {
    write_text(picture, text_of(picture).substr(0, 500));
    check_fails(train_arguments(out, data), picture.filename().string());
  }
  SECTION("a picture of another format") {
    write_text(picture, "GIF89a...");
    check_fails(train_arguments(out, data), picture.filename().string() + ": expected");
  }
  SECTION("picture and label of different sizes") {
    write_palette_png(label, torch::zeros({32, 32}, torch::kInt64), scene_classes().colors);
    evaluate(label.filename().string() + ": expected the size of ");
  }
  SECTION("a label value that is no class") {
    write_png(label, torch::full({64, 80}, 77, torch::kUInt8));
    evaluate("found the value 77");
  }
  SECTION("no label for a picture") {
    fs::remove(label);
    evaluate(label.filename().string() + ": expected the label map of ");
  }
  SECTION("one class") {
    write_text(data / "classes.json", R"({"classes": ["all"]})");
    check_fails(train_arguments(out, data), "classes.json");
  }
  SECTION("one picture") {
    const TempDir single;
    fs::copy(picture, single.path / "one.png");
    check_fails(train_arguments(out, single.path) + std::vector<std::string>{"--classes", "3"},
                "expected at least 2 training crops, found 1");
  }
  SECTION("fewer pictures than a batch: all of them are one") {
    const Outcome o = run_program(train_arguments(out, data) + std::vector<std::string>{"--batch", "50"});
    CHECK(o.status == 0);
    CHECK(o.err.find("--batch 50 is more than there are crops: 6 it is") != std::string::npos);
  }
}

TEST_CASE("bad weights", "[program][bad input]") {
  const TempDir dir;
  const fs::path weights = dir.path / "weights.safetensors";
  const auto train = [&](const std::string& error) {
    check_fails(train_arguments(dir.path / "out") +
                    std::vector<std::string>{"--backbone", "dino_vits16", "--weights", weights.string()},
                error);
  };
  train("weights.safetensors: ");  // missing

  using smooseg::backbone::VisionTransformer;
  using smooseg::backbone::VisionTransformerOptions;
  VisionTransformer vit(VisionTransformerOptions::dino_vits16());
  smooseg::io::TensorMap tensors;
  for (const auto& item : vit->named_parameters()) tensors[item.key()] = item.value().detach();
  tensors["norm.weight"] = torch::ones({383});
  smooseg::io::write_safetensors(weights.string(), tensors);
  train("norm.weight: expected shape (384), got (383)");
  tensors.erase("norm.weight");
  smooseg::io::write_safetensors(weights.string(), tensors);
  train("1 missing (norm.weight)");
  tensors["norm.weight"] = torch::ones({384});
  smooseg::io::write_safetensors(weights.string(), tensors);
  fs::resize_file(weights, fs::file_size(weights) - 10);
  train("weights.safetensors: ");

  // And whole again, they train.
  smooseg::io::write_safetensors(weights.string(), tensors);
  check_runs(train_arguments(dir.path / "out") +
             std::vector<std::string>{"--backbone", "dino_vits16", "--weights", weights.string(), "--iterations", "1"});
  check_runs({"segment", "--model", (dir.path / "out" / "best.safetensors").string(), "--resolution", "64", "--out",
              (dir.path / "drawn").string(), first_file(scenes() / "images" / "test")});
}

TEST_CASE("precision of the backbone", "[program]") {
  const TempDir dir;
  const std::string weights = (dir.path / "weights.safetensors").string();
  torch::manual_seed(0);
  smooseg::backbone::VisionTransformer vit(smooseg::backbone::VisionTransformerOptions::dino_vits16());
  smooseg::io::TensorMap tensors;
  for (const auto& item : vit->named_parameters()) tensors[item.key()] = item.value().detach();
  smooseg::io::write_safetensors(weights, tensors);
  const auto train = [&](const std::string& precision) {
    const fs::path out = dir.path / precision;
    const Outcome o =
        run_program(train_arguments(out) + std::vector<std::string>{"--backbone", "dino_vits16", "--weights", weights,
                                                                    "--iterations", "2", "--precision", precision});
    INFO(o.err);
    REQUIRE(o.status == 0);
    return smooseg::io::read_tensors((out / "best.safetensors").string());
  };
  const auto wide = train("float32"), narrow = train("bfloat16");
  train("auto");
  bool differs = false;
  for (const auto& [name, tensor] : wide) {
    INFO(name);
    REQUIRE(narrow.count(name) == 1);
    // Whatever it computes in, the model's weights stay what they are; the heads see other features, but hardly.
    CHECK(narrow.at(name).scalar_type() == tensor.scalar_type());
    if (name.find("backbone.") == 0) CHECK(narrow.at(name).equal(tensor));
    differs = differs || !narrow.at(name).equal(tensor);
    if (tensor.is_floating_point()) CHECK(narrow.at(name).allclose(tensor, 1e-2, 1e-2));
  }
  CHECK(differs);

  const auto scores = [&](const std::string& precision) {
    check_runs({"evaluate", "--model", (dir.path / "float32" / "best.safetensors").string(), "--data",
                scenes().string(), "--resolution", "64", "--out", (dir.path / "scored").string(), "--precision",
                precision});
    return nlohmann::json::parse(text_of(dir.path / "scored" / "scores.json"))["accuracy"].get<double>();
  };
  CHECK(std::abs(scores("bfloat16") - scores("float32")) < 0.02);

  const std::string picture = first_file(scenes() / "images" / "test");
  check_runs({"segment", "--model", (dir.path / "float32" / "best.safetensors").string(), "--resolution", "64", "--out",
              (dir.path / "drawn").string(), "--precision", "bfloat16", picture});
  check_fails({"segment", "--model", model_file().string(), "--out", (dir.path / "drawn").string(), "--precision",
               "bfloat16", picture},
              "--precision: this backbone has no weights that could be bfloat16");
  check_fails({"segment", "--model", model_file().string(), "--precision", "float16", picture}, "--precision", 2);
}

TEST_CASE("bad models and pictures to segment", "[program][bad input]") {
  const TempDir dir;
  const std::string picture = first_file(scenes() / "images" / "test");
  const auto segment = [&](const fs::path& model, const std::string& image, const std::string& error) {
    check_fails({"segment", "--model", model.string(), image, "--out", (dir.path / "out").string()}, error);
  };
  segment(dir.path / "none.safetensors", picture, "none.safetensors: ");
  segment(data_path("loss_small.safetensors"), picture, "not a model of smooseg: its metadata has no 'format'");
  const fs::path cut = dir.path / "cut.safetensors";
  fs::copy(model_file(), cut);
  fs::resize_file(cut, fs::file_size(cut) / 2);
  segment(cut, picture, "cut.safetensors: ");

  write_png(dir.path / "tiny.png", torch::zeros({5, 60, 3}, torch::kUInt8));
  segment(model_file(), (dir.path / "tiny.png").string(),
          "tiny.png: expected a picture of at least 8 x 8 pixels, found 60 x 5");
  segment(model_file(), (dir.path / "gone.png").string(), "gone.png");

  fs::create_directories(dir.path / "other");
  fs::copy(picture, dir.path / "other" / fs::path(picture).filename());
  check_fails({"segment", "--model", model_file().string(), picture, (dir.path / "other").string(), "--out",
               (dir.path / "out").string()},
              "its outputs would overwrite those of ");
  write_text(dir.path / "scores.json", R"({"class_of_cluster": [0, 1], "class_colors": [[0,0,0],[1,1,1]]})");
  check_fails({"segment", "--model", model_file().string(), picture, "--out", (dir.path / "out").string(), "--scores",
               (dir.path / "scores.json").string()},
              "scores.json: expected scores of the model's ");
}

TEST_CASE("output folders that cannot be written", "[program][bad input]") {
  const TempDir dir;
  write_text(dir.path / "file", "not a folder");
  check_fails(train_arguments(dir.path / "file" / "out"), "--out: cannot create the folder ");
  check_fails({"segment", "--model", model_file().string(), "--out", (dir.path / "file").string(),
               first_file(scenes() / "images" / "test")},
              "--out: cannot create the folder ");

  // A limit on the size of files does what a full disk does, in the middle of a checkpoint.
  check_runs(train_arguments(dir.path / "out"));
  const std::string before = text_of(dir.path / "out" / "last.safetensors");
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const Outcome o =
      run_program(train_arguments(dir.path / "out") + std::vector<std::string>{"--resume", "--iterations", "6"});
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  CHECK(o.status == 1);
  CHECK(o.err.find("last.safetensors: cannot write: ") != std::string::npos);
  CHECK(text_of(dir.path / "out" / "last.safetensors") == before);
  for (const auto& entry : fs::directory_iterator(dir.path / "out")) CHECK(entry.path().extension() != ".tmp");
}

TEST_CASE("a loss that is not finite stops the training", "[program][bad input]") {
  const TempDir dir;
  const std::vector<std::string> absurd{"--projector-rate", "1e37", "--checkpoint-every", "1"};
  check_fails(train_arguments(dir.path / "out") + absurd, "training stopped at step 2: the loss is ");
  const auto last = load_model(dir.path / "out" / "last.safetensors", torch::kCPU);
  CHECK(last.model.step == 1);
  check_fails(train_arguments(dir.path / "out") + absurd, "the last good checkpoint, of step 1, is ");
  check_fails(train_arguments(dir.path / "new") + std::vector<std::string>{"--across-threshold", "1e300"},
              "training stopped at step 1: the loss is -inf");
}
