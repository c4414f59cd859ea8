// `smooseg compare`: several methods on the same features, through the same evaluator.
//
// Each method and seed ends as a model file, OUT/METHOD-seedN/best.safetensors, which is scored as `evaluate` does it.
// What compare.json holds is finished, and what has a model file is learned, so that a run that was stopped goes on.

#include <algorithm>
#include <fstream>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>
#include <utility>

#include "commands/command_line.hpp"
#include "data/bad_files.hpp"
#include "features/precision.hpp"
#include "features/training_features.hpp"
#include "model/baselines.hpp"
#include "model/model.hpp"
#include "model/score.hpp"
#include "report/scores.hpp"
#include "settings/backbone_files.hpp"
#include "settings/baselines.hpp"
#include "settings/protocol.hpp"
#include "smooseg/io/atomic_file.hpp"
#include "support/disk.hpp"
#include "support/file_lock.hpp"
#include "support/moments.hpp"
#include "support/seeds.hpp"
#include "support/stop_signal.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

struct CompareSettings {
  ModelSettings model;
  RuntimeSettings runtime;
  FeatureSettings features;
  BaselineSettings baselines;
  std::string data, out, weights, features_dir, split;
  std::string on_error = "fail";
  std::string methods = "kmeans,stego,smooseg,smooseg+crf,linear", seeds = "0,1,2";
  int64_t iterations = 3000;
  ScoreOptions score;
  ProtocolSettings protocol;
  SegmenterOptions segmenter;
};

/// What stands between the commas of a list.
std::vector<std::string> words_of(const std::string& list) {
  std::vector<std::string> words;
  std::istringstream text(list + ",");
  for (std::string word; std::getline(text, word, ',');) words.push_back(word);
  return words;
}

/// A row of the table: what learned, and whether the CRF follows it.
struct Method {
  explicit Method(const std::string& text)
      : name(text), base(text.substr(0, text.find('+'))), crf(text.find('+') != std::string::npos) {}
  std::string name, base;
  bool crf;
};

/// A list whose words each pass a check, none of them twice.
template <class Check>
CLI::Validator list_of(const std::string& kind, const Check& is_right) {
  return CLI::Validator(
      [kind, is_right](const std::string& list) -> std::string {
        std::set<std::string> seen;
        for (const std::string& word : words_of(list)) {
          if (!is_right(word)) return "expected " + kind + ", separated by commas, got '" + word + "'";
          if (!seen.insert(word).second) return "'" + word + "' stands twice in the list";
        }
        return "";
      },
      "LIST");
}

void add_options(CLI::App& app, CompareSettings& s) {
  const auto is_method = [](const std::string& word) {
    const std::set<std::string> bases{"kmeans", "stego", "smooseg", "linear"};
    const Method method(word);
    return bases.count(method.base) > 0 && (word == method.base || word == method.base + "+crf");
  };
  app.add_option("--data", s.data, "labelled data set (images/SPLIT, labels/SPLIT, classes.json; or prepared)")
      ->required();
  app.add_option("--out", s.out, "folder for compare.json and the models; what is finished there is not done again")
      ->required();
  app.add_option("--methods", s.methods,
                 "rows of the table: kmeans, stego, smooseg, and linear, which learns from labels; each also with +crf")
      ->check(list_of("kmeans, stego, smooseg or linear, each also with +crf", is_method));
  app.add_option("--seeds", s.seeds, "each method is run once with each of them")
      ->check(
          list_of("whole numbers", [](const std::string& word) { return check_whole_number<uint64_t>(word).empty(); }));
  app.add_option("--weights", s.weights,
                 "the backbone's weights, or the exported module; default: weights of 'smooseg weights get'");
  add_features_dir(app, s.features_dir);
  add_on_error(app, s.on_error);
  app.add_option("--iterations", s.iterations, "steps of SmooSeg, STEGO and the linear probe")->check(at_least(1));
  app.add_option("--split", s.split, "which split to score; default: the one that the literature scores, or test");
  app.add_option("--score-resolution", s.score.resolution, "shorter side in pixels; the centre square is scored")
      ->check(side());
  app.add_option("--limit", s.score.limit, "score only so many pictures; 0: all")->check(at_least(0));
  app.add_flag("--flip", s.segmenter.flip(), "average the codes of each picture and its mirror image");
  add_options(app, s.protocol);
  add_options(app, s.baselines);
  add_options(app, s.score.crf);
  app.remove_option(app.get_option("--crf"));  // methods say it
  add_options(app, s.model);
  app.remove_option(app.get_option("--seed"));  // of which there are several
  add_options(app, s.features);
  add_options(app, s.runtime);
}

