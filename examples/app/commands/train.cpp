// `smooseg train`: from a folder of pictures to a model.
//
// Every random draw of a step is decided by the seed and the step's number alone, so that a run that was stopped and
// resumed ends with the same weights as one that never was.

#include <torch/cuda.h>
#include <torch/optim/adam.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <fstream>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

#include "commands/commands.hpp"
#include "commands/score.hpp"
#include "data/dataset.hpp"
#include "features/precision.hpp"
#include "features/training_features.hpp"
#include "settings/model.hpp"
#include "settings/runtime.hpp"
#include "smooseg/io/atomic_file.hpp"
#include "smooseg/loss.hpp"
#include "support/profiler.hpp"
#include "support/seeds.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

struct TrainSettings {
  ModelSettings model;
  RuntimeSettings runtime;
  FeatureSettings features;
  std::string data, out, weights;
  int64_t iterations = 3000;
  bool resume = false;
  int64_t log_every = 10;
  int64_t checkpoint_every = 500;
  bool profile = false;
  std::string select = "last";
  int64_t validate_every = 500;
  std::string validation_split = "val";
  int64_t validation_resolution = 320;
};

void add_options(CLI::App& app, TrainSettings& s) {
  const auto positive = CLI::Range(int64_t{1}, int64_t{1} << 40);
  app.add_option("--data", s.data, "data set (images/train, ...) or any folder of pictures")->required();
  app.add_option("--out", s.out, "folder for the checkpoints and the log")->required();
  app.add_option("--weights", s.weights,
                 "the backbone's weights (.pth, .pt, .ckpt, .safetensors); default: those of 'smooseg weights get'");
  app.add_option("--iterations", s.iterations, "steps to train in all")->check(positive)->capture_default_str();
  app.add_flag("--resume", s.resume, "go on from OUT/last.safetensors");
  app.add_option("--log-every", s.log_every, "steps between lines of the log")->check(positive)->capture_default_str();
  app.add_option("--checkpoint-every", s.checkpoint_every, "steps between checkpoints")
      ->check(positive)
      ->capture_default_str();
  app.add_flag("--profile", s.profile, "print where the time goes, and write OUT/trace.json for ui.perfetto.dev");
  app.add_option("--select", s.select,
                 "which step becomes best.safetensors: the last, or the one with the best mIoU, "
                 "which needs labels")
      ->check(CLI::IsMember({"last", "labels"}))
      ->capture_default_str();
  app.add_option("--validate-every", s.validate_every, "steps between scorings for --select labels")
      ->check(positive)
      ->capture_default_str();
  app.add_option("--validation-split", s.validation_split, "labelled split for --select labels")->capture_default_str();
  app.add_option("--validation-resolution", s.validation_resolution, "side of its crops in pixels")
      ->check(positive)
      ->capture_default_str();
  add_options(app, s.features);
  add_options(app, s.model);
  add_options(app, s.runtime);
}

/// Checks what the options cannot tell by themselves, and fills in what the data decides.
ClassTable settle(TrainSettings& s, const Dataset& dataset) {
  if (s.model.classes == 0) {
    if (!dataset.classes) {
      throw std::runtime_error(s.data + ": has no classes.json that tells the number of classes: say --classes K");
    }
    s.model.classes = dataset.classes->size();
  }
  if (s.model.classes < 2 || s.model.classes > 255) {
    throw std::runtime_error("--classes: expected 2 to 255, got " + std::to_string(s.model.classes));
  }
  if (s.model.batch < 2) {
    throw std::runtime_error("--batch: expected at least 2, since each image is compared with another, got " +
                             std::to_string(s.model.batch));
  }
  if (!s.resume || !s.weights.empty()) s.weights = chosen_weights(s.model, s.weights);
  return dataset.classes ? *dataset.classes : default_classes(s.model.classes);
}

/// Adam with the projector's and the predictor's rates, whose state goes into checkpoints and comes out of them.
class Optimizer {
 public:
  Optimizer(SegmenterImpl& segmenter, const ModelSettings& s)
      : adam_({group(*segmenter.projector, s.projector_rate), group(*segmenter.predictor, s.predictor_rate)},
              torch::optim::AdamOptions(s.projector_rate)) {
    for (const auto& [prefix, module] :
         {std::pair<std::string, torch::nn::Module*>{"projector.", segmenter.projector.get()},
          {"predictor.", segmenter.predictor.get()}}) {
      for (const auto& item : module->named_parameters()) parameters_[prefix + item.key()] = item.value();
    }
  }

  void zero_grad() { adam_.zero_grad(); }
  void step() { adam_.step(); }

