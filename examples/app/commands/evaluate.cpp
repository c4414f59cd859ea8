// `smooseg evaluate`: a model's labels of a labelled split, matched with the classes and scored.

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands/command_line.hpp"
#include "data/bad_files.hpp"
#include "data/image_file.hpp"
#include "features/precision.hpp"
#include "features/training_features.hpp"
#include "model/baselines.hpp"
#include "model/model.hpp"
#include "model/score.hpp"
#include "report/pictures.hpp"
#include "report/run_folder.hpp"
#include "report/scores.hpp"
#include "settings/backbone_files.hpp"
#include "settings/protocol.hpp"
#include "smooseg/io/atomic_file.hpp"
#include "smooseg/version.hpp"
#include "support/disk.hpp"
#include "support/processes.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

struct EvaluateSettings {
  RuntimeSettings runtime;
  FeatureSettings features;
  BackboneFiles files;
  std::string model, data, out, split;
  std::string on_error = "fail";
  ScoreOptions score;
  ProtocolSettings protocol;
  SegmenterOptions segmenter;
  int64_t panels = 16;
  bool kmeans = false;
};

void add_options(CLI::App& app, EvaluateSettings& s) {
  app.add_option("--model", s.model, "model file of smooseg train")->required();
  app.add_option("--data", s.data, "labelled data set (images/SPLIT, labels/SPLIT, classes.json; or prepared)")
      ->required();
  app.add_option("--out", s.out, "folder for scores.json and the panels; default: evaluation, beside the model");
  app.add_option("--split", s.split, "which split to score; default: the one that the literature scores, or test");
  add_on_error(app, s.on_error);
  app.add_option("--resolution", s.score.resolution, "shorter side in pixels; the centre square is scored")
      ->check(side());
  add_options(app, s.protocol);
  app.add_option("--limit", s.score.limit, "score only so many pictures; 0: all")->check(at_least(0));
  app.add_option("--panels", s.panels, "number of pictures to draw, each as picture | prediction | label")
      ->check(at_least(0));
  app.add_flag("--flip", s.segmenter.flip(), "average the codes of each picture and its mirror image");
  app.add_flag("--kmeans", s.kmeans, "also score k-means on the same features, learnt from the training split");
  add_options(app, s.files);
  add_options(app, s.score.crf);
  add_options(app, s.features);
  add_options(app, s.runtime);
}

/// The paper's baseline in the segmenter's place.
Segmenter kmeans_segmenter(const Model& model, const EvaluateSettings& s, const std::optional<FeatureFiles>& files,
                           torch::Device device, const std::shared_ptr<Processes>& processes, std::ostream& err) {
  const auto backbone = model.segmenter->backbone;
  const int workers = worker_count(s.features, s.runtime);
  Dataset dataset = open_dataset(s.data, "train", Labels::kNone);
  if (s.on_error == "skip") leave_out_bad(dataset, check_of(crops_of(dataset, model.settings, files)), workers, err);
  TrainingFeatures features(dataset, model.settings, s.features, device, workers, files, processes);
  SegmenterHead head;
  naming_all_bad(dataset, check_of(features.crops()), workers, [&] {
    head = kmeans_head({model.settings, *backbone, features, device, err});
  });
  Segmenter segmenter(backbone, head.projector, head.predictor, s.segmenter);
  segmenter->eval();
  return segmenter;
}

/// Clusters named by their classes, -1 where they have none.
Tensor named(const Tensor& clusters, const metrics::Scores& scores) {
  return torch::tensor(scores.class_of_cluster, torch::kInt64).index({clusters.to(torch::kCPU)});
}

void draw_panels(SegmenterImpl& segmenter, const Dataset& dataset, const metrics::Scores& scores, torch::Device device,
                 ScoreOptions options, int64_t count, const fs::path& folder) {
  make_folder(folder, "--out");
  options.limit = std::min(count, picture_count(dataset, options));
  const auto& colors = dataset.classes->colors;
  for_each_batch(dataset, normalization_of(*segmenter.backbone), device, options,
                 [&](int64_t first, const LabelledBatch& batch) {
                   const Tensor predictions = named(labels_of(segmenter, batch, options), scores);
                   const Tensor labels = batch.labels.to(torch::kCPU);
                   for (int64_t i = 0; i < predictions.size(0); ++i) {
                     write_png(folder / (flat_name(dataset.samples[static_cast<std::size_t>(first + i)]) + ".png"),
                               panel({batch.pixels[i], colorize(predictions[i], colors), colorize(labels[i], colors)}));
                   }
                 });
}

