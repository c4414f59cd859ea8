// `smooseg sweep`: trainings over a grid of settings and seeds, their scores as a table and a plot.

#include "report/sweep.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <stdexcept>

#include "commands/run_all.hpp"
#include "report/run_folder.hpp"
#include "settings/model.hpp"
#include "settings/toml_file.hpp"
#include "smooseg/io/atomic_file.hpp"
#include "support/disk.hpp"
#include "support/file_lock.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

struct SweepSettings {
  std::string data, out, seeds = "0", device = "auto";
  std::vector<std::string> vary, options;
  int parallel = 1;
  const CLI::Option* config = nullptr;  // whose files every run reads too
};

void add_options(CLI::App& app, SweepSettings& s) {
  app.add_option("--data", s.data, "labelled data set, as of train and evaluate")->required();
  app.add_option("--out", s.out, "folder for the runs, sweep.json, sweep.csv and sweep.svg")->required();
  app.add_option("--vary", s.vary,
                 "a setting of train and its values, given once for each setting; in a TOML file several in one text: "
                 "\"temperature=0.05,0.1 momentum=0.99,0.998\"")
      ->type_name("NAME=VALUE,...")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->default_str("");
  app.add_option("--seeds", s.seeds, "of which every combination of values gets a run each")->type_name("N,...");
  app.add_option("--parallel", s.parallel, "runs at a time, which share the cores")->check(from_to(1, 1024));
  app.add_option("--device", s.device, "of all runs, as of train");
  app.add_option("options", s.options,
                 "further options of train, after --; those of train and evaluate in the files of --config hold too")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->default_str("");
  s.config = app.get_option("--config");
}

std::vector<std::string> parts_of(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream words(text);
  for (std::string part; std::getline(words, part, separator);) {
    if (!part.empty()) parts.push_back(part);
  }
  return parts;
}

/// A setting and the values that it takes.
struct Varied {
  std::string name;
  std::vector<std::string> values;
};

/// A value as a model file has it, so that 0.1 and 0.10 are one.
std::string checked_value(const std::string& name, const std::string& value) {
  CLI::App app;
  ModelSettings settings;
  add_options(app, settings);
  check_numbers(app);
  if (app.get_option_no_throw("--" + name) == nullptr || name == "help") {
    std::string known;
    for (const CLI::Option* option : app.get_options()) {
      if (option != app.get_help_ptr()) known += (known.empty() ? "" : ", ") + option->get_lnames().front();
    }
    throw std::runtime_error("--vary: expected a setting of train, got '" + name + "'; there are " + known);
  }
  if (name == "seed") throw std::runtime_error("--vary: the seeds are those of --seeds");
  try {
    app.parse(std::vector<std::string>{"--" + name + "=" + value});
  } catch (const CLI::ParseError& e) {
    throw std::runtime_error(std::string("--vary: ") + e.what());
  }
  return values_of(settings).at(name);
}

/// Of a setting that is given twice the later values hold.
std::vector<Varied> varied_of(const std::vector<std::string>& vary) {
  std::vector<Varied> all;
  for (const std::string& text : vary) {
    for (const std::string& word : parts_of(text, ' ')) {
      const std::size_t equals = word.find('=');
      Varied varied{word.substr(0, equals), {}};
      if (equals != std::string::npos) varied.values = parts_of(word.substr(equals + 1), ',');
      if (varied.values.empty()) {
        throw std::runtime_error("--vary: expected NAME=VALUE,..., got '" + word + "'");
      }
      std::set<std::string> taken;
      for (std::string& value : varied.values) {
        value = checked_value(varied.name, value);
        if (!taken.insert(value).second) {
          throw std::runtime_error("--vary: " + varied.name + " has the value " + value + " twice");
        }
      }
      const auto same = [&](const Varied& other) { return other.name == varied.name; };
      all.erase(std::remove_if(all.begin(), all.end(), same), all.end());
      all.push_back(std::move(varied));
    }
  }
  return all;
}

std::vector<uint64_t> seeds_of(const std::string& text) {
  std::vector<uint64_t> seeds;
  for (const std::string& word : parts_of(text, ',')) {
    const std::string wrong = check_whole_number<uint64_t>(word);
    if (!wrong.empty()) throw std::runtime_error("--seeds: " + wrong);
    seeds.push_back(std::stoull(word));
  }
  if (seeds.empty()) throw std::runtime_error("--seeds: expected at least one, such as 0,1,2");
  if (std::set<uint64_t>(seeds.begin(), seeds.end()).size() < seeds.size()) {
    throw std::runtime_error("--seeds: expected different ones, got " + text);
  }
  return seeds;
}

/// One combination of values and seed.
struct Point {
  SettingValues settings;
  uint64_t seed;
  std::string name;
  fs::path folder;
};

/// The last setting changes first, the seed before it.
std::vector<Point> grid_of(const std::vector<Varied>& varied, const std::vector<uint64_t>& seeds, const fs::path& out) {
  std::vector<Point> grid{{{}, 0, "", {}}};
  const auto multiply = [&](std::size_t count, const auto& change) {
    std::vector<Point> larger;
    for (const Point& point : grid) {
      for (std::size_t i = 0; i < count; ++i) change(larger.emplace_back(point), i);
    }
    grid = std::move(larger);
  };
  for (const Varied& each : varied) {
    multiply(each.values.size(), [&](Point& point, std::size_t i) {
      point.settings[each.name] = each.values[i];
      point.name += each.name + "=" + each.values[i] + ",";
    });
  }
  multiply(seeds.size(), [&](Point& point, std::size_t i) {
    point.seed = seeds[i];
    point.name += "seed=" + std::to_string(seeds[i]);
    point.folder = out / "runs" / point.name;
  });
  return grid;
}

