// `smooseg tune`: a search for thresholds and temperature without labels.
//
// Short trainings on cached features, by successive halving (Jamieson and Talwalkar, 2016): the best third of the
// candidates is trained three times as long, and so on. The best is what leaves the most of the features' variance between
// its classes, which for one number of classes is what Calinski and Harabasz (1974) say.

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "commands/command_line.hpp"
#include "data/bad_files.hpp"
#include "features/examination.hpp"
#include "features/precision.hpp"
#include "features/training_features.hpp"
#include "model/trial.hpp"
#include "report/penalty.hpp"
#include "report/tuning.hpp"
#include "settings/backbone_files.hpp"
#include "smooseg/io/atomic_file.hpp"
#include "smooseg/metrics/confusion.hpp"
#include "support/disk.hpp"
#include "support/progress.hpp"
#include "support/seeds.hpp"
#include "support/stop_signal.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

struct TuneSettings {
  ModelSettings model;
  RuntimeSettings runtime;
  FeatureSettings features;
  std::string data, out, weights, features_dir, on_error = "fail";
  int64_t candidates = 27, rungs = 3, iterations = 500, limit = 256;
};

void add_options(CLI::App& app, TuneSettings& s) {
  app.add_option("--data", s.data, "data set or any folder of pictures; labels, where there are some, only judge")
      ->required();
  app.add_option("--out", s.out, "folder for tune.json and tune.svg")->required();
  app.add_option("--weights", s.weights,
                 "the backbone's weights, or the exported module; default: weights of 'smooseg weights get'");
  add_features_dir(app, s.features_dir);
  add_on_error(app, s.on_error);
  app.add_option("--candidates", s.candidates, "settings to try, beside the automatic thresholds")
      ->check(from_to(1, 10000));
  app.add_option("--rungs", s.rungs,
                 "how often the best third goes on, for three times as many steps; 1: all are trained to the end")
      ->check(from_to(1, 8));
  app.add_option("--iterations", s.iterations, "steps of the longest trainings")->check(at_least(1));
  app.add_option("--limit", s.limit, "training crops that are looked at, at most")->check(at_least(2));
  add_options(app, s.features);
  add_options(app, s.model);
  for (const char* searched : {"--thresholds", "--within-threshold", "--across-threshold", "--temperature"}) {
    app.remove_option(app.get_option(searched));
  }
  add_options(app, s.runtime);
}

/// The i-th point of van der Corput's sequence to a base, in (0,1): Halton's points spread evenly, however many there
/// are.
double van_der_corput(int64_t i, int64_t base) {
  double value = 0, share = 1;
  for (; i > 0; i /= base) {
    share /= static_cast<double>(base);
    value += share * static_cast<double>(i % base);
  }
  return value;
}

double between(double low, double high, double share) {
  return low + share * (high - low);
}

/// Points of a cube whose axes are quantiles of closeness, since each backbone has a scale of its own, and the logarithm
/// of the temperature.
std::vector<Candidate> candidates_of(const ClosenessSamples& closeness, int64_t count) {
  std::vector<Candidate> all(1);
  all[0].automatic = true;
  all[0].temperature = EnergyOptions().temperature();
  for (int64_t i = 1; i <= count; ++i) {
    Candidate& c = all.emplace_back();
    const double within = between(0.02, 0.7, van_der_corput(i, 2)), across = between(0.6, 0.99, van_der_corput(i, 3));
    c.thresholds = {ClosenessSamples::quantile(closeness.within, within),
                    ClosenessSamples::quantile(closeness.across, across)};
    c.temperature = EnergyOptions().temperature() * std::pow(2, between(-1, 1, van_der_corput(i, 5)));
  }
  return all;
}

class Tuning {
 public:
  Tuning(const TuneSettings& settings, const Console& console)
      : s_(settings),
        console_(console),
        device_(start(s_.runtime, console.err)),
        workers_(worker_count(s_.features, s_.runtime)) {}

  void run() {
    make_folder(s_.out, "--out");
    open();
    std::vector<Candidate> candidates = candidates_of(closeness_samples(data_.features), s_.candidates);
    trials_.resize(candidates.size());
    std::vector<std::size_t> left(candidates.size());
    for (std::size_t i = 0; i < left.size(); ++i) left[i] = i;
    for (int64_t rung = s_.rungs - 1; rung >= 0; --rung) {
      const auto shorter = static_cast<double>(s_.iterations) / std::pow(3, rung);
      climb(candidates, left, std::max<int64_t>(1, std::llround(shorter)));
      if (rung == 0) break;
      left.resize((left.size() + 2) / 3);
      for (std::size_t i = 0; i < trials_.size(); ++i) {
        if (std::find(left.begin(), left.end(), i) == left.end()) trials_[i].reset();
      }
    }
    finish(candidates, left.front());
  }