  io::TensorMap state() {
    io::TensorMap tensors;
    for (const auto& [name, parameter] : parameters_) {
      const auto found = adam_.state().find(smooseg::detail::optimizer_key(adam_.state(), parameter));
      if (found == adam_.state().end()) continue;  // before the first step
      const auto& state = static_cast<const torch::optim::AdamParamState&>(*found->second);
      const std::string prefix = "optimizer." + name + ".";
      tensors[prefix + "step"] = torch::tensor(state.step(), torch::kInt64);
      tensors[prefix + "exp_avg"] = state.exp_avg();
      tensors[prefix + "exp_avg_sq"] = state.exp_avg_sq();
    }
    return tensors;
  }

  void load_state(const io::TensorMap& tensors, const std::string& source) {
    for (const auto& [name, parameter] : parameters_) {
      const auto tensor = [&, &name = name, &parameter = parameter](const std::string& part) {
        const auto found = tensors.find("optimizer." + name + "." + part);
        if (found == tensors.end() || (part != "step" && found->second.sizes() != parameter.sizes())) {
          throw std::runtime_error(source + ": cannot resume: the optimiser's state of '" + name +
                                   "' is missing or of "
                                   "another shape");
        }
        return found->second;
      };
      auto state = std::make_unique<torch::optim::AdamParamState>();
      state->step(tensor("step").item<int64_t>());
      state->exp_avg(tensor("exp_avg").to(parameter.options()));
      state->exp_avg_sq(tensor("exp_avg_sq").to(parameter.options()));
      adam_.state()[smooseg::detail::optimizer_key(adam_.state(), parameter)] = std::move(state);
    }
  }

 private:
  static torch::optim::OptimizerParamGroup group(torch::nn::Module& module, double rate) {
    return {module.parameters(), std::make_unique<torch::optim::AdamOptions>(rate)};
  }

  torch::optim::Adam adam_;
  std::map<std::string, Tensor> parameters_;
};

/// One JSON object a line in OUT/log.jsonl.
class Log {
 public:
  /// Keeps the lines up to `step` of a log that is already there.
  Log(const fs::path& path, int64_t step) : path_(path) {
    std::ifstream old(path);
    std::string kept;
    for (std::string line; step > 0 && std::getline(old, line);) {
      const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (!json.is_object() || json.value("step", step + 1) > step) continue;
      best_miou_ = std::max(best_miou_, json.value("miou", -1.0));
      kept += line + "\n";
    }
    io::write_file_atomically(path, [&](std::ostream& file) { file << kept; });
    stream_.open(path, std::ios::app);
  }

  /// The best score among the lines, -1 where there is none.
  double best_miou() const { return best_miou_; }

  void write(const nlohmann::json& line) {
    best_miou_ = std::max(best_miou_, line.value("miou", -1.0));
    stream_ << line.dump() << std::endl;
    if (!stream_) throw std::runtime_error(path_.string() + ": cannot write the log: is the disk full?");
  }

 private:
  fs::path path_;
  std::ofstream stream_;
  double best_miou_ = -1;
};

std::string duration(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(seconds));
  std::ostringstream text;
  text << std::setfill('0');
  if (s >= 3600) text << s / 3600 << ":";
  text << std::setw(s >= 3600 ? 2 : 1) << s / 60 % 60 << ":" << std::setw(2) << s % 60;
  return text.str();
}

/// One line that is written over on a terminal, and a new line now and then elsewhere.
class Progress {
 public:
  Progress(std::ostream& err, int64_t first, int64_t last)
      : err_(err), terminal_(&err == &std::cerr && isatty(STDERR_FILENO) == 1), first_(first), last_(last) {}

  void show(int64_t step, const nlohmann::json& terms) {
    if (!terminal_ && step < last_ && seconds() < next_line_) return;
    next_line_ = seconds() + 10;
    const double eta = seconds() / static_cast<double>(step - first_) * static_cast<double>(last_ - step);
    std::ostringstream line;
    line << "step " << step << "/" << last_ << std::fixed << std::setprecision(4);
    for (const char* term : {"total", "within", "across", "data"})
      line << "  " << term << " " << terms.at(term).get<double>();
    line << "  ETA " << duration(eta);
    err_ << (terminal_ ? "\r" : "") << line.str() << (terminal_ ? "  " : "\n") << std::flush;
    if (terminal_ && step == last_) err_ << std::endl;
  }

  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  std::ostream& err_;
  bool terminal_;
  int64_t first_, last_;
  double next_line_ = 0;
  Clock::time_point start_ = Clock::now();
};

