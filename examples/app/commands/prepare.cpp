// `smooseg prepare`: made-up scenes, to try everything with nothing to download; a published data set, or folders of one's
// own, looked through and described; or the features of training crops, ahead of the training.

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>

#include "commands/command_line.hpp"
#include "data/bad_files.hpp"
#include "data/dataset_check.hpp"
#include "data/potsdam.hpp"
#include "data/prepared.hpp"
#include "data/scenes.hpp"
#include "features/precision.hpp"
#include "features/training_features.hpp"
#include "model/model.hpp"
#include "support/disk.hpp"
#include "support/file_lock.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

struct PrepareSettings {
  std::string what, out, data, variant, weights;
  std::string on_error = "fail";
  std::optional<uint64_t> seed;
  SceneOptions scenes;
  ModelSettings model;
  FeatureSettings features;
  RuntimeSettings runtime;
};

std::vector<std::string> dataset_names() {
  std::vector<std::string> names;
  for (const Layout& layout : layouts()) names.push_back(layout.name);
  names.emplace_back(kFolderLayout);
  return names;
}

/// "of cocostuff: curated, full, all, 10k; of potsdam: ..."
std::string variants_text() {
  std::string text;
  for (const Layout& layout : layouts()) {
    if (layout.variants.size() < 2) continue;
    text += (text.empty() ? "of " : "; of ") + layout.name;
    for (const Variant& variant : layout.variants) {
      text += (&variant == &layout.variants.front() ? ": " : ", ") + variant.name;
    }
  }
  return text;
}

