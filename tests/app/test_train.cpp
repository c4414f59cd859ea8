// `smooseg train`: what it writes and what decides it.

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/program.hpp"
#include "data/crops.hpp"
#include "features/precision.hpp"
#include "model/model.hpp"
#include "smooseg/backbone/registry.hpp"
#include "smooseg/eigen/segment.hpp"

namespace fs = std::filesystem;
using namespace smooseg::app;
using smooseg::Tensor;

TEST_CASE("a training writes a model and a log", "[train]") {
  const TempDir dir;
  const fs::path out = dir.path / "model";
  const Outcome o = check_runs(train_arguments(out) + Words{"--log-every", "2"});
  CHECK(o.out == "model: " + (out / "best.safetensors").string() + "\n");
  CHECK(o.err.find("step 4/4  total ") != std::string::npos);
  CHECK(o.err.find("ETA 0:00") != std::string::npos);

  std::ifstream log(out / "log.jsonl");
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(log, line);) lines.push_back(nlohmann::json::parse(line));
  REQUIRE(lines.size() == 2);
  CHECK(lines[1].at("step") == 4);
  CHECK(lines[1].at("total").get<double>() ==
        Approx(lines[1].at("within").get<double>() + lines[1].at("across").get<double>() +
               lines[1].at("data").get<double>()));

  const auto settings = settings_of(out / "best.safetensors");
  CHECK(settings.at("textons") == "8");
  CHECK(settings.at("projector-rate") == "0.0001");
  // Its head is read without LibTorch too.
  const auto head = smooseg::eigen::read_head<float>((out / "best.safetensors").string());
  const Tensor teacher = smooseg::io::read_safetensors((out / "best.safetensors").string()).at("predictor.teacher");
  CHECK(head.teacher.rows() == teacher.size(0));
  CHECK(head.teacher(1, 2) == teacher[1][2].item<float>());
  // The thresholds are chosen while it learns, and the log says by what.
  CHECK(settings.count("within-threshold") == 0);
  CHECK(o.err.find("thresholds: chosen while training") != std::string::npos);
  CHECK(lines[0].at("across_threshold").get<double>() == Approx(lines[0].at("joined_across").get<double>()));
  const auto middle = (lines[0].at("joined_within").get<double>() + lines[0].at("cut_within").get<double>()) / 2;
  CHECK(lines[0].at("within_threshold").get<double>() == Approx(middle));
}

TEST_CASE("thresholds that are given, and those of the backbone", "[train]") {
  const TempDir dir;
  const auto settings = [&](const Words& more) {
    check_runs(train_arguments(dir.path) + more + Words{"--overwrite"});
    return settings_of(dir.path / "best.safetensors");
  };
  const auto& texture = smooseg::backbone::find("texture");
  const std::string across = nlohmann::json(texture.across_threshold).dump();
  const auto preset = settings({"--thresholds", "preset"});
  CHECK(preset.at("within-threshold") == nlohmann::json(texture.within_threshold).dump());
  CHECK(preset.at("across-threshold") == across);
  const auto one = settings({"--within-threshold", "-0.125"});
  CHECK(one.at("within-threshold") == "-0.125");
  CHECK(one.at("across-threshold") == across);
  const auto both = settings({"--thresholds", "0.25,0.5"});
  CHECK(both.at("within-threshold") == "0.25");
  CHECK(both.at("across-threshold") == "0.5");
  check_fails(train_arguments(dir.path / "new") + Words{"--thresholds", "0.25"},
              "expected auto, auto:WITHIN,ACROSS, preset, or two numbers as WITHIN,ACROSS, got '0.25'", 2);
  check_fails(train_arguments(dir.path / "new") + Words{"--thresholds", "auto:0.25"}, "got 'auto:0.25'", 2);
  check_fails(train_arguments(dir.path / "new") + Words{"--thresholds", "0.25,0.5", "--across-threshold", "0.75"},
              "--thresholds: give both thresholds here, or each with --within-threshold");
}

