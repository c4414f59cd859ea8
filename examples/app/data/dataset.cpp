#include "data/dataset.hpp"

#include <c10/util/StringUtil.h>
#include <torch/types.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "data/codec.hpp"
#include "data/label_map.hpp"
#include "data/prepared.hpp"
#include "smooseg/detail/check.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;
using codec::fail;

bool is_hidden(const fs::path& path) {
  return path.filename().string().front() == '.';
}

/// In small letters, such as ".jpg".
std::string extension_of(const fs::path& path) {
  std::string extension = path.extension().string();
  for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return extension;
}

bool is_picture(const std::string& extension) {
  const auto& endings = picture_endings();
  return std::find(endings.begin(), endings.end(), extension) != endings.end();
}

/// Whether this is a format of pictures that are not read.
bool is_other_format(const std::string& extension) {
  static const std::set<std::string> formats{".arw",  ".avif", ".bmp",  ".cr2", ".cr3", ".dng",  ".gif",
                                             ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".nef",  ".pbm",
                                             ".pgm",  ".pnm",  ".ppm",  ".tga", ".tif", ".tiff", ".webp"};
  return formats.count(extension) > 0;
}

/// "train, val", the folders in a folder.
std::string folders_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_directory() && !is_hidden(entry.path())) names.insert(entry.path().filename().string());
  }
  return names.empty() ? "no folder" : c10::Join(", ", names);
}

/// Refuses a folder of data sets, whose label maps would count as pictures.
void check_no_dataset_below(const fs::path& root) {
  if (!fs::is_directory(root)) return;
  for (const auto& entry : fs::directory_iterator(root)) {
    if (!fs::is_directory(entry.path() / "images") || !fs::is_directory(entry.path() / "labels")) continue;
    fail(root, "a data set or a folder of pictures",
         "a folder with the data set " + entry.path().string() + " in it: name that one");
  }
}

/// Refuses a data set as it is published, among whose pictures would be its label maps.
void check_is_prepared(const fs::path& root) {
  const Likeness likeness = what_is(root);
  if (likeness.layout == nullptr) return;
  const std::string variant = likeness.variant->name.empty() ? "" : " --variant " + likeness.variant->name;
  fail(root, "a data set that was prepared, or a folder of pictures",
       likeness.layout->title + ": run 'smooseg prepare " + likeness.layout->name + variant + " --data " +
           root.string() + " --out DIR' once and give that folder");
}

/// The folder that holds the pictures of the split.
fs::path picture_folder(const fs::path& root, const std::string& split) {
  if (split.empty()) fail(root, "the name of a split, such as train or test", "an empty one");
  if (!fs::is_directory(root / "images")) {
    check_no_dataset_below(root);
    return root;
  }
  const fs::path folder = root / "images" / split;
  if (!fs::is_directory(folder))
    fail(folder, "this folder with the pictures of '" + split + "'",
         folders_in(root / "images") + " in " + (root / "images").string());
  return folder;
}

/// "10 .webp, 2 .tif"
std::string counts_text(const std::map<std::string, int64_t>& skipped) {
  std::vector<std::string> words;
  for (const auto& [extension, count] : skipped) words.push_back(std::to_string(count) + " " + extension);
  return c10::Join(", ", words);
}

/// The names in a list, one a line.
std::vector<std::string> names_in(const fs::path& list) {
  std::ifstream file(list);
  if (!file) fail(list, "a list of pictures, a name a line", "no readable file");
  std::vector<std::string> names;
  std::set<std::string> different;
  for (std::string line; std::getline(file, line);) {
    const auto end = line.find_last_not_of(" \t\r");
    line.erase(end == std::string::npos ? 0 : end + 1);
    if (line.empty()) continue;
    if (!different.insert(line).second) fail(list, "each picture once", "'" + line + "' more than once");
    names.push_back(line);
  }
  if (names.empty()) fail(list, "a list of pictures, a name a line", "none");
  return names;
}