/// The counts of a confusion matrix, a list for each cluster.
nlohmann::json to_json(const metrics::Counts& counts) {
  nlohmann::json rows = nlohmann::json::array();
  for (Eigen::Index cluster = 0; cluster < counts.rows(); ++cluster) {
    nlohmann::json row = nlohmann::json::array();
    for (Eigen::Index label = 0; label < counts.cols(); ++label) row.push_back(counts(cluster, label));
    rows.push_back(row);
  }
  return rows;
}

/// How right one picture's labels are; its accuracy is null where none of its pixels counts.
nlohmann::json to_json(const Sample& sample, const PictureCounts& counts, const metrics::Scores& scores) {
  const auto accuracy = counts.accuracy(scores);
  return {{"name", sample.name},
          {"pixels", counts.pixels()},
          {"accuracy", accuracy ? nlohmann::json(*accuracy) : nlohmann::json()}};
}

void evaluate(const EvaluateSettings& s, const Console& console, const std::shared_ptr<Processes>& processes) {
  const torch::Device device = start(s.runtime, console.err);
  LoadedModel loaded = load_model(s.model, device, s.segmenter, s.files.module);
  const std::string precision = set_precision(s.runtime, *loaded.model.segmenter, device,
                                              loaded.model.settings.resolution, console.err, *processes);
  const std::string split = s.split.empty() ? scored_split(s.data) : s.split;
  Dataset dataset = open_dataset(s.data, split);
  console.err << skipped_line(dataset);
  TORCH_CHECK(dataset.labelled(), s.data, ": has no labels for the split '", split, "'");
  const fs::path out = s.out.empty() ? fs::path(s.model).parent_path() / kScoresFolder : fs::path(s.out);
  make_folder(out, "--out");

  ScoreOptions options = s.score;
  options.threads = thread_count(s.runtime);
  options.processes = processes;
  options.features = model_feature_files(loaded.model, s.files.features_dir, s.segmenter.flip());
  const SampleCheck check = check_of(dataset, {options.resolution, /*square=*/true});
  if (s.on_error == "skip") leave_out_bad(dataset, check, options.threads, console.err);
  const metrics::Protocol protocol = protocol_of(s.protocol);
  metrics::Scores ours;
  nlohmann::json confusion, pictures = nlohmann::json::array();
  naming_all_bad(dataset, check, options.threads, [&] {
    std::vector<PictureCounts> each;
    const auto counted = score(*loaded.model.segmenter, dataset, device, options, &each);
    ours = counted.scores(protocol);
    confusion = to_json(counted.counts());
    for (std::size_t i = 0; i < each.size(); ++i) pictures.push_back(to_json(dataset.samples[i], each[i], ours));
  });
  std::optional<metrics::Scores> kmeans;
  if (s.kmeans) {
    Segmenter baseline = kmeans_segmenter(loaded.model, s, options.features, device, processes, console.err);
    kmeans = score(*baseline, dataset, device, options).scores(protocol);
  }
  if (!processes->is_first()) return;
  options.processes = Processes::alone();  // for the panels

  nlohmann::json json = to_json(ours, *dataset.classes);
  json["model"] = s.model;
  json["data"] = s.data;
  json["data_set"] = dataset_name(s.data);
  json["split"] = split;
  json.update(conditions_of(dataset, options, s.protocol));
  json["flip"] = s.segmenter.flip();
  json["precision"] = precision;
  json["clusters"] = loaded.model.settings.classes;
  json["smooseg"] = SMOOSEG_VERSION;
  json["class_names"] = dataset.classes->names;
  json["class_colors"] = dataset.classes->colors;
  json["confusion"] = confusion;
  if (kmeans) json["kmeans"] = to_json(*kmeans, *dataset.classes);
  io::write_file_atomically(out / "scores.json", [&](std::ostream& file) { file << json.dump(2) << "\n"; });
  io::write_file_atomically(out / "pictures.json", [&](std::ostream& file) {
    file << pictures.dump(0, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  });
  const bool draws = s.panels > 0 && !in_windows(options);
  if (draws) draw_panels(*loaded.model.segmenter, dataset, ours, device, options, s.panels, out / "panels");

  print_table(console.out, *dataset.classes, ours, kmeans, terminal_of(console.out).colors);
  console.out << "scores: " << (out / "scores.json").string() << "\n";
  if (s.panels > 0 && !draws) console.out << "no panels: pictures of this --resolution are not held as a whole\n";
  if (draws) console.out << "panels (picture | prediction | label): " << (out / "panels").string() << "\n";
}

}  // namespace

Command evaluate_command() {
  return make_shared_command("evaluate", "Score a model against labels.", evaluate);
}

}  // namespace smooseg::app