/// All that scores depend on, by the options' names.
SettingValues values_of(const CompareSettings& settings) {
  const std::set<std::string> free{"out",     "methods", "seeds",   "data",         "device",
                                   "threads", "cache",   "workers", "cache-memory", "on-error"};
  CompareSettings copy = settings;
  CLI::App app;
  app.option_defaults()->always_capture_default();
  add_options(app, copy);
  SettingValues values;
  for (const CLI::Option* option : app.get_options()) {
    const std::string& name = option->get_lnames().front();
    if (name != "help" && free.count(name) == 0) values[name] = option->get_default_str();
  }
  for (const auto& [name, value] : values_of(settings.model)) values[name] = value;  // with all their digits
  values.erase("seed");
  values["flip"] = settings.segmenter.flip() ? "true" : "false";
  values["data"] = fs::canonical(settings.data).string();
  return values;
}

/// The content of a JSON file; null where there is none.
nlohmann::json json_of(const fs::path& path) {
  std::ifstream file(path);
  if (!file) return {};
  auto json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  TORCH_CHECK(!json.is_discarded(), path.string(), ": no JSON: remove it, or take another --out");
  return json;
}

class Comparison {
 public:
  Comparison(const CompareSettings& settings, const Console& console)
      : s_(settings),
        console_(console),
        device_(start(s_.runtime, console.err)),
        workers_(worker_count(s_.features, s_.runtime)),
        out_(s_.out) {
    for (const std::string& word : words_of(s_.methods)) methods_.emplace_back(word);
    for (const std::string& word : words_of(s_.seeds)) seeds_.push_back(std::stoull(word));
  }

  void run() {
    open_data();
    make_folder(out_, "--out");
    const FileLock lock(out_ / ".smooseg.lock");
    TORCH_CHECK(!lock.busy(), "--out: another run is writing into ", s_.out, ": take another folder, or wait for it");
    check_settings();
    read_rows();
    if (s_.on_error == "skip") {
      leave_out_bad(training_, check_of(crops_of(training_, s_.model, files_)), workers_, console_.err);
      leave_out_bad(test_, test_check(), workers_, console_.err);
    }
    for (const uint64_t seed : seeds_) {
      frozen_.reset();
      std::set<std::string> done;
      for (const Method& method : methods_) {
        if (done.insert(method.base).second) run_base(method.base, seed);
      }
    }
    print();
  }

 private:
  /// The features that the baselines of one seed learn from.
  struct Frozen {
    Model model;                                   // with the backbone in float32, and any head
    std::shared_ptr<backbone::Backbone> backbone;  // in the precision that was asked for
    TrainingFeatures features;
  };

  bool uses(const std::string& base) const {
    return std::any_of(methods_.begin(), methods_.end(), [&](const Method& m) { return m.base == base; });
  }

  /// Opens both splits, and fills in what data and backbone decide.
  void open_data() {
    if (s_.split.empty()) s_.split = scored_split(s_.data);
    test_ = open_dataset(s_.data, s_.split);
    console_.err << skipped_line(test_);
    TORCH_CHECK(test_.labelled(), s_.data, ": has no labels for the split '", s_.split, "'");
    training_ = open_dataset(s_.data, "train", uses("linear") ? Labels::kAll : Labels::kNone);
    TORCH_CHECK(!uses("linear") || training_.labelled(), s_.data,
                ": --methods linear learns from labels, found none for the split 'train'");
    TORCH_CHECK(s_.model.classes != kAutomaticClasses,
                "--classes: methods are compared with one number of classes: say how many, or 0 for classes.json's");
    if (s_.model.classes == 0) s_.model.classes = test_.classes->size();
    choose_thresholds(s_.model);
    s_.weights = chosen_weights(s_.model, s_.weights);
    files_ = open_feature_files(s_.model, s_.features_dir);
    if (s_.features.cache.empty() && !files_) s_.features.cache = (out_ / "features").string();
  }