nlohmann::json log_line(int64_t step, const EnergyTerms& e, double seconds) {
  const auto value = [](const Tensor& t) { return t.item<double>(); };
  return {{"step", step},
          {"total", value(e.total)},
          {"within", value(e.within)},
          {"across", value(e.across)},
          {"data", value(e.data)},
          {"within_penalty_mean", value(e.within_penalty_mean)},
          {"across_penalty_mean", value(e.across_penalty_mean)},
          {"seconds", seconds}};
}

/// A run refuses to go on with other settings than it began with: its end would be neither's.
void check_same_settings(const ModelSettings& given, const ModelSettings& saved, const fs::path& path) {
  const auto found = values_of(saved);
  for (const auto& [name, value] : values_of(given)) {
    if (found.at(name) != value) {
      throw std::runtime_error(path.string() + ": cannot resume with other settings: --" + name + " was " +
                               found.at(name) + ", got " + value);
    }
  }
}

class Training {
 public:
  Training(const TrainSettings& settings, const Console& console)
      : s_(settings),
        console_(console),
        device_(start(s_.runtime)),
        workers_(worker_count(s_.features, s_.runtime)),
        dataset_(open_dataset(s_.data, "train")) {
    if (s_.profile) profiler_ = std::make_unique<Profiler>(synchronize());
  }

  void run() {
    const ClassTable classes = settle(s_, dataset_);
    TrainingFeatures features(dataset_, s_.model, s_.features, device_, workers_);
    const Crops& crops = features.crops();
    if (crops.count() < 2) {
      throw std::runtime_error(s_.data + ": expected at least 2 training crops, found " +
                               std::to_string(crops.count()));
    }
    if (s_.model.batch > crops.count()) {
      console_.err << "--batch " << s_.model.batch << " is more than there are crops: " << crops.count() << " it is\n";
      s_.model.batch = crops.count();
    }
    std::error_code ignored;
    fs::create_directories(s_.out, ignored);
    if (!fs::is_directory(s_.out)) throw std::runtime_error("--out: cannot create the folder " + s_.out);
    io::AtomicFile{last_path()};  // made and removed, so that an unwritable folder is noticed now

    if (s_.select == "labels") validation_ = open_dataset(s_.data, s_.validation_split);
    if (validation_ && !validation_->labelled()) {
      throw std::runtime_error(s_.data + ": --select labels needs labels, found none for the split '" +
                               s_.validation_split + "'");
    }
    begin(classes, features);
    const int64_t first = model_.step;
    train(features);
    if (profiler_) report_profile(model_.step - first);
    console_.out << "model: " << best_path().string() << std::endl;
  }

 private:
  fs::path last_path() const { return fs::path(s_.out) / "last.safetensors"; }
  fs::path best_path() const { return fs::path(s_.out) / "best.safetensors"; }

  /// Waits for the device; nothing where it needs no waiting for.
  std::function<void()> synchronize() const {
    if (!device_.is_cuda()) return {};
    return [device = device_] { torch::cuda::synchronize(device.index()); };
  }

  void report_profile(int64_t steps) const {
    const fs::path trace = fs::path(s_.out) / "trace.json";
    profiler_->write_trace(trace);
    profiler_->print(console_.out, steps);
    if (device_.is_cuda()) console_.out << "Each part waits for the GPU: without --profile they overlap.\n";
    console_.out << "trace (ui.perfetto.dev, chrome://tracing): " << trace.string() << "\n";
  }

  /// A new model, or the one to go on with.
  void begin(const ClassTable& classes, TrainingFeatures& features) {
    if (!s_.resume) {
      torch::manual_seed(mix_seed(s_.model.seed, SeedPurpose::kInitialization));
      model_ = make_model(s_.model, classes);
      model_.segmenter->to(device_);
      features.prepare(*model_.segmenter->backbone, s_.weights, console_.err);
      model_.data = features.data_hash();
      optimizer_ = std::make_unique<Optimizer>(*model_.segmenter, s_.model);
      return;
    }
    LoadedModel loaded = load_model(last_path(), device_);
    check_same_settings(s_.model, loaded.model.settings, last_path());
    if (!loaded.model.data.empty() && loaded.model.data != features.data_hash()) {
      throw std::runtime_error(last_path().string() + ": cannot resume with other pictures: those of " + s_.data +
                               " are not, or not in the same order, those that it was trained on");
    }
    if (s_.iterations < loaded.model.step) {
      throw std::runtime_error(last_path().string() + ": has " + std::to_string(loaded.model.step) +
                               " steps already, more than --iterations " + std::to_string(s_.iterations));
    }
    model_ = std::move(loaded.model);
    optimizer_ = std::make_unique<Optimizer>(*model_.segmenter, s_.model);
    optimizer_->load_state(loaded.extra, last_path().string());
    console_.err << "going on from step " << model_.step << std::endl;
  }

