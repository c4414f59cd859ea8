// `smooseg evaluate`: a model's labels of a labelled split, matched with the classes and scored.

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <stdexcept>

#include "commands/commands.hpp"
#include "commands/score.hpp"
#include "data/image_file.hpp"
#include "features/precision.hpp"
#include "features/training_features.hpp"
#include "report/pictures.hpp"
#include "settings/crf.hpp"
#include "settings/model.hpp"
#include "settings/runtime.hpp"
#include "smooseg/baselines/kmeans.hpp"
#include "smooseg/io/atomic_file.hpp"
#include "support/seeds.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

struct EvaluateSettings {
  RuntimeSettings runtime;
  FeatureSettings features;
  std::string model, data, out;
  std::string split = "test";
  int64_t resolution = 320;
  int64_t limit = 0;
  int64_t panels = 16;
  bool flip = false;
  bool kmeans = false;
  CrfSettings crf;
};

void add_options(CLI::App& app, EvaluateSettings& s) {
  const auto positive = CLI::Range(int64_t{1}, int64_t{8192});
  app.add_option("--model", s.model, "model file of smooseg train")->required();
  app.add_option("--data", s.data, "labelled data set (images/SPLIT, labels/SPLIT, classes.json)")->required();
  app.add_option("--out", s.out, "folder for scores.json and the panels; default: evaluation, beside the model");
  app.add_option("--split", s.split, "which split to score")->capture_default_str();
  app.add_option("--resolution", s.resolution, "shorter side in pixels; the centre square is scored")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--limit", s.limit, "score only so many pictures; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--panels", s.panels, "pictures drawn: image | prediction | label")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--flip", s.flip, "average the codes of each picture and its mirror image");
  app.add_flag("--kmeans", s.kmeans, "also score k-means on the same features, learnt from the training split");
  add_options(app, s.crf);
  add_options(app, s.features);
  add_options(app, s.runtime);
}

/// The paper's baseline in the segmenter's place: an identity for the projector, and cluster centres for prototypes.
Segmenter kmeans_segmenter(const Model& model, const EvaluateSettings& s, torch::Device device,
                           const SegmenterOptions& options, std::ostream& err) {
  constexpr int64_t kCropsAtOnce = 32, kMaxCrops = 4096;
  constexpr auto kPurpose = SeedPurpose::kKMeans;
  const torch::NoGradGuard no_grad;
  auto backbone = model.segmenter->backbone;
  TrainingFeatures features(open_dataset(s.data, "train"), model.settings, s.features, device,
                            worker_count(s.features, s.runtime));
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(mix_seed(model.settings.seed, kPurpose));
  baselines::KMeans kmeans(baselines::KMeansOptions(model.settings.classes), generator);
  // Two passes over the training crops, or as many crops of a large set.
  const int64_t count = features.crops().count(), batch = std::min(kCropsAtOnce, count);
  const int64_t steps = (2 * std::min(count, kMaxCrops) + batch - 1) / batch;
  const auto crops_of = [&](int64_t step) {
    return batch_indices(step, batch, count, mix_seed(model.settings.seed, kPurpose));
  };
  FeatureLoader loader = features.loader(*backbone, steps, crops_of, err);
  for (int64_t step = 0; step < steps; ++step) kmeans.update(loader.next());

  const int64_t channels = backbone->channels();
  Projector identity(ProjectorOptions(channels, channels).dropout(0));
  for (auto& parameter : identity->parameters()) parameter.zero_();
  identity->linear->weight.copy_(torch::eye(channels).view_as(identity->linear->weight));
  PrototypePredictor centers(model.settings.classes, channels);
  centers->to(device);
  centers->teacher.copy_(kmeans.centers());
  Segmenter segmenter(backbone, identity, centers, options);
  segmenter->to(device);
  segmenter->eval();
  return segmenter;
}

nlohmann::json scores_json(const metrics::Scores& scores, const ClassTable& classes) {
  nlohmann::json iou = nlohmann::json::object();
  for (std::size_t c = 0; c < scores.iou.size(); ++c) {
    iou[classes.names[c]] = std::isnan(scores.iou[c]) ? nlohmann::json() : nlohmann::json(scores.iou[c]);
  }
  return {{"accuracy", scores.accuracy},
          {"miou", scores.miou},
          {"iou", iou},
          {"class_of_cluster", scores.class_of_cluster}};
}

std::string percent(double share) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(1);
  if (std::isnan(share)) {
    text << "-";
  } else {
    text << 100 * share;
  }
  return text.str();
}