TEST_CASE("thresholds that are chosen begin where they are told", "[train]") {
  const TempDir dir;
  check_runs(train_arguments(dir.path) + Words{"--thresholds", "auto:0.875,-0.5"});
  CHECK(settings_of(dir.path / "best.safetensors").count("within-threshold") == 0);
  std::string first;
  std::getline(std::ifstream(dir.path / "log.jsonl") >> std::ws, first);
  const auto line = nlohmann::json::parse(first);
  CHECK(line.at("within_threshold") == 0.875);
  CHECK(line.at("across_threshold") == -0.5);
  CHECK(line.at("joined_across").get<double>() > 0);
}

TEST_CASE("dead prototypes are restarted where thresholds are chosen, unless told otherwise", "[train]") {
  const auto restarts = [](const Words& more) {
    const TempDir dir;
    const Words arguments = train_arguments(dir.path / "out") + Words{"--iterations", "101", "--classes", "12"} + more;
    return check_runs(arguments).err.find("dead prototypes restarted: ") != std::string::npos;
  };
  CHECK(restarts({}));
  CHECK_FALSE(restarts({"--restarts", "off"}));
  CHECK_FALSE(restarts({"--thresholds", "0.1,0.3"}));
  CHECK(restarts({"--thresholds", "0.1,0.3", "--restarts", "on"}));
}

TEST_CASE("a seed decides the weights", "[train]") {
  const TempDir dir;
  const auto weights = [&](const std::string& out, const Words& more) {
    check_runs(train_arguments(dir.path / out) + more);
    return smooseg::io::read_safetensors((dir.path / out / "last.safetensors").string()).at("projector.linear.weight");
  };
  const Tensor first = weights("a", {});
  CHECK(weights("b", {}).equal(first));
  CHECK_FALSE(weights("c", {"--seed", "1"}).equal(first));
}

TEST_CASE("the draws of a step leave LibTorch's generator alone", "[train]") {
  const TempDir dir;
  Tensor after[2];
  for (const int i : {0, 1}) {
    check_runs(train_arguments(dir.path / std::to_string(i)) + Words{"--iterations", i == 0 ? "1" : "4"});
    after[i] = torch::rand({4});
  }
  CHECK(after[0].equal(after[1]));
}

TEST_CASE("features need not fit into memory", "[train]") {
  const TempDir dir;
  check_runs(train_arguments(dir.path / "a"));
  check_runs(train_arguments(dir.path / "b") + Words{"--cache-memory", "0"});
  const auto a = smooseg::io::read_tensors((dir.path / "a" / "last.safetensors").string());
  const auto b = smooseg::io::read_tensors((dir.path / "b" / "last.safetensors").string());
  for (const auto& [name, tensor] : a) CHECK(relative_error(b.at(name), tensor) < 1e-3);
}

TEST_CASE("a profile of the training", "[train]") {
  const TempDir dir;
  const Outcome o = run_program(train_arguments(dir.path / "out") + Words{"--profile"});
  INFO(o.err << o.out);
  REQUIRE(o.status == 0);
  std::map<std::string, int> counts;
  const auto trace = nlohmann::json::parse(content_of(dir.path / "out" / "trace.json"));
  for (const auto& event : trace.at("traceEvents")) ++counts[event.at("name").get<std::string>()];
  for (const char* part : {"projector", "predictor", "loss", "backward", "optimiser", "gather"}) {
    INFO(part);
    CHECK(counts[part] == 4);  // once a step
  }
  for (const char* part : {"hash", "fit", "backbone", "wait"}) CHECK(counts[part] == 1);
  CHECK(counts["decode"] == 6 + 1);  // six for the textons, one group for the features
  for (const auto& [part, count] : counts) {
    if (part != "thread_name") CHECK(o.out.find("\n" + part + " ") != std::string::npos);
  }
  CHECK(o.out.find((dir.path / "out" / "trace.json").string()) != std::string::npos);

  // It changes nothing, and nothing is written without it.
  check_runs(train_arguments(dir.path / "plain"));
  check_same_tensors(dir.path / "plain" / "last.safetensors", dir.path / "out" / "last.safetensors");
  CHECK_FALSE(fs::exists(dir.path / "plain" / "trace.json"));
}