  /// Notes the settings, or refuses others than those that the folder began with.
  void check_settings() const {
    const fs::path path = out_ / "settings.json";
    const SettingValues values = values_of(s_);
    const nlohmann::json saved = json_of(path);
    if (saved.is_null()) {
      io::write_file_atomically(path, [&](std::ostream& file) { file << nlohmann::json(values).dump(2) << "\n"; });
      return;
    }
    TORCH_CHECK(saved.is_object(), path.string(), ": expected the settings of smooseg compare: take another --out");
    for (const auto& [name, value] : values) {
      const std::string was = saved.value(name, "");
      TORCH_CHECK(was == value, path.string(), ": cannot go on with other settings: --", name, " was ", was, ", got ",
                  value, ": take another --out");
    }
  }

  void read_rows() {
    const fs::path path = out_ / "compare.json";
    rows_ = json_of(path);
    if (rows_.is_null()) rows_ = nlohmann::json::array();
    const bool right = rows_.is_array() && std::all_of(rows_.begin(), rows_.end(), [](const nlohmann::json& row) {
                         return row.is_object() && row.contains("method") && row.contains("seed") &&
                                row.contains("accuracy") && row.contains("miou");
                       });
    TORCH_CHECK(right, path.string(),
                ": expected a list of objects with method, seed, accuracy and miou: take another --out");
  }

  /// The row of a method and seed that is finished; null of one that is not.
  const nlohmann::json* row_of(const std::string& method, uint64_t seed) const {
    for (const nlohmann::json& row : rows_) {
      if (row.at("method") == method && row.at("seed") == seed) return &row;
    }
    return nullptr;
  }

  /// Learns what is not learned yet, and scores what is not scored yet, with the CRF and without.
  void run_base(const std::string& base, uint64_t seed) {
    std::vector<Method> missing;
    for (const Method& method : methods_) {
      if (method.base == base && row_of(method.name, seed) == nullptr) missing.push_back(method);
    }
    if (missing.empty()) return;
    const fs::path folder = out_ / (base + "-seed" + std::to_string(seed)), file = folder / "best.safetensors";
    if (!fs::exists(file)) {
      console_.err << base << ", seed " << seed << std::endl;
      make_folder(folder, "--out");
      base == "smooseg" ? train(seed, folder) : learn(base, seed, file);
    }
    const bool exported = s_.model.backbone == kExportedBackbone;
    LoadedModel loaded = load_model(file, device_, s_.segmenter, exported ? s_.weights : "");
    const std::string precision =
        set_precision(s_.runtime, *loaded.model.segmenter, device_, s_.model.resolution, console_.err);
    for (const Method& method : missing) add_row(method, seed, loaded.model, precision, file);
  }

  /// SmooSeg by the very command that trains it, which goes on where it was stopped.
  void train(uint64_t seed, const fs::path& folder) const {
    std::vector<std::string> words{"train", "--resume"};
    const auto add = [&](const std::string& name, const std::string& value) {
      if (!value.empty()) words.push_back("--" + name + "=" + value);
    };
    ModelSettings settings = s_.model;
    settings.seed = seed;
    for (const auto& [name, value] : values_of(settings)) add(name, value);
    add("data", s_.data);
    add("out", folder.string());
    add("weights", s_.weights);
    add("features-dir", s_.features_dir);
    add("on-error", s_.on_error);
    add("iterations", std::to_string(s_.iterations));
    add("device", s_.runtime.device);
    add("threads", std::to_string(s_.runtime.threads));
    add("precision", s_.runtime.precision);
    add("cache", s_.features.cache);
    add("cache-memory", nlohmann::json(s_.features.cache_memory).dump());
    add("workers", std::to_string(s_.features.workers));
    const int status = app::run(words, console_.err, console_.err);
    if (status > 128) throw Stopped(status - 128, "stopped; the same command goes on from there");
    TORCH_CHECK(status == 0, "--methods smooseg: the training with seed ", seed, " failed, for the reason above");
  }

  /// Learns a baseline and saves it as a model.
  void learn(const std::string& base, uint64_t seed, const fs::path& file) {
    Frozen& frozen = frozen_of(seed);
    const BaselineSource source{frozen.model.settings, *frozen.backbone, frozen.features, device_, console_.err};
    // Features of files have no pixels: their label maps are as large as when they are scored.
    const auto labels = [&,
                         side = files_ ? s_.score.resolution : s_.model.resolution](const std::vector<int64_t>& crops) {
      return frozen.features.crops().labels(crops, side, workers_);
    };
    SegmenterHead head;
    naming_all_bad(training_, check_of(frozen.features.crops()), workers_, [&] {
      head = base == "kmeans"  ? kmeans_head(source)
             : base == "stego" ? stego_head(source, s_.baselines, s_.iterations)
                               : linear_head(source, s_.baselines, s_.iterations, test_.classes->size(), labels);
    });
    Model model = frozen.model;
    model.settings.embed_dim = head.projector->options.embed_dim();
    model.settings.classes = head.predictor->options.num_classes();
    model.step = base == "kmeans" ? 0 : s_.iterations;
    model.segmenter = Segmenter(frozen.model.segmenter->backbone, head.projector, head.predictor);
    save_model(file, model);
  }

