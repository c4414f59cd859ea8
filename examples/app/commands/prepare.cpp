// `smooseg prepare`: made-up scenes, to try everything with nothing to download; or the features of training crops, ahead
// of the training.

#include <optional>

#include "commands/command_line.hpp"
#include "data/scenes.hpp"
#include "features/precision.hpp"
#include "features/training_features.hpp"
#include "model/model.hpp"

namespace smooseg::app {
namespace {

struct PrepareSettings {
  std::string what, out, data, weights;
  std::optional<uint64_t> seed;
  SceneOptions scenes;
  ModelSettings model;
  FeatureSettings features;
  RuntimeSettings runtime;
};

void add_options(CLI::App& app, PrepareSettings& s) {
  const auto count = from_to(1, 100000), pixels = from_to(64, 4096);
  app.add_option("what", s.what,
                 "scenes: labelled landscapes of textures, drawn at random; features: those of the training crops, as "
                 "smooseg train --cache takes them")
      ->required()
      ->check(CLI::IsMember({"scenes", "features"}));
  app.add_option("--seed", s.seed,
                 "decides every pixel of scenes (default: 1) and the textons of texture (default: 0)");
  add_options(app, s.features);
  add_options(app, s.runtime);
  app.option_defaults()->group("Scenes");
  app.add_option("--out", s.out, "folder for the data set");
  app.add_option("--train", s.scenes.train, "pictures to train on")->check(count);
  app.add_option("--test", s.scenes.test, "pictures to score")->check(count);
  app.add_option("--height", s.scenes.height, "of each picture in pixels")->check(pixels);
  app.add_option("--width", s.scenes.width, "of each picture in pixels")->check(pixels);
  app.option_defaults()->group("Features");
  app.add_option("--data", s.data, "data set (images/train, ...) or any folder of pictures");
  app.add_option("--weights", s.weights, "the backbone's weights (.pth, .pt, .ckpt, .safetensors)");
  add_options(app, s.model, SettingScope::kFeatures);
}

void check_given(const std::string& value, const char* option, const std::string& what) {
  TORCH_CHECK(!value.empty(), option, " is required for 'prepare ", what, "'");
}

void prepare_scenes(const PrepareSettings& s, const Console& console) {
  check_given(s.out, "--out", s.what);
  SceneOptions options = s.scenes;
  options.seed = s.seed.value_or(options.seed);
  write_scenes(s.out, options);
  console.out << options.train << " scenes to train on and " << options.test << " to score: " << s.out << std::endl;
}

void prepare_features(PrepareSettings s, const Console& console) {
  check_given(s.data, "--data", s.what);
  check_given(s.features.cache, "--cache", s.what);
  const std::string weights = chosen_weights(s.model, s.weights);
  s.model.seed = s.seed.value_or(s.model.seed);
  const torch::Device device = start(s.runtime, console.err);
  const Dataset dataset = open_dataset(s.data, "train", Labels::kNone);
  console.err << skipped_line(dataset);
  TrainingFeatures features(dataset, s.model, s.features, device, worker_count(s.features, s.runtime));
  const auto backbone = make_backbone(s.model);
  features.prepare(*backbone, weights, console.err);
  features.fill_cache(*in_precision(s.runtime, backbone, device, s.model.resolution, console.err), console.err);
  console.out << "features of " << features.crops().count() << " crops: " << s.features.cache << std::endl;
}

void prepare(const PrepareSettings& s, const Console& console) {
  s.what == "scenes" ? prepare_scenes(s, console) : prepare_features(s, console);
}

}  // namespace

Command prepare_command() {
  return make_command("prepare", "Make a data set, or the features of one.", prepare);
}

}  // namespace smooseg::app
