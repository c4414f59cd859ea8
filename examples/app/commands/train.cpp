// `smooseg train`: from a folder of pictures to a model, by Algorithm 1 of the paper (model/learner.hpp).

#include <torch/cuda.h>

#include <algorithm>
#include <iomanip>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "commands/command_line.hpp"
#include "data/bad_files.hpp"
#include "features/precision.hpp"
#include "features/training_features.hpp"
#include "model/assignments.hpp"
#include "model/finite_watch.hpp"
#include "model/learner.hpp"
#include "model/model.hpp"
#include "model/score.hpp"
#include "model/trial.hpp"
#include "report/live.hpp"
#include "report/run_folder.hpp"
#include "report/tuning.hpp"
#include "settings/backbone_files.hpp"
#include "smooseg/io/atomic_file.hpp"
#include "support/disk.hpp"
#include "support/event_file.hpp"
#include "support/file_lock.hpp"
#include "support/log.hpp"
#include "support/processes.hpp"
#include "support/profiler.hpp"
#include "support/progress.hpp"
#include "support/seeds.hpp"
#include "support/stop_signal.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

struct TrainSettings {
  ModelSettings model;
  RuntimeSettings runtime;
  FeatureSettings features;
  std::string data, out, weights, features_dir;
  std::string on_error = "fail";
  int64_t iterations = 3000;
  bool resume = false, overwrite = false, profile = false, report = false, tensorboard = false;
  int64_t log_every = 10;
  int64_t checkpoint_every = 500;
  std::string select = "last";
  int64_t validate_every = 500;
  std::string validation_split = "val";
  int64_t validation_resolution = ScoreOptions().resolution;
};

void add_options(CLI::App& app, TrainSettings& s) {
  app.add_option("--data", s.data, "data set (images/train, ...) or any folder of pictures")->required();
  app.add_option("--out", s.out, "folder for the model, the checkpoints and the log")->required();
  app.add_option(
      "--weights", s.weights,
      "the backbone's weights (.pth, .pt, .ckpt, .safetensors), or the exported module (.pt, .pt2), which is "
      "run; default: weights of 'smooseg weights get'");
  add_features_dir(app, s.features_dir);
  add_on_error(app, s.on_error);
  app.add_option("--iterations", s.iterations, "steps to train in all")->check(at_least(1));
  auto* resume = app.add_flag("--resume", s.resume, "go on from the checkpoint in OUT; begin anew where there is none");
  app.add_flag("--overwrite", s.overwrite, "begin anew even if OUT holds a model, which is then lost")
      ->excludes(resume);
  app.add_option("--log-every", s.log_every, "steps between lines of the log")->check(at_least(1));
  app.add_option("--checkpoint-every", s.checkpoint_every, "steps between checkpoints")->check(at_least(1));
  app.add_flag("--profile", s.profile, "print where the time goes, and write OUT/trace.json for ui.perfetto.dev");
  app.add_flag("--report", s.report, "keep a page of curves, OUT/report.html, that a browser can watch");
  app.add_flag("--tensorboard", s.tensorboard, "write event files for TensorBoard into OUT/tensorboard");
  app.add_option("--select", s.select,
                 "which step becomes best.safetensors: the last, or by labels the one with the highest mIoU")
      ->check(CLI::IsMember({"last", "labels"}));
  app.add_option("--validate-every", s.validate_every, "steps between scorings for --select labels")
      ->check(at_least(1));
  app.add_option("--validation-split", s.validation_split, "labelled split for --select labels");
  app.add_option("--validation-resolution", s.validation_resolution, "side of its crops in pixels")->check(side());
  add_options(app, s.features);
  add_options(app, s.model);
  add_options(app, s.runtime);
}

std::string energy_text(const EnergyTerms& e) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(4) << "total " << e.total.item<double>() << "  within "
       << e.within.item<double>() << "  across " << e.across.item<double>() << "  data " << e.data.item<double>();
  return text.str();
}

std::string thresholds_text(const Thresholds& t) {
  std::ostringstream text;
  text << "within " << t.within << ", across " << t.across;
  return text.str();
}

class Training {
 public:
  Training(const TrainSettings& settings, const Console& console, std::shared_ptr<Processes> processes)
      : s_(settings),
        console_(console),
        processes_(std::move(processes)),
        device_(start(s_.runtime, console.err)),
        workers_(worker_count(s_.features, s_.runtime)),
        last_(fs::path(s_.out) / "last.safetensors"),
        best_(fs::path(s_.out) / "best.safetensors") {
    if (s_.profile) {
      profiler_.emplace([device = device_] {
        if (device.is_cuda()) torch::cuda::synchronize(device.index());
      });
    }
  }

