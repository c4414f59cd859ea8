#include "data/dataset.hpp"

#include <c10/util/StringUtil.h>
#include <torch/types.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <numeric>
#include <set>
#include <utility>

#include "data/codec.hpp"
#include "data/image_file.hpp"
#include "smooseg/detail/check.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;
using codec::fail;

constexpr int64_t kIgnored = -1;
constexpr int64_t kUnknown = -2;

bool is_hidden(const fs::path& path) {
  return path.filename().string().front() == '.';
}

constexpr auto kRead = ".jpg, .jpeg, .png";

/// In small letters, such as ".jpg".
std::string extension_of(const fs::path& path) {
  std::string extension = path.extension().string();
  for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return extension;
}

bool is_picture(const std::string& extension) {
  return extension == ".jpg" || extension == ".jpeg" || extension == ".png";
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
    if (is_picture(extension)) pictures.push_back(entry->path().lexically_relative(folder));
    if (is_other_format(extension)) ++dataset.skipped[extension];
  }
  if (pictures.empty()) {
    fail(folder, std::string("pictures (") + kRead + ")",
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
         " left out: " + counts_text(dataset.skipped) + " (only " + kRead + " are read)\n";
}

Dataset open_dataset(const fs::path& root, const std::string& split, Labels wanted) {
  const fs::path folder = picture_folder(root, split);
  const bool has_layout = folder != root;
  const fs::path labels = root / "labels" / split;
  const bool labelled = wanted == Labels::kAll && has_layout && fs::is_directory(labels);

  Dataset dataset = list_pictures(folder);
  for (Sample& sample : dataset.samples) {
    if (!labelled) break;
    sample.label = labels / (sample.name + ".png");
    if (!fs::is_regular_file(*sample.label)) {
      fail(*sample.label, "the label map of " + sample.image.string(), "no file");
    }
  }

  const fs::path classes = root / "classes.json";
  if (has_layout && fs::exists(classes)) dataset.classes = read_classes(classes);
  if (labelled && !dataset.classes)
    fail(classes, "the names of the classes that the labels in " + labels.string() + " count", "no file");
  return dataset;
}

Tensor load_label(const Sample& sample, const ClassTable& classes) {
  const fs::path& path = sample.label.value();
  Tensor label = read_label(path);
  std::vector<int64_t> class_of(size_t{1} << 16, kUnknown);
  const auto known = std::min(classes.names.size(), class_of.size());
  std::iota(class_of.begin(), class_of.begin() + static_cast<std::ptrdiff_t>(known), 0);
  for (const int64_t value : classes.ignore) {
    if (value >= 0 && value < static_cast<int64_t>(class_of.size())) class_of[static_cast<size_t>(value)] = kIgnored;
  }

  auto* const values = label.data_ptr<int64_t>();
  for (int64_t p = 0; p < label.numel(); ++p) {
    const int64_t value = std::exchange(values[p], class_of[static_cast<size_t>(values[p])]);
    if (values[p] == kUnknown) {
      fail(path,
           "label values 0.." + std::to_string(classes.size() - 1) + " for " + std::to_string(classes.size()) +
               " classes, or one to ignore (" + (classes.ignore.empty() ? "none" : c10::Join(", ", classes.ignore)) +
               ")",
           "the value " + std::to_string(value));
    }
  }
  return label;
}

LabelledImage load_sample(const Sample& sample, const std::optional<ClassTable>& classes, const Transform& transform) {
  const TransformedImage image = read_transformed(sample.image, {transform});
  LabelledImage loaded{image.pixels.front(), {}};
  if (!sample.label) return loaded;
  TORCH_CHECK(classes, "load_sample: expected the classes for a sample with a label map");
  const Tensor label = load_label(sample, *classes);
  if (label.size(0) != image.height || label.size(1) != image.width) {
    fail(*sample.label, "the size of " + sample.image.string() + ", " + codec::size_text(image.height, image.width),
         codec::size_text(label.size(0), label.size(1)));
  }
  loaded.label = transformed(label, transform);
  return loaded;
}

}  // namespace smooseg::app