/// IoU of each class, then mIoU and accuracy, in percent; one column a method.
void print_table(std::ostream& out, const ClassTable& classes, const metrics::Scores& ours,
                 const std::optional<metrics::Scores>& kmeans) {
  std::size_t width = 10;
  for (const auto& name : classes.names) width = std::max(width, name.size());
  const auto row = [&](const std::string& name, const std::string& first, const std::string& second) {
    out << std::left << std::setw(static_cast<int>(width) + 2) << name << std::right << std::setw(8) << first;
    if (kmeans) out << std::setw(10) << second;
    out << "\n";
  };
  row("IoU in %", "SmooSeg", "k-means");
  for (std::size_t c = 0; c < classes.names.size(); ++c) {
    row(classes.names[c], percent(ours.iou[c]), kmeans ? percent(kmeans->iou[c]) : "");
  }
  row("mIoU", percent(ours.miou), kmeans ? percent(kmeans->miou) : "");
  row("accuracy", percent(ours.accuracy), kmeans ? percent(kmeans->accuracy) : "");
  out << std::flush;
}

/// Clusters named by their classes, -1 where they have none.
Tensor named(const Tensor& clusters, const metrics::Scores& scores) {
  return torch::tensor(scores.class_of_cluster, torch::kInt64).index({clusters.to(torch::kCPU)});
}

void draw_panels(SegmenterImpl& segmenter, const Dataset& dataset, const metrics::Scores& scores, torch::Device device,
                 ScoreOptions options, int64_t count, const fs::path& folder) {
  if (count == 0) return;
  fs::create_directories(folder);
  options.limit = options.limit > 0 ? std::min(options.limit, count) : count;
  const auto& colors = dataset.classes->colors;
  for_each_batch(dataset, device, options, [&](int64_t first, const LabelledBatch& batch) {
    const Tensor predictions = named(labels_of(segmenter, batch, options), scores);
    const Tensor labels = batch.labels.to(torch::kCPU);
    for (int64_t i = 0; i < predictions.size(0); ++i) {
      std::string name = dataset.samples[static_cast<std::size_t>(first + i)].name;
      std::replace(name.begin(), name.end(), '/', '_');
      write_png(folder / (name + ".png"),
                panel({batch.pixels[i], colorize(predictions[i], colors), colorize(labels[i], colors)}));
    }
  });
}

void evaluate(const EvaluateSettings& s, const Console& console) {
  const torch::Device device = start(s.runtime);
  const auto segmenter_options = SegmenterOptions().flip(s.flip);
  LoadedModel loaded = load_model(s.model, device, segmenter_options);
  set_precision(s.runtime, *loaded.model.segmenter, device, loaded.model.settings.resolution, console.err);
  const Dataset dataset = open_dataset(s.data, s.split);
  if (!dataset.labelled()) throw std::runtime_error(s.data + ": has no labels for the split '" + s.split + "'");
  const fs::path out = s.out.empty() ? fs::path(s.model).parent_path() / "evaluation" : fs::path(s.out);
  std::error_code ignored;
  fs::create_directories(out, ignored);
  if (!fs::is_directory(out)) throw std::runtime_error("--out: cannot create the folder " + out.string());

  ScoreOptions options;
  options.resolution = s.resolution;
  options.limit = s.limit;
  options.threads = thread_count(s.runtime);
  options.crf = s.crf;
  const auto confusion = score(*loaded.model.segmenter, dataset, device, options);
  const metrics::Scores ours = confusion.scores();
  std::optional<metrics::Scores> kmeans;
  if (s.kmeans) {
    Segmenter baseline = kmeans_segmenter(loaded.model, s, device, segmenter_options, console.err);
    kmeans = score(*baseline, dataset, device, options).scores();
  }

  nlohmann::json json = scores_json(ours, *dataset.classes);
  json["model"] = s.model;
  json["data"] = s.data;
  json["split"] = s.split;
  json["resolution"] = s.resolution;
  json["flip"] = s.flip;
  json["crf"] = to_json(s.crf);
  json["images"] = s.limit > 0 ? std::min<std::size_t>(static_cast<std::size_t>(s.limit), dataset.samples.size())
                               : dataset.samples.size();
  json["class_names"] = dataset.classes->names;
  json["class_colors"] = dataset.classes->colors;
  if (kmeans) json["kmeans"] = scores_json(*kmeans, *dataset.classes);
  io::write_file_atomically(out / "scores.json", [&](std::ostream& file) { file << json.dump(2) << "\n"; });
  draw_panels(*loaded.model.segmenter, dataset, ours, device, options, s.panels, out / "panels");

  print_table(console.out, *dataset.classes, ours, kmeans);
  console.out << "scores: " << (out / "scores.json").string() << "\n";
  if (s.panels > 0) console.out << "panels (image | prediction | label): " << (out / "panels").string() << "\n";
}

}  // namespace

Command evaluate_command() {
  const auto settings = std::make_shared<EvaluateSettings>();
  return {"evaluate", "Score a model against labels.", [settings](CLI::App& app) { add_options(app, *settings); },
          [settings](const Console& console) { evaluate(*settings, console); }};
}

}  // namespace smooseg::app