  void run() {
    Dataset dataset = open_dataset(s_.data, "train", Labels::kNone);
    console_.err << skipped_line(dataset);
    if (processes_->is_first()) prepare_folder();
    resumes_ = processes_->highest(resumes_ ? 1 : 0) > 0;
    settle(dataset);
    files_ = open_feature_files(s_.model, s_.features_dir);
    if (s_.on_error == "skip") {
      leave_out_bad(dataset, check_of(crops_of(dataset, s_.model, files_)), workers_, console_.err);
    }
    TrainingFeatures features(dataset, s_.model, s_.features, device_, workers_, files_, processes_);
    check_batch(features.crops().count());
    if (s_.select == "labels") {
      validation_ = open_dataset(s_.data, s_.validation_split);
      TORCH_CHECK(validation_->labelled(), s_.data, ": --select labels needs labels, found none for the split '",
                  s_.validation_split, "'");
      if (s_.on_error == "skip") leave_out_bad(*validation_, validation_check(), workers_, console_.err);
    }
    naming_all_bad(dataset, check_of(features.crops()), workers_, [&] {
      resumes_ ? resume(features) : begin(dataset.classes, features);
      console_.err << "thresholds: "
                   << (learner_->controller() ? "chosen while training, by the features and the number of classes"
                                              : thresholds_text(learner_->thresholds()))
                   << std::endl;
      const int64_t first = model_.step;
      learn(features);
      if (profiler_ && processes_->is_first()) report_profile(model_.step - first);
    });
    if (learner_->controller()) {
      console_.err << "thresholds chosen: " << thresholds_text(learner_->thresholds()) << std::endl;
    }
    report_dead();
    console_.out << "model: " << best_.string() << std::endl;
  }

 private:
  /// Decides whether the run goes on from a checkpoint, and protects the models of other runs.
  void prepare_folder() {
    resumes_ = s_.resume && fs::exists(last_);
    for (const fs::path& model : {best_, last_}) {
      TORCH_CHECK(resumes_ || s_.overwrite || !fs::exists(model), "--out: there is a model already, ", model.string(),
                  ": take another folder, go on with --resume, or lose it with --overwrite");
    }
    make_folder(s_.out, "--out");
    lock_.emplace(fs::path(s_.out) / ".smooseg.lock");
    TORCH_CHECK(!lock_->busy(), "--out: another run is writing into ", s_.out, ": take another folder, or wait for it");
    remove_remains();
    io::AtomicFile{last_};  // made and removed, so that an unwritable folder is noticed now
    if (s_.resume && !resumes_) console_.err << "--resume: no checkpoint in " << s_.out << " yet: beginning anew\n";
  }

  /// Removes unfinished files of a run that was killed.
  void remove_remains() const {
    std::vector<fs::path> remains;
    for (const auto& entry : fs::directory_iterator(s_.out)) {
      const std::string name = entry.path().filename().string();
      if (name.rfind(".smooseg-", 0) == 0 && entry.path().extension() == ".tmp") remains.push_back(entry.path());
    }
    for (const fs::path& file : remains) fs::remove(file);
  }

  /// Fills in what the data and the backbone decide.
  void settle(const Dataset& dataset) {
    int64_t& classes = s_.model.classes;
    TORCH_CHECK(classes != 0 || dataset.classes, s_.data,
                ": has no classes.json that tells the number of classes: say --classes K, or --classes auto");
    if (classes == 0) classes = dataset.classes->size();
    TORCH_CHECK(classes == kAutomaticClasses || (classes >= 2 && classes <= 255), "--classes: expected 2 to 255, got ",
                classes);
    choose_thresholds(s_.model);
    const bool needs_weights = !resumes_ || s_.model.backbone == kExportedBackbone;
    if (needs_weights || !s_.weights.empty()) s_.weights = chosen_weights(s_.model, s_.weights);
  }

  void check_batch(int64_t crops) {
    int64_t& batch = s_.model.batch;
    TORCH_CHECK(batch >= 2, "--batch: expected at least 2, since each image is compared with another, got ", batch);
    const int64_t most = crops / processes_->size();
    TORCH_CHECK(most >= 2, s_.data, ": expected at least 2 training crops",
                processes_->several() ? " for each of " + std::to_string(processes_->size()) + " processes" : "",
                ", found ", crops);
    if (batch <= most) return;
    console_.err << "--batch " << batch << " is more than there are crops: " << most << " it is\n";
    batch = most;
  }