void add_options(CLI::App& app, PrepareSettings& s) {
  const auto count = from_to(1, 100000), pixels = from_to(64, 4096);
  std::vector<std::string> words = dataset_names();
  words.insert(words.begin(), {"scenes", "features"});
  app.add_option("what", s.what,
                 "scenes: labelled landscapes of textures, drawn at random; features: those of the training crops, as "
                 "smooseg train --cache takes them; folder: pictures and label maps as classes.json describes them; "
                 "otherwise a published data set")
      ->required()
      ->check(CLI::IsMember(words));
  app.add_option("--out", s.out,
                 "folder for scenes, or for what smooseg notes of a data set; give it to --data afterwards");
  app.add_option("--data", s.data,
                 "of a data set: its folder as published; of features: a data set (images/train, ...) or any folder of "
                 "pictures");
  app.add_option("--variant", s.variant, "form of a published data set, by default the first: " + variants_text());
  app.add_option("--seed", s.seed,
                 "decides every pixel of scenes (default: 1) and the textons of texture (default: 0)");
  add_options(app, s.features);
  add_options(app, s.runtime);
  app.option_defaults()->group("Scenes");
  app.add_option("--train", s.scenes.train, "pictures to train on")->check(count);
  app.add_option("--test", s.scenes.test, "pictures to score")->check(count);
  app.add_option("--height", s.scenes.height, "of each picture in pixels")->check(pixels);
  app.add_option("--width", s.scenes.width, "of each picture in pixels")->check(pixels);
  app.option_defaults()->group("Features");
  add_on_error(app, s.on_error);
  app.add_option("--weights", s.weights,
                 "the backbone's weights (.pth, .pt, .ckpt, .safetensors), or the exported module (.pt, .pt2)");
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

void prepare_features(PrepareSettings s, const Console& console, const std::shared_ptr<Processes>& processes) {
  check_given(s.data, "--data", s.what);
  check_given(s.features.cache, "--cache", s.what);
  const std::string weights = chosen_weights(s.model, s.weights);
  s.model.seed = s.seed.value_or(s.model.seed);
  const torch::Device device = start(s.runtime, console.err);
  const int workers = worker_count(s.features, s.runtime);
  Dataset dataset = open_dataset(s.data, "train", Labels::kNone);
  console.err << skipped_line(dataset);
  if (s.on_error == "skip") leave_out_bad(dataset, check_of(crops_of(dataset, s.model)), workers, console.err);
  TrainingFeatures features(dataset, s.model, s.features, device, workers, {}, processes);
  naming_all_bad(dataset, check_of(features.crops()), workers, [&] {
    const auto backbone = make_backbone(s.model, {weights});
    features.prepare(*backbone, weights, console.err);
    const auto fast = in_precision(s.runtime, backbone, device, s.model.resolution, console.err, *processes);
    features.fill_cache(*fast, console.err);
  });
  console.out << "features of " << features.crops().count() << " crops: " << s.features.cache << std::endl;
}

/// The form of the data set that is meant, after a look at whether its folders are there.
Variant chosen_variant(const PrepareSettings& s) {
  if (s.what != kFolderLayout) {
    const Layout& layout = find_layout(s.what);
    const Variant& variant = find_variant(layout, s.variant);
    check_is(s.data, layout, variant);
    return variant;
  }
  TORCH_CHECK(s.variant.empty(), "--variant: 'prepare ", s.what, "' has none, got '", s.variant, "'");
  TORCH_CHECK(fs::is_directory(s.data), s.data, ": expected a folder with classes.json, found ",
              fs::exists(s.data) ? "a file" : "nothing");
  const Variant variant = folder_variant(s.data);
  TORCH_CHECK(!variant.splits.empty(), s.data,
              ": expected folders of pictures named by \"splits\" in classes.json, or images/SPLIT, found neither");
  return variant;
}

/// Reads every picture and label map of all splits. @return the number of pictures of each.
std::map<std::string, int64_t> check_all(const PrepareSettings& s, const Variant& variant, const Console& console) {
  constexpr std::size_t kShown = 20;
  std::map<std::string, Dataset> splits;
  std::map<std::string, int64_t> counts;
  for (const SplitPlaces& places : variant.splits) {
    const Dataset& dataset = splits.emplace(places.name, list_split(variant, s.data, places.name)).first->second;
    console.err << skipped_line(dataset) << extra_labels_line(places, s.data, dataset);
    counts[places.name] = static_cast<int64_t>(dataset.samples.size());
  }
  std::string recipe = s.what + " " + s.variant;
  for (const auto& [name, dataset] : splits) {
    recipe += " " + name + (dataset.classes ? " " + classes_to_json(*dataset.classes) : "");
  }
  DatasetCheck check = check_pictures(splits, s.out, recipe, worker_count(s.features, s.runtime), console.err);
  if (splits.count("train") > 0 && splits.count(variant.scored) > 0 && variant.scored != "train") {
    const auto shared = shared_pictures(splits.at("train"), splits.at(variant.scored), variant.scored);
    check.problems.insert(check.problems.end(), shared.begin(), shared.end());
  }
  for (std::size_t i = 0; i < std::min(kShown, check.problems.size()); ++i) console.err << check.problems[i] << "\n";
  TORCH_CHECK(check.problems.empty(), s.data, ": ", check.problems.size(),
              check.problems.size() == 1 ? " problem in " : " problems in ", check.pictures,
              check.pictures == 1 ? " picture" : " pictures",
              check.problems.size() > kShown ? ", the first of them above" : ", see above",
              "; put them right, and the same command looks at what is left");
  return counts;
}

void prepare_dataset(const PrepareSettings& s, const Console& console) {
  check_given(s.data, "--data", s.what);
  check_given(s.out, "--out", s.what);
  const Variant variant = chosen_variant(s);
  make_folder(s.out, "--out");
  const FileLock lock(fs::path(s.out) / ".smooseg.lock");
  TORCH_CHECK(!lock.busy(), "--out: another run is preparing ", s.out, ": take another folder, or wait for it");
  if (variant.splits.empty()) {
    cut_potsdam(variant.name, s.data, s.out, thread_count(s.runtime), console.err);
    console.out << PotsdamPieces::kTrain << " pieces to train on, " << PotsdamPieces::kTest << " to score, "
                << PotsdamPieces::kUnlabelled << " without labels: " << s.out << std::endl;
    return;
  }
  const bool in_place = fs::equivalent(s.data, s.out);
  TORCH_CHECK(in_place || !fs::exists(fs::path(s.out) / "images"), "--out: ", s.out,
              " holds pictures of its own: take another folder");
  const auto counts = check_all(s, variant, console);
  write_prepared(s.out, {s.what, variant.name, in_place ? fs::path(".") : fs::canonical(s.data), counts});
  for (const auto& [split, count] : counts) console.out << split << ": " << count << " pictures\n";
  console.out << "data set, read where it is: --data " << s.out << std::endl;
}

void prepare(const PrepareSettings& s, const Console& console, const std::shared_ptr<Processes>& processes) {
  if (s.what == "features") return prepare_features(s, console, processes);
  TORCH_CHECK(!processes->several(), "WORLD_SIZE: 'prepare ", s.what, "' works in one process, and ", processes->size(),
              " were started");
  if (s.what == "scenes") {
    prepare_scenes(s, console);
  } else {
    prepare_dataset(s, console);
  }
}

}  // namespace

Command prepare_command() {
  return make_shared_command("prepare", "Make a data set, or the features of one.", prepare);
}

}  // namespace smooseg::app