/// Keeps those pictures that a list names.
void select(std::vector<Sample>& samples, const fs::path& list, const fs::path& folder) {
  std::map<std::string, Sample> by_name;
  for (Sample& sample : samples) by_name.emplace(sample.name, std::move(sample));
  samples.clear();
  std::vector<std::string> missing;
  const std::vector<std::string> names = names_in(list);
  for (const std::string& name : names) {
    auto at = by_name.find(name);
    if (at == by_name.end()) at = by_name.find(fs::path(name).replace_extension().generic_string());
    if (at == by_name.end()) {
      missing.push_back(name);
    } else {
      samples.push_back(at->second);
    }
  }
  if (!missing.empty()) {
    fail(list, "names of pictures in " + folder.string(),
         std::to_string(missing.size()) + " of " + std::to_string(names.size()) + " that are not there, such as '" +
             missing.front() + "': the list is of another data set, or pictures are missing");
  }
  std::sort(samples.begin(), samples.end(), [](const Sample& a, const Sample& b) { return a.name < b.name; });
}

/// Gives each picture its label map. @param labels the folder. @param endings of a label map after the picture's name, of
/// which the first that is there counts.
void add_labels(std::vector<Sample>& samples, const fs::path& labels, const std::vector<std::string>& endings) {
  std::vector<const Sample*> missing;
  for (Sample& sample : samples) {
    const auto label = [&](const std::string& ending) { return labels / (sample.name + ending); };
    const auto found = std::find_if(endings.begin(), endings.end(),
                                    [&](const std::string& ending) { return fs::is_regular_file(label(ending)); });
    sample.label = label(found == endings.end() ? endings.front() : *found);
    if (found == endings.end()) missing.push_back(&sample);
  }
  if (missing.empty()) return;
  const auto others = missing.size() - 1;
  fail(*missing.front()->label,
       "the label map of " + missing.front()->image.string() +
           (others == 0   ? ""
            : others == 1 ? " (and that of 1 other picture)"
                          : " (and those of " + std::to_string(others) + " other pictures)"),
       "no file");
}

/// The files in and below a folder whose names end so, hidden ones apart.
std::vector<Sample> files_ending(const fs::path& folder, const std::string& ending) {
  std::vector<Sample> samples;
  if (!fs::is_directory(folder)) fail(folder, "a folder of pictures", fs::exists(folder) ? "a file" : "nothing");
  for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::end(entry); ++entry) {
    const bool hidden = is_hidden(entry->path());
    if (hidden && entry->is_directory()) entry.disable_recursion_pending();
    if (hidden || !entry->is_regular_file()) continue;
    const std::string path = entry->path().lexically_relative(folder).generic_string();
    if (path.size() <= ending.size() || path.compare(path.size() - ending.size(), ending.size(), ending) != 0) continue;
    samples.push_back({path.substr(0, path.size() - ending.size()), entry->path(), {}});
  }
  if (samples.empty()) fail(folder, "pictures named *" + ending, "none");
  std::sort(samples.begin(), samples.end(), [](const Sample& a, const Sample& b) { return a.name < b.name; });
  return samples;
}

/// Whether classes.json names the folders of splits.
bool names_splits(const fs::path& root) {
  std::ifstream file(root / "classes.json");
  if (!file) return false;
  const auto json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.contains("splits");
}

Variant variant_of(const Prepared& prepared) {
  if (prepared.layout == kFolderLayout) return folder_variant(prepared.root);
  const Layout& layout = find_layout(prepared.layout);
  return find_variant(layout, prepared.variant);
}

}  // namespace

Dataset list_pictures(const fs::path& folder) {
  if (!fs::exists(folder)) fail(folder, "a folder of pictures", "nothing");
  if (!fs::is_directory(folder)) fail(folder, "a folder of pictures", "a file");
  Dataset dataset;
  std::vector<fs::path> pictures;
  for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::end(entry); ++entry) {
    const bool hidden = is_hidden(entry->path());
    if (hidden && entry->is_directory()) entry.disable_recursion_pending();
    if (hidden || !entry->is_regular_file()) continue;
    const std::string extension = extension_of(entry->path());
    if (is_picture(extension)) {
      pictures.push_back(entry->path().lexically_relative(folder));
    } else if (is_other_format(extension)) {
      ++dataset.skipped[extension];
    }
  }
  if (pictures.empty()) {
    fail(folder, "pictures (" + c10::Join(", ", picture_endings()) + ")",
         dataset.skipped.empty() ? "none" : counts_text(dataset.skipped));
  }
  std::sort(pictures.begin(), pictures.end());
  for (const fs::path& picture : pictures) {
    dataset.samples.push_back({fs::path(picture).replace_extension().generic_string(), folder / picture, {}});
  }
  return dataset;
}