  void begin(const std::optional<ClassTable>& classes, TrainingFeatures& features) {
    const uint64_t seed = mix_seed(s_.model.seed, SeedPurpose::kInitialization);
    const bool counts = s_.model.classes == kAutomaticClasses;
    if (counts) s_.model.classes = 2;  // of a head that is replaced, since the backbone is wanted first
    torch::manual_seed(seed);
    model_ = make_model(s_.model, {}, {}, {s_.weights, features.crops().channels()});
    model_.segmenter->to(device_);
    features.prepare(*model_.segmenter->backbone, s_.weights, console_.err);
    if (counts) {
      count_classes(features);
      model_.settings = s_.model;
      torch::manual_seed(seed);
      model_.segmenter = make_segmenter(model_.segmenter->backbone, s_.model);
      model_.segmenter->to(device_);
    }
    model_.classes = classes.value_or(default_classes(s_.model.classes));
    model_.data = features.data_hash();
    model_.position_basis = features.position_basis(*model_.segmenter->backbone);
    model_.processes = processes_->size();
    learner_.emplace(model_, processes_);
  }

  /// Sets the number of classes to what the features suggest, and draws why.
  void count_classes(TrainingFeatures& features) {
    const auto backbone =
        in_precision(s_.runtime, model_.segmenter->backbone, device_, s_.model.resolution, console_.err, *processes_);
    const TrialData data =
        trial_data(features, *backbone, s_.model, kCropsToCount, /*labelled=*/false, workers_, console_.err);
    const ClassCount count = counted_classes(data, s_.model.seed);
    s_.model.classes = processes_->broadcast({count.num_classes}).front();
    if (!processes_->is_first()) return;
    const fs::path plot = fs::path(s_.out) / "classes.svg";
    io::write_file_atomically(plot, [&](std::ostream& file) { file << class_count_svg(count); });
    console_.err << "classes: " << count.num_classes << ", as many as the features suggest (" << plot.string() << ")"
                 << std::endl;
  }

  /// Goes on from the checkpoint. With other settings or pictures than it began with, the run's end would be neither's.
  void resume(TrainingFeatures& features) {
    const bool exported = s_.model.backbone == kExportedBackbone;
    LoadedModel loaded = load_model(last_, device_, {}, exported ? s_.weights : "");
    const std::string name = last_.string(), refused = name + ": cannot resume with other ";
    const SettingValues saved = values_of(loaded.model.settings);
    if (s_.model.classes == kAutomaticClasses) s_.model.classes = loaded.model.settings.classes;
    for (const auto& [option, value] : values_of(s_.model)) {
      // Other processes may share the same global batch.
      const bool is_shared_otherwise = option == "batch" && s_.model.batch * processes_->size() ==
                                                                loaded.model.settings.batch * loaded.model.processes;
      TORCH_CHECK(saved.at(option) == value || is_shared_otherwise, refused, "settings: --", option, " was ",
                  saved.at(option), ", got ", value);
    }
    TORCH_CHECK(loaded.model.data.empty() || loaded.model.data == features.data_hash(), refused, "pictures: those of ",
                s_.data, " are not, or not in the same order, those that it was trained on");
    TORCH_CHECK(s_.iterations >= loaded.model.step, name, ": has ", loaded.model.step,
                " steps already, more than --iterations ", s_.iterations);
    model_ = std::move(loaded.model);
    model_.settings.batch = s_.model.batch;
    model_.processes = processes_->size();
    learner_.emplace(model_, processes_);
    learner_->load_state(loaded.extra, name);
    last_saved_ = model_.step;
    console_.err << "going on from step " << model_.step << std::endl;
  }