 private:
  void open() {
    Dataset dataset = open_dataset(s_.data, "train");
    console_.err << skipped_line(dataset);
    TORCH_CHECK(s_.model.classes != 0 || dataset.classes, s_.data,
                ": has no classes.json that tells the number of classes: say --classes K, or --classes auto");
    if (s_.model.classes == 0) s_.model.classes = dataset.classes->size();
    classes_ = dataset.labelled() ? dataset.classes->size() : 0;
    s_.weights = chosen_weights(s_.model, s_.weights);
    const auto files = open_feature_files(s_.model, s_.features_dir);
    if (s_.on_error == "skip") {
      leave_out_bad(dataset, check_of(crops_of(dataset, s_.model, files)), workers_, console_.err);
    }
    TrainingFeatures features(dataset, s_.model, s_.features, device_, workers_, files);
    TORCH_CHECK(features.crops().count() >= 2, s_.data, ": expected at least 2 training crops, found ",
                features.crops().count());
    naming_all_bad(dataset, check_of(features.crops()), workers_, [&] {
      torch::manual_seed(mix_seed(s_.model.seed, SeedPurpose::kInitialization));
      ModelSettings any = s_.model;
      if (any.classes == kAutomaticClasses) any.classes = 2;  // the trials have heads of their own
      base_ = make_model(any, {}, {}, {s_.weights, features.crops().channels()});
      base_.segmenter->to(device_);
      features.prepare(*base_.segmenter->backbone, s_.weights, console_.err);
      base_.position_basis = features.position_basis(*base_.segmenter->backbone);
      const auto backbone =
          in_precision(s_.runtime, base_.segmenter->backbone, device_, s_.model.resolution, console_.err);
      data_ = trial_data(features, *backbone, s_.model, s_.limit, dataset.labelled(), workers_, console_.err);
    });
    if (s_.model.classes == kAutomaticClasses) {
      s_.model.classes = counted_classes(data_, s_.model.seed).num_classes;
      console_.err << "classes: " << s_.model.classes << ", as many as the features suggest" << std::endl;
    }
  }

  /// Trains those that are left up to `steps`, and sorts them, the best first.
  void climb(std::vector<Candidate>& candidates, std::vector<std::size_t>& left, int64_t steps) {
    console_.err << left.size() << " candidates, " << steps << " steps each" << std::endl;
    Progress progress(console_.err, 0, static_cast<int64_t>(left.size()));
    const StopSignal stop;
    std::vector<double> merits, mious;
    for (std::size_t done = 0; done < left.size(); ++done) {
      Candidate& candidate = candidates[left[done]];
      learn(candidate, trials_[left[done]], steps);
      merits.push_back(candidate.criteria.between);
      if (candidate.miou) mious.push_back(*candidate.miou);
      progress.show(static_cast<int64_t>(done) + 1, train_options(candidate));
      if (stop.received() != 0) throw Stopped(stop.received(), "stopped; nothing was written");
    }
    if (mious.size() == merits.size()) correlations_.push_back({steps, merits.size(), rank_correlation(merits, mious)});
    std::stable_sort(left.begin(), left.end(), [&](std::size_t a, std::size_t b) {
      return candidates[a].criteria.between > candidates[b].criteria.between;
    });
  }

  void learn(Candidate& candidate, std::unique_ptr<Trial>& trial, int64_t steps) {
    if (!trial) {
      ModelSettings settings = s_.model;
      settings.temperature = candidate.temperature;
      if (!candidate.automatic) {
        settings.within_threshold = candidate.thresholds.within;
        settings.across_threshold = candidate.thresholds.across;
      }
      trial = std::make_unique<Trial>(base_, settings, data_.features);
    }
    trial->learn(steps);
    const Tensor classes = trial->classes();
    candidate.steps = steps;
    candidate.thresholds = trial->thresholds();
    candidate.criteria = partition_criteria(data_.features, classes, s_.model.classes);
    if (!data_.labels) return;
    metrics::ConfusionMatrix counts(s_.model.classes, classes_);
    counts.update(classes.to(torch::kCPU), *data_.labels);
    const metrics::Scores scores = counts.scores();
    candidate.accuracy = scores.accuracy;
    candidate.miou = scores.miou;
  }

  void finish(std::vector<Candidate>& candidates, std::size_t best) {
    constexpr int64_t kCrops = 16, kBins = 20;
    const Tensor assignments = trials_[best]->assignments(kCrops).flatten(2).to(torch::kCPU);
    const auto shares = [&](const Tensor& other) { return shares_in(penalty_counts(assignments, other, kBins)); };
    const std::string plot = tuning_svg(closeness_samples(data_.features), candidates[best],
                                        {shares(assignments), shares(assignments.roll(1, 0))});
    std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
      return a.steps != b.steps ? a.steps > b.steps : a.criteria.between > b.criteria.between;
    });
    nlohmann::json result = to_json(candidates);
    print_candidates(console_.out, candidates);
    for (const Correlation& c : correlations_) {
      console_.out << "rank correlation with mIoU, " << c.count << " candidates after " << c.steps
                   << " steps: " << std::fixed << std::setprecision(2) << c.value << "\n";
      result["rank_correlations"].push_back({{"steps", c.steps}, {"candidates", c.count}, {"value", c.value}});
    }
    const fs::path out = s_.out;
    io::write_file_atomically(out / "tune.json", [&](std::ostream& file) { file << result.dump(2) << "\n"; });
    io::write_file_atomically(out / "tune.svg", [&](std::ostream& file) { file << plot; });
    console_.out << "results: " << (out / "tune.json").string() << ", histograms: " << (out / "tune.svg").string()
                 << "\nchosen: " << train_options(candidates.front()) << std::endl;
  }

  struct Correlation {
    int64_t steps;
    std::size_t count;
    double value;
  };

  TuneSettings s_;
  Console console_;
  torch::Device device_;
  int workers_;
  int64_t classes_ = 0;  // of the labels
  Model base_;
  TrialData data_;
  std::vector<std::unique_ptr<Trial>> trials_;  // of each candidate that is still in the race
  std::vector<Correlation> correlations_;
};

void tune(const TuneSettings& settings, const Console& console) {
  Tuning(settings, console).run();
}

}  // namespace

Command tune_command() {
  Command command = make_command("tune", "Search for thresholds and temperature without labels.", tune);
  command.also_reads = "train";
  return command;
}

}  // namespace smooseg::app