/// Whether some run got as far as a checkpoint; what failed before need not be kept.
bool has_begun(const fs::path& runs) {
  if (!fs::is_directory(runs)) return false;
  return std::any_of(fs::directory_iterator(runs), fs::directory_iterator(),
                     [](const auto& run) { return fs::exists(run.path() / "last.safetensors"); });
}

/// Notes what all runs have in common, or checks that it is what was noted: runs that are done are not run again.
void check_same_options(const SweepSettings& s, const fs::path& file) {
  nlohmann::json now{{"data", fs::absolute(s.data).lexically_normal().string()},
                     {"options", s.options},
                     {"configs", nlohmann::json::array()}};
  for (const std::string& config : s.config->results()) {
    for (const TomlValue& value : read_toml(config)) {
      const bool matters = value.section == "train" || value.section == "evaluate";
      if (matters) now["configs"].push_back(value.section + "." + value.key + " = " + value.text);
    }
  }
  if (!fs::exists(file) || !has_begun(fs::path(s.out) / "runs")) {
    io::write_file_atomically(file, [&](std::ostream& stream) { stream << now.dump(2) << "\n"; });
    return;
  }
  const auto before = nlohmann::json::parse(std::ifstream(file), nullptr, /*allow_exceptions=*/false);
  for (const auto& [what, name] :
       {std::pair("data", "--data"), {"options", "options of train"}, {"configs", "--config"}}) {
    if (before.is_object() && before.value(what, nlohmann::json()) == now.at(what)) continue;
    throw std::runtime_error("--out: " + s.out + " holds runs with other " + name +
                             ", with which new ones cannot be compared (" + file.string() +
                             " says which): take another folder");
  }
}

/// The command line of a run up to what is its own.
std::vector<std::string> common_arguments(const SweepSettings& s, const std::string& command) {
  std::vector<std::string> arguments{command, "--data=" + s.data, "--device=" + s.device};
  for (const std::string& config : s.config->results()) arguments.push_back("--config=" + config);
  return arguments;
}

Run training_of(const SweepSettings& s, const Point& point) {
  Run run{"train " + point.name, point.folder, common_arguments(s, "train"),
          point.folder / kScoresFolder / "scores.json"};
  run.arguments.push_back("--cache=" + (fs::path(s.out) / "features").string());
  run.arguments.insert(run.arguments.end(), s.options.begin(), s.options.end());
  for (const auto& [name, value] : point.settings) run.arguments.push_back("--" + name + "=" + value);
  run.arguments.push_back("--seed=" + std::to_string(point.seed));
  run.arguments.push_back("--out=" + point.folder.string());
  return run;
}

Run evaluation_of(const SweepSettings& s, const Point& point) {
  const fs::path folder = point.folder / kScoresFolder;
  Run run{"evaluate " + point.name, folder, common_arguments(s, "evaluate"), folder / "scores.json"};
  run.arguments.push_back("--model=" + (point.folder / "best.safetensors").string());
  run.arguments.push_back("--out=" + folder.string());
  run.arguments.emplace_back("--panels=0");
  return run;
}

void sweep(const SweepSettings& s, const Console& console) {
  const std::vector<Varied> varied = varied_of(s.vary);
  const std::vector<Point> grid = grid_of(varied, seeds_of(s.seeds), s.out);
  const fs::path out = s.out;
  make_folder(out, "--out");
  const FileLock lock(out / ".smooseg.lock");
  if (lock.busy()) {
    throw std::runtime_error("--out: another sweep is writing into " + s.out + ": take another folder, or wait for it");
  }
  check_same_options(s, out / "options.json");
  std::vector<Run> trainings, evaluations;
  for (const Point& point : grid) {
    trainings.push_back(training_of(s, point));
    evaluations.push_back(evaluation_of(s, point));
  }
  run_all(trainings, s.parallel, console);
  run_all(evaluations, s.parallel, console);

  std::vector<SweepResult> results;
  for (const Point& point : grid) {
    const auto scores = read_run_folder(point.folder).scores;
    if (!scores) throw std::runtime_error(point.folder.string() + ": its scores are gone: run the sweep again");
    results.push_back({point.settings, point.seed, scores->accuracy, scores->miou});
  }
  const auto write = [&](const char* name, const std::string& text) {
    io::write_file_atomically(out / name, [&](std::ostream& file) { file << text; });
  };
  const std::string plot = sweep_svg(results);
  write("sweep.json", to_json(results).dump(2) + "\n");
  write("sweep.csv", sweep_csv(results));
  print_sweep(console.out, results);
  console.out << "results: " << (out / "sweep.json").string() << ", " << (out / "sweep.csv").string() << "\n";
  if (plot.empty()) return;
  write("sweep.svg", plot);
  console.out << "plot: " << (out / "sweep.svg").string() << "\n";
}

}  // namespace

Command sweep_command() {
  return make_command("sweep", "Train and score over a grid of settings and seeds.", sweep);
}

}  // namespace smooseg::app