  void learn(TrainingFeatures& features) {
    // The model keeps its float32 weights; training and validation see the features of this one.
    const auto backbone =
        in_precision(s_.runtime, model_.segmenter->backbone, device_, s_.model.resolution, console_.err, *processes_);
    const auto batch = [&, first = model_.step](int64_t i) {
      const int64_t global = s_.model.batch * processes_->size();
      return processes_->part_of(batch_indices(first + i, global, features.crops().count(), s_.model.seed));
    };
    FeatureLoader loader = features.loader(*backbone, s_.iterations - model_.step, batch, console_.err);
    Progress progress(console_.err, model_.step, s_.iterations);
    if (processes_->is_first()) open_log();
    const StopSignal stop;
    while (model_.step < s_.iterations) {
      const auto [e, teacher] = learner_->step(loader.next());
      finite_.see(model_.step, e);
      const auto signal = static_cast<int>(processes_->highest(stop.received()));
      const auto is_due = [&](int64_t every) { return model_.step % every == 0 || model_.step == s_.iterations; };
      const bool validates = validation_ && is_due(s_.validate_every);
      const bool saves = validates || is_due(s_.checkpoint_every) || signal != 0;
      if (is_due(s_.log_every) || saves) check_finite();  // not in each step, which would wait for the device
      if (is_due(s_.log_every)) {
        const EnergyTerms all = learner_->over_processes(e);
        note(log_line(all, teacher, progress.seconds()));
        progress.show(model_.step, energy_text(all));
      }
      if (saves) save();
      if (validates) validate(rounded(backbone, feature_dtype(s_.model)));
      if (signal != 0) {
        throw Stopped(signal, "stopped by signal " + std::to_string(signal) + " after step " +
                                  std::to_string(model_.step) + "; --resume goes on from " + last_.string());
      }
    }
    if (!validation_ && processes_->is_first()) save_best();
    if (page_) page_->finish();
  }

  void open_log() {
    log_.emplace(fs::path(s_.out) / "log.jsonl", model_.step);
    if (!resumes_) {  // what may be there is of a run that is overwritten
      fs::remove(last_);
      fs::remove(best_);
      remove_scores();
    }
    begun_ = line_step_ = model_.step;
    if (s_.tensorboard) open_events();
    if (s_.report) page_.emplace(s_.out);
  }

  /// Event files of a run that is overwritten go, those of one that goes on stay.
  void open_events() {
    const fs::path folder = fs::path(s_.out) / "tensorboard";
    if (!resumes_) EventFile::remove_all(folder);
    make_folder(folder, "--tensorboard");
    events_.emplace(folder, model_.step);
  }

  /// Appends a line to the log, and to all that follows it.
  void note(const nlohmann::json& line) {
    if (!log_) return;
    log_->write(line);
    if (page_) page_->update();
    if (!events_) return;
    std::map<std::string, double> values;
    for (const auto& [name, value] : line.items()) {
      if (name != "step" && value.is_number()) values[name] = value.get<double>();
    }
    events_->write(line.at("step").get<int64_t>(), values);
  }

  /// How many images the steps took since the line of the log before: in the first epoch, or where features are kept
  /// nowhere, what decoding and the backbone allow.
  double images_per_second(double seconds) {
    const auto images = static_cast<double>((model_.step - line_step_) * s_.model.batch * processes_->size());
    line_step_ = model_.step;
    return images / std::max(seconds - std::exchange(line_seconds_, seconds), 1e-9);
  }

  nlohmann::json log_line(const EnergyTerms& e, const Tensor& teacher, double seconds) {
    const auto value = [](const Tensor& t) { return t.item<double>(); };
    const Thresholds thresholds = learner_->thresholds();
    nlohmann::json line = assignment_statistics(teacher, s_.model.temperature);
    line.update({{"step", model_.step},
                 {"total", value(e.total)},
                 {"within", value(e.within)},
                 {"across", value(e.across)},
                 {"data", value(e.data)},
                 {"within_penalty_mean", value(e.within_penalty_mean)},
                 {"across_penalty_mean", value(e.across_penalty_mean)},
                 {"within_threshold", thresholds.within},
                 {"across_threshold", thresholds.across},
                 {"projector_rate", s_.model.projector_rate},
                 {"predictor_rate", s_.model.predictor_rate},
                 {"seconds", seconds},
                 {"images_per_second", images_per_second(seconds)}});
    if (const auto* const controller = learner_->controller()) {  // why these thresholds
      const ThresholdMeasurement& m = controller->measurement();
      line.update({{"cluster_share", m.cluster_share},
                   {"assigned_share", m.assigned_share},
                   {"joined_across", m.joined_across},
                   {"joined_within", m.joined_within},
                   {"cut_within", m.cut_within}});
    }
    const PrototypeRestarts& restarts = learner_->restarts();
    if (restarts.dead().defined()) line["dead_prototypes"] = restarts.dead().sum().item<int64_t>();
    if (restarts.restarts().defined()) line["restarts"] = restarts.restarts().sum().item<int64_t>();
    return line;
  }

