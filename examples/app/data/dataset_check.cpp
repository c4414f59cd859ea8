#include "data/dataset_check.hpp"

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <set>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include "data/image_file.hpp"
#include "data/label_map.hpp"
#include "support/pipeline.hpp"
#include "support/progress.hpp"
#include "support/stop_signal.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

/// A file's name, size and time of change.
std::string state_of(const fs::path& path) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  const auto time = fs::last_write_time(path, error).time_since_epoch().count();
  return path.string() + " " + std::to_string(error ? 0 : size) + " " + std::to_string(error ? 0 : time);
}

std::string state_of(const Sample& sample) {
  return state_of(sample.image) + (sample.label ? " " + state_of(*sample.label) : "");
}

/// What is wrong with a picture and its label map; "" if nothing is.
std::string problem_of(const Sample& sample, const std::optional<ClassTable>& classes) {
  try {
    const auto picture = open_picture(sample.image);
    std::vector<uint8_t> row(static_cast<std::size_t>(3 * picture->width()));
    picture->read(0, row.data());
    picture->finish();
    if (!sample.label) return "";
    const auto label = open_label_map(*sample.label, classes.value());
    std::vector<int64_t> values(static_cast<std::size_t>(label->width()));
    for (int64_t y = 0; y < label->height(); ++y) label->read(y, values.data());
    label->finish();
    check_label_size(sample, *label, picture->height(), picture->width());
    return "";
  } catch (const std::exception& e) {
    return e.what();
  }
}

/// The states of pictures that were found in order: a file of lines below the recipe's.
class Note {
 public:
  Note(fs::path path, const std::string& recipe) : path_(std::move(path)) {
    std::ifstream old(path_);
    std::string line;
    const bool fits = std::getline(old, line) && line == recipe;
    while (fits && std::getline(old, line)) known_.insert(line);
    old.close();
    stream_.open(path_, fits ? std::ios::app : std::ios::trunc);
    // After a line that was cut short by a kill.
    stream_ << (fits ? "\n" : recipe + "\n") << std::flush;
  }

  bool has(const std::string& state) const { return known_.count(state) > 0; }

  void add(const std::string& state) {
    stream_ << state << "\n" << std::flush;
    if (!stream_) throw std::runtime_error(path_.string() + ": cannot write: is the disk full?");
  }

  void remove() {
    stream_.close();
    fs::remove(path_);
  }

 private:
  fs::path path_;
  std::set<std::string> known_;
  std::ofstream stream_;
};

struct Finding {
  std::string state, problem;
};

}  // namespace

DatasetCheck check_pictures(const std::map<std::string, Dataset>& splits, const fs::path& folder,
                            const std::string& recipe, int workers, std::ostream& err) {
  DatasetCheck check;
  Note note(folder / ".checked", recipe);
  std::vector<std::pair<const Sample*, const Dataset*>> left;
  for (const auto& [name, dataset] : splits) {
    for (const Sample& sample : dataset.samples) {
      ++check.pictures;
      if (note.has(state_of(sample))) {
        ++check.checked_before;
      } else {
        left.emplace_back(&sample, &dataset);
      }
    }
  }
  if (check.checked_before > 0) err << check.checked_before << " pictures were checked before" << std::endl;

  const StopSignal stop;
  Progress progress(err, check.checked_before, check.pictures);
  const auto count = static_cast<int64_t>(left.size());
  Pipeline<Finding> findings(count, workers, 4 * int64_t{workers}, [&](int64_t i) {
    const auto& [sample, dataset] = left[static_cast<std::size_t>(i)];
    const std::string state = state_of(*sample);  // before it is read
    return Finding{state, problem_of(*sample, dataset->classes)};
  });
  for (int64_t i = 0; i < count; ++i) {
    const Finding finding = findings.next();
    if (finding.problem.empty()) {
      note.add(finding.state);
    } else {
      check.problems.push_back(finding.problem);
    }
    progress.show(check.checked_before + i + 1,
                  "pictures checked, " + std::to_string(check.problems.size()) + " with problems");
    if (stop.received() != 0) {
      throw Stopped(stop.received(),
                    "stopped by signal " + std::to_string(stop.received()) + "; the same command goes on from here");
    }
  }
  if (check.problems.empty()) note.remove();
  return check;
}

std::vector<std::string> shared_pictures(const Dataset& train, const Dataset& scored, const std::string& scored_name) {
  std::set<fs::path> trained;
  for (const Sample& sample : train.samples) trained.insert(sample.image);
  std::vector<fs::path> shared;
  for (const Sample& sample : scored.samples) {
    if (trained.count(sample.image) > 0) shared.push_back(sample.image);
  }
  if (shared.empty()) return {};
  return {shared.front().string() + ": expected pictures in one split, found this one" +
          (shared.size() > 1 ? " and " + std::to_string(shared.size() - 1) + " others" : "") +
          " both in train and in " + scored_name + ": one of the lists is wrong"};
}

std::string extra_labels_line(const SplitPlaces& places, const fs::path& root, const Dataset& dataset) {
  if (places.labels.empty() || !places.list.empty()) return "";
  std::set<fs::path> wanted;
  for (const Sample& sample : dataset.samples) wanted.insert(sample.label.value());
  const std::string& ending = places.label_ending;
  int64_t count = 0;
  fs::path first;
  for (const auto& entry : fs::recursive_directory_iterator(root / places.labels)) {
    const std::string name = entry.path().filename().string();
    if (name.front() == '.' || name.size() < ending.size() || wanted.count(entry.path()) > 0) continue;
    if (name.compare(name.size() - ending.size(), ending.size(), ending) != 0) continue;
    ++count;
    if (first.empty() || entry.path() < first) first = entry.path();
  }
  if (count == 0) return "";
  return std::to_string(count) + (count == 1 ? " label map" : " label maps") + " in " +
         (root / places.labels).string() + (count == 1 ? " belongs" : " belong") + " to no picture, such as " +
         first.filename().string() + "; left out\n";
}

}  // namespace smooseg::app