std::string skipped_line(const Dataset& dataset) {
  int64_t count = 0;
  for (const auto& item : dataset.skipped) count += item.second;
  if (count == 0) return "";
  return std::to_string(count) + (count == 1 ? " picture is" : " pictures are") +
         " left out: " + counts_text(dataset.skipped) + " (only " + c10::Join(", ", picture_endings()) + " are read)\n";
}

Dataset list_split(const Variant& variant, const fs::path& root, const std::string& split, Labels wanted) {
  const SplitPlaces& places = find_split(variant, split, root);
  const fs::path folder = root / places.images;
  Dataset dataset;
  if (places.image_ending.empty()) {
    dataset = list_pictures(folder);
  } else {
    dataset.samples = files_ending(folder, places.image_ending);
  }
  if (!places.list.empty()) select(dataset.samples, root / places.list, folder);
  if (variant.classes) dataset.classes = variant.classes(root);
  if (wanted == Labels::kNone || places.labels.empty()) return dataset;
  add_labels(dataset.samples, root / places.labels, {places.label_ending});
  if (!dataset.classes) fail(root / "classes.json", "the names of the classes that label maps count", "no file");
  return dataset;
}

Dataset open_dataset(const fs::path& root, const std::string& split, Labels wanted) {
  if (const auto prepared = read_prepared(root)) {
    const Variant variant = variant_of(*prepared);
    if (prepared->layout != kFolderLayout) check_is(prepared->root, find_layout(prepared->layout), variant);
    return list_split(variant, prepared->root, split, wanted);
  }
  check_is_prepared(root);
  if (names_splits(root)) return list_split(folder_variant(root), root, split, wanted);

  const fs::path folder = picture_folder(root, split);
  const bool has_layout = folder != root;
  const fs::path labels = root / "labels" / split;
  const bool labelled = wanted == Labels::kAll && has_layout && fs::is_directory(labels);
  Dataset dataset = list_pictures(folder);
  if (has_layout) dataset.split = split;
  if (labelled) add_labels(dataset.samples, labels, {".png", ".tif", ".tiff"});
  const fs::path classes = root / "classes.json";
  if (has_layout && fs::exists(classes)) dataset.classes = read_classes(classes);
  if (labelled && !dataset.classes)
    fail(classes, "the names of the classes that the labels in " + labels.string() + " count", "no file");
  return dataset;
}

std::string scored_split(const fs::path& root) {
  if (const auto prepared = read_prepared(root)) return variant_of(*prepared).scored;
  return names_splits(root) ? folder_variant(root).scored : "test";
}

std::string dataset_name(const fs::path& root) {
  const auto prepared = read_prepared(root);
  if (!prepared) return "";
  return prepared->layout + (prepared->variant.empty() ? "" : " " + prepared->variant);
}

void check_label_size(const Sample& sample, const LabelRows& label, int64_t height, int64_t width) {
  if (label.height() == height && label.width() == width) return;
  fail(sample.label.value(), "the size of " + sample.image.string() + ", " + codec::size_text(height, width),
       codec::size_text(label.height(), label.width()));
}

Tensor load_label(const Sample& sample, const ClassTable& classes) {
  return read_label_map(sample.label.value(), classes);
}

LabelledImage load_sample(const Sample& sample, const std::optional<ClassTable>& classes, const Transform& transform) {
  const TransformedImage image = read_transformed(sample.image, {transform});
  LabelledImage loaded{image.pixels.front(), {}};
  if (!sample.label) return loaded;
  TORCH_CHECK(classes, "load_sample: expected the classes for a sample with a label map");
  const auto label = open_label_map(*sample.label, *classes);
  check_label_size(sample, *label, image.height, image.width);
  loaded.label = read_transformed(*label, transform);
  return loaded;
}

}  // namespace smooseg::app