  /// Says which prototypes are of no use.
  void report_dead() const {
    const PrototypeRestarts& restarts = learner_->restarts();
    if (!restarts.dead().defined()) return;
    const Tensor dead = restarts.dead().nonzero().flatten().to(torch::kCPU);
    if (restarts.restarts().defined()) {
      console_.err << "dead prototypes restarted: " << restarts.restarts().sum().item<int64_t>() << std::endl;
    }
    if (dead.numel() == 0) return;
    console_.err << "classes that hardly any patch was nearest to in the last steps:";
    for (int64_t i = 0; i < dead.numel(); ++i) console_.err << ' ' << dead[i].item<int64_t>();
    console_.err << " of " << s_.model.classes << "; try fewer --classes"
                 << (restarts.options.restart() ? "" : ", or --restarts on") << std::endl;
  }

  void stop_at(int64_t step, const std::string& what) const {
    TORCH_CHECK(false, "training stopped at step ", step, ": ", what, " is not finite; ",
                last_saved_ < 0 ? "there is no checkpoint yet" : "the last good checkpoint is " + last_.string());
  }

  void check_finite() const {
    const auto found = finite_.not_finite();
    if (found) stop_at(found->number, "the loss (" + energy_text(found->energy) + ")");
  }

  void save() {
    for (const auto& item : model_.segmenter->named_parameters()) {
      if (!item.value().isfinite().all().item<bool>()) stop_at(model_.step, item.key());
    }
    if (processes_->is_first()) timed("save", [&] { save_model(last_, model_, learner_->state()); });
    last_saved_ = model_.step;
  }

  /// The scores beside the model, which are not those of one that comes in its place.
  void remove_scores() const {
    for (const char* name : {"scores.json", "pictures.json"}) fs::remove(fs::path(s_.out) / kScoresFolder / name);
  }

  void save_best() const {
    if (model_.step > begun_) remove_scores();
    save_model(best_, model_);
  }

  void validate(const std::shared_ptr<backbone::Backbone>& backbone) {
    Segmenter segmenter(backbone, model_.segmenter->projector, model_.segmenter->predictor);
    segmenter->eval();
    ScoreOptions options;
    options.resolution = s_.validation_resolution;
    options.threads = thread_count(s_.runtime);
    options.processes = processes_;
    options.features = files_;
    if (files_) options.features->expect_channels(backbone->channels(), "the model");
    metrics::Scores scores;
    naming_all_bad(*validation_, validation_check(), workers_,
                   [&] { scores = score(*segmenter, *validation_, device_, options).scores(); });
    if (log_ && scores.miou > log_->best_miou()) save_best();
    note({{"step", model_.step}, {"accuracy", scores.accuracy}, {"miou", scores.miou}});
  }

  SampleCheck validation_check() const { return check_of(*validation_, {s_.validation_resolution, /*square=*/true}); }

  void report_profile(int64_t steps) const {
    const fs::path trace = fs::path(s_.out) / "trace.json";
    profiler_->write_trace(trace);
    profiler_->print(console_.out, steps);
    if (device_.is_cuda()) console_.out << "Each part waits for the GPU: without --profile they overlap.\n";
    console_.out << "trace (ui.perfetto.dev, chrome://tracing): " << trace.string() << "\n";
  }

  TrainSettings s_;
  Console console_;
  std::shared_ptr<Processes> processes_;
  torch::Device device_;
  int workers_;
  int64_t begun_ = 0;     // the step that the run begins with
  fs::path last_, best_;  // the checkpoint and the model
  bool resumes_ = false;
  std::optional<FileLock> lock_;  // of the output folder
  std::optional<Dataset> validation_;
  std::optional<FeatureFiles> files_;  // in the place of a network
  std::optional<Profiler> profiler_;
  Model model_;
  std::optional<Learner> learner_;
  FiniteWatch finite_;
  std::optional<Log> log_;  // of the first process, as the page and the events are
  std::optional<LivePage> page_;
  std::optional<EventFile> events_;
  int64_t last_saved_ = -1;
  int64_t line_step_ = 0;  // of the log's last line, and its time
  double line_seconds_ = 0;
};

void train(const TrainSettings& settings, const Console& console, const std::shared_ptr<Processes>& processes) {
  Training(settings, console, processes).run();
}

}  // namespace

Command train_command() {
  return make_shared_command("train", "Learn a segmentation of a folder of pictures, without labels.", train);
}

}  // namespace smooseg::app