TEST_CASE("batches go through all crops, epoch by epoch", "[train]") {
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

TEST_CASE("the best step by labels, when asked for", "[train]") {
  const TempDir dir;
  const fs::path out = dir.path / "a";
  const Words by_labels{"--select", "labels", "--validate-every", "2", "--validation-resolution", "64"};
  check_fails(train_arguments(out) + by_labels, "expected this folder with the pictures of 'val'");
  check_runs(train_arguments(out) + by_labels + Words{"--validation-split", "test"});
  CHECK(content_of(out / "log.jsonl").find("\"miou\"") != std::string::npos);
  CHECK(fs::exists(out / "best.safetensors"));
  for (const auto& entry : fs::directory_iterator(out)) CHECK(entry.path().extension() != ".tmp");
}

TEST_CASE("precision of the backbone", "[train]") {
  const TempDir dir;
  const std::string weights = (dir.path / "weights.safetensors").string();
  torch::manual_seed(0);
  smooseg::backbone::VisionTransformer vit(smooseg::backbone::VisionTransformerOptions::dino_vits16());
  smooseg::io::TensorMap tensors;
  for (const auto& item : vit->named_parameters()) tensors[item.key()] = item.value().detach();
  smooseg::io::write_safetensors(weights, tensors);
  vit->eval();
  const Tensor images = torch::rand({1, 3, 32, 32});
  const Tensor features = rounded(vit.ptr(), torch::kFloat16)->features(images);
  CHECK(features.equal(vit->features(images).to(torch::kFloat16).to(torch::kFloat32)));
  CHECK(rounded(vit.ptr(), torch::kFloat32) == vit.ptr());
  const auto satellite = smooseg::backbone::VisionTransformerOptions(8, 16, 1, 2).mean({0.1, 0.2, 0.3}).std({1, 2, 3});
  const auto half = rounded(std::make_shared<smooseg::backbone::VisionTransformerImpl>(satellite), torch::kFloat16);
  CHECK(half->mean() == smooseg::backbone::Rgb{0.1, 0.2, 0.3});
  CHECK(half->std() == smooseg::backbone::Rgb{1, 2, 3});
  const auto train = [&](const std::string& precision) {
    const fs::path out = dir.path / precision;
    check_runs(train_arguments(out) + Words{"--backbone", "dino_vits16", "--weights", weights, "--iterations", "2",
                                            "--precision", precision, "--select", "labels", "--validation-split",
                                            "test", "--validation-resolution", "64"});
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

  const auto accuracy = [&](const std::string& model, const std::string& precision) {
    check_runs({"evaluate", "--model", (dir.path / model / "best.safetensors").string(), "--data", scenes().string(),
                "--resolution", "64", "--out", (dir.path / "scored").string(), "--precision", precision});
    return nlohmann::json::parse(content_of(dir.path / "scored" / "scores.json")).at("accuracy").get<double>();
  };
  CHECK(std::abs(accuracy("float32", "bfloat16") - accuracy("float32", "float32")) < 0.02);
  // Validation sees the features that training sees, which score otherwise than those of the other precision.
  const std::string log = content_of(dir.path / "bfloat16" / "log.jsonl");
  const auto validated = nlohmann::json::parse(log.substr(log.rfind("\n", log.size() - 2) + 1)).at("accuracy");
  CHECK(validated == accuracy("bfloat16", "bfloat16"));
  CHECK(validated != accuracy("bfloat16", "float32"));

  const std::string picture = first_file(scenes() / "images" / "test").string();
  check_runs({"segment", "--model", (dir.path / "float32" / "best.safetensors").string(), "--resolution", "64", "--out",
              (dir.path / "drawn").string(), "--precision", "bfloat16", picture});
  check_fails({"segment", "--model", model_file().string(), "--out", (dir.path / "drawn").string(), "--precision",
               "bfloat16", picture},
              "--precision: this backbone has no weights that could be bfloat16");
  check_fails({"segment", "--model", model_file().string(), "--precision", "float16", picture}, "--precision", 2);
}

TEST_CASE("pictures of other formats are counted", "[train]") {
  const TempDir dir;
  const fs::path data = copy_of_scenes(dir.path);
  write_content(data / "images" / "train" / "other.heic", "");
  for (const Words& arguments : {train_arguments(dir.path / "out", data) + Words{"--iterations", "1"},
                                 Words{"segment", "--model", model_file().string(), "--out", (dir.path / "s").string(),
                                       (data / "images" / "train").string()}}) {
    CHECK(check_runs(arguments).err.find("1 picture is left out: 1 .heic") != std::string::npos);
  }
}

TEST_CASE("bad pictures are all named, and left out when asked for", "[train][segment][evaluate][bad input]") {
  const TempDir dir;
  const fs::path data = copy_of_scenes(dir.path), cache = dir.path / "cache";
  std::vector<std::string> bad;
  for (const char* split : {"train", "test"}) {
    const fs::path first = first_file(data / "images" / split);
    bad.push_back(first.string());
    bad.push_back((first.parent_path() / "0002.png").string());
    write_content(bad.end()[-2], content_of(first).substr(0, 500));
    write_content(bad.back(), "GIF89a...");
  }
  const fs::path label = data / "labels" / "test" / "0001.png";
  const std::string model = model_file().string();
  const Words segment{"segment", "--model", model, (data / "images" / "train").string()},
      evaluate{"evaluate", "--model", model, "--data", data.string(), "--resolution", "64", "--panels", "1"},
      prepare{"prepare", "features", "--data", data.string(), "--cache", cache.string(), "--resolution", "64"};
  const auto out = [&](const char* name) { return Words{"--out", (dir.path / name).string()}; };
  for (const Words& arguments :
       {train_arguments(dir.path / "model", data), segment + out("drawn"), prepare, evaluate + out("scores")}) {
    const bool tests = arguments.front() == "evaluate";
    const Words skip{"--on-error", "skip"};
    INFO(arguments.front());
    for (std::size_t i = 0; i < 2; ++i) {
      check_fails(arguments, std::string("2 of ") + (tests ? "3" : "6") + " pictures cannot be used:");
      check_fails(arguments, "\n  " + bad[(tests ? 2 : 0) + i] + ": expected ");
    }
    const Outcome o = check_runs(arguments + skip);
    CHECK(o.err.find("\n  " + bad[tests ? 2 : 0] + ": expected ") != std::string::npos);
  }
  CHECK(file_count(dir.path / "drawn") == 3 * 4);
  CHECK(nlohmann::json::parse(content_of(dir.path / "scores" / "scores.json")).at("images") == 1);

  // A label map counts as its picture does; nothing that can be used is an error.
  write_content(label, "");
  check_fails(evaluate + out("scores") + Words{"--on-error", "skip"}, "3 of 3 pictures cannot be used:");
  check_fails(evaluate + out("scores"), "\n  " + label.string() + ": expected ");
}

TEST_CASE("bad weights", "[train][bad input]") {
  const TempDir dir;
  const fs::path weights = dir.path / "weights.safetensors";
  const auto train = [&](const std::string& error) {
    check_fails(train_arguments(dir.path / "out") + Words{"--backbone", "dino_vits16", "--weights", weights.string()},
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
             Words{"--backbone", "dino_vits16", "--weights", weights.string(), "--iterations", "1"});
  check_runs({"segment", "--model", (dir.path / "out" / "best.safetensors").string(), "--resolution", "64", "--out",
              (dir.path / "drawn").string(), first_file(scenes() / "images" / "test").string()});
}

TEST_CASE("a loss that is not finite stops the training", "[train][bad input]") {
  const TempDir dir;
  const Words absurd{"--projector-rate", "1e37", "--checkpoint-every", "1", "--overwrite"};
  check_fails(train_arguments(dir.path / "out") + absurd, "training stopped at step 2: the loss (total ");
  const auto last = load_model(dir.path / "out" / "last.safetensors", torch::kCPU);
  CHECK(last.model.step == 1);
  check_fails(train_arguments(dir.path / "out") + absurd, "not finite; the last good checkpoint is ");
  check_fails(train_arguments(dir.path / "new") + Words{"--across-threshold", "3e38"},
              "is not finite; there is no checkpoint yet");
}