  void train(TrainingFeatures& features) {
    // The model keeps its float32 weights.
    const auto backbone =
        in_precision(s_.runtime, model_.segmenter->backbone, device_, s_.model.resolution, console_.err);
    const auto batch = [&, first = model_.step](int64_t i) {
      return batch_indices(first + i, s_.model.batch, features.crops().count(), s_.model.seed);
    };
    FeatureLoader loader = features.loader(*backbone, s_.iterations - model_.step, batch, console_.err);
    EnergyLoss energy(energy_options(s_.model));
    Log log(fs::path(s_.out) / "log.jsonl", model_.step);
    Progress progress(console_.err, model_.step, s_.iterations);
    last_saved_ = s_.resume ? model_.step : -1;
    while (model_.step < s_.iterations) {
      const EnergyTerms e = step(loader.next(), energy);
      ++model_.step;
      if (model_.step % s_.log_every == 0 || model_.step == s_.iterations) {
        const auto line = log_line(model_.step, e, progress.seconds());
        log.write(line);
        progress.show(model_.step, line);
      }
      const bool validates = validation_ && model_.step % s_.validate_every == 0;
      if (validates || model_.step % s_.checkpoint_every == 0 || model_.step == s_.iterations) save();
      if (validates || (validation_ && model_.step == s_.iterations)) validate(log);
    }
    if (!validation_) save_model(best_path(), model_);
  }

  EnergyTerms step(const Tensor& features, EnergyLoss& energy) {
    auto& segmenter = *model_.segmenter;
    segmenter.projector->train();
    torch::manual_seed(mix_seed(s_.model.seed, SeedPurpose::kStep, static_cast<uint64_t>(model_.step)));
    const auto projected = timed("projector", [&] { return segmenter.projector(features); });
    const Tensor pairing = functional::random_pairing(features.size(0));
    const auto logits = timed("predictor", [&] { return segmenter.predictor(projected.code); });
    const EnergyTerms e = timed("loss", [&] { return energy(projected.features, logits, pairing); });
    if (!std::isfinite(e.total.item<double>())) stop_not_finite(model_.step + 1, "the loss is " + describe(e));
    optimizer_->zero_grad();
    timed("backward", [&] { e.total.backward(); });
    timed("optimiser", [&] {
      if (s_.model.teacher_update == "before") segmenter.predictor->update_teacher();
      optimizer_->step();
      if (s_.model.teacher_update == "after") segmenter.predictor->update_teacher();
    });
    return e;
  }

  static std::string describe(const EnergyTerms& e) {
    std::ostringstream text;
    text << e.total.item<double>() << " (within " << e.within.item<double>() << ", across " << e.across.item<double>()
         << ", data " << e.data.item<double>() << ")";
    return text.str();
  }

  [[noreturn]] void stop_not_finite(int64_t step, const std::string& what) const {
    throw std::runtime_error("training stopped at step " + std::to_string(step) + ": " + what + "; " +
                             (last_saved_ < 0 ? "there is no checkpoint yet"
                                              : "the last good checkpoint, of step " + std::to_string(last_saved_) +
                                                    ", is " + last_path().string()));
  }

  void save() {
    for (const auto& item : model_.segmenter->named_parameters()) {
      if (!item.value().isfinite().all().item<bool>()) stop_not_finite(model_.step, item.key() + " is not finite");
    }
    timed("save", [&] { save_model(last_path(), model_, optimizer_->state()); });
    last_saved_ = model_.step;
  }

  void validate(Log& log) {
    model_.segmenter->eval();
    ScoreOptions options;
    options.resolution = s_.validation_resolution;
    options.threads = thread_count(s_.runtime);
    const metrics::Scores scores = score(*model_.segmenter, *validation_, device_, options).scores();
    if (scores.miou > log.best_miou()) save_model(best_path(), model_);
    log.write({{"step", model_.step}, {"accuracy", scores.accuracy}, {"miou", scores.miou}});
  }

  TrainSettings s_;
  Console console_;
  torch::Device device_;
  int workers_;
  Dataset dataset_;
  std::optional<Dataset> validation_;
  std::unique_ptr<Profiler> profiler_;
  Model model_;
  std::unique_ptr<Optimizer> optimizer_;
  int64_t last_saved_ = -1;
};

}  // namespace

Command train_command() {
  const auto settings = std::make_shared<TrainSettings>();
  return {"train", "Learn a segmentation of a folder of pictures, without labels.",
          [settings](CLI::App& app) { add_options(app, *settings); },
          [settings](const Console& console) { Training(*settings, console).run(); }};
}

}  // namespace smooseg::app