  /// The seed's backbone and features, made when they are first needed.
  Frozen& frozen_of(uint64_t seed) {
    if (frozen_) return *frozen_;
    ModelSettings settings = s_.model;
    settings.seed = seed;
    TrainingFeatures features(training_, settings, s_.features, device_, workers_, files_);
    torch::manual_seed(mix_seed(seed, SeedPurpose::kInitialization));
    Model model = make_model(settings, *test_.classes, {}, {s_.weights, features.crops().channels()});
    model.segmenter->to(device_);
    naming_all_bad(training_, check_of(features.crops()), workers_,
                   [&] { features.prepare(*model.segmenter->backbone, s_.weights, console_.err); });
    model.data = features.data_hash();
    auto backbone = in_precision(s_.runtime, model.segmenter->backbone, device_, s_.model.resolution, console_.err);
    return frozen_.emplace(Frozen{std::move(model), std::move(backbone), std::move(features)});
  }

  SampleCheck test_check() const { return check_of(test_, {s_.score.resolution, /*square=*/true}); }

  /// Scores a model, and writes compare.json with the new row.
  void add_row(const Method& method, uint64_t seed, Model& model, const std::string& precision, const fs::path& file) {
    ScoreOptions options = s_.score;
    options.threads = thread_count(s_.runtime);
    options.crf.use = method.crf;
    options.features = model_feature_files(model, s_.features_dir, s_.segmenter.flip());
    nlohmann::json row;
    naming_all_bad(test_, test_check(), options.threads, [&] {
      row = to_json(score(*model.segmenter, test_, device_, options).scores(protocol_of(s_.protocol)), *test_.classes);
    });
    row.update(conditions_of(test_, options, s_.protocol));
    row.update({{"method", method.name},
                {"seed", seed},
                {"model", fs::relative(file, out_).string()},
                {"split", s_.split},
                {"flip", s_.segmenter.flip()},
                {"precision", precision},
                {"clusters", model.settings.classes}});
    rows_.push_back(row);
    io::write_file_atomically(out_ / "compare.json", [&](std::ostream& text) { text << rows_.dump(2) << "\n"; });
  }

  /// Mean and standard deviation of each method over the seeds.
  void print() const {
    std::size_t width = 6;
    for (const Method& method : methods_) width = std::max(width, method.name.size());
    std::ostringstream table;
    table << std::fixed << std::setprecision(1) << std::left << std::setw(static_cast<int>(width)) << "in %"
          << "       accuracy           mIoU   runs\n";
    for (const Method& method : methods_) {
      table << std::left << std::setw(static_cast<int>(width)) << method.name << std::right;
      for (const char* score : {"accuracy", "miou"}) {
        std::vector<double> values;
        for (const uint64_t seed : seeds_) values.push_back(row_of(method.name, seed)->at(score).get<double>());
        const Moments moments = moments_of(values);
        table << std::setw(8) << 100 * moments.mean << " ± " << std::setw(4) << 100 * moments.deviation;
      }
      table << std::setw(7) << seeds_.size() << "\n";
    }
    console_.out << table.str() << "scores: " << (out_ / "compare.json").string() << std::endl;
  }

  CompareSettings s_;
  Console console_;
  torch::Device device_;
  int workers_;
  fs::path out_;
  std::vector<Method> methods_;
  std::vector<uint64_t> seeds_;
  Dataset training_, test_;
  std::optional<FeatureFiles> files_;  // in the place of a network
  std::optional<Frozen> frozen_;       // of the seed at hand
  nlohmann::json rows_;                // of compare.json
};

void compare(const CompareSettings& settings, const Console& console) {
  Comparison(settings, console).run();
}

}  // namespace

Command compare_command() {
  Command command =
      make_command("compare", "Compare SmooSeg with k-means, STEGO and a linear probe on the same features.", compare);
  command.also_reads = "train";
  return command;
}

}  // namespace smooseg::app
