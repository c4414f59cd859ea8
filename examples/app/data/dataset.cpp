#include "data/dataset.hpp"

#include <torch/types.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <numeric>

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

bool is_picture(const fs::path& path) {
  std::string ending = path.extension().string();
  for (char& c : ending) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return ending == ".jpg" || ending == ".jpeg" || ending == ".png";
}

void check_folder(const fs::path& path) {
  if (!fs::exists(path)) fail(path, "a folder of pictures", "nothing");
  if (!fs::is_directory(path)) fail(path, "a folder of pictures", "a file");
}

/// All the pictures in and below a folder, relative to it, sorted.
std::vector<fs::path> list_pictures(const fs::path& folder) {
  std::vector<fs::path> pictures;
  for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::end(entry); ++entry) {
    const bool hidden = is_hidden(entry->path());
    if (hidden && entry->is_directory()) entry.disable_recursion_pending();
    if (hidden || !is_picture(entry->path()) || !entry->is_regular_file()) continue;
    pictures.push_back(entry->path().lexically_relative(folder));
  }
  std::sort(pictures.begin(), pictures.end());
  return pictures;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

/// "train, val", the folders in a folder.
std::string folders_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_directory() && !is_hidden(entry.path())) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names.empty() ? "no folder" : joined(names);
}

/// The folder that holds the pictures of the split.
fs::path picture_folder(const fs::path& root, const std::string& split) {
  check_folder(root);
  if (!fs::is_directory(root / "images")) return root;
  const fs::path folder = root / "images" / split;
  if (!fs::is_directory(folder))
    fail(folder, "this folder with the pictures of '" + split + "'",
         folders_in(root / "images") + " in " + (root / "images").string());
  return folder;
}

std::string size_text(const Tensor& picture) {
  return std::to_string(picture.size(1)) + " x " + std::to_string(picture.size(0)) + " pixels";
}

std::string ignored_values(const ClassTable& classes) {
  std::vector<std::string> words;
  for (const int64_t value : classes.ignore) words.push_back(std::to_string(value));
  return words.empty() ? "none" : joined(words);
}

}  // namespace

std::vector<Sample> list_samples(const fs::path& folder) {
  check_folder(folder);
  std::vector<Sample> samples;
  for (const fs::path& picture : list_pictures(folder)) {
    fs::path name = picture;
    name.replace_extension();
    samples.push_back({name.generic_string(), folder / picture, {}});
  }
  if (samples.empty()) fail(folder, "pictures (.jpg, .jpeg, .png)", "none");
  return samples;
}

Dataset open_dataset(const fs::path& root, const std::string& split) {
  const fs::path folder = picture_folder(root, split);
  const bool has_layout = folder != root;
  const fs::path labels = root / "labels" / split;
  const bool labelled = has_layout && fs::is_directory(labels);

  Dataset dataset{root, split, list_samples(folder), {}};
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
  const IndexRaster values = read_indices(path);
  std::vector<int64_t> class_of(size_t{1} << 16, kUnknown);
  const auto known = std::min(classes.names.size(), class_of.size());
  std::iota(class_of.begin(), class_of.begin() + static_cast<std::ptrdiff_t>(known), 0);
  for (const int64_t value : classes.ignore) {
    if (value >= 0 && value < static_cast<int64_t>(class_of.size())) class_of[static_cast<size_t>(value)] = kIgnored;
  }

  const Tensor label = torch::empty({values.height, values.width}, torch::kInt64);
  auto* const target = label.data_ptr<int64_t>();
  for (size_t p = 0; p < values.values.size(); ++p) {
    target[p] = class_of[values.values[p]];
    if (target[p] == kUnknown) {
      fail(path,
           "label values 0.." + std::to_string(classes.size() - 1) + " for " + std::to_string(classes.size()) +
               " classes, or one to ignore (" + ignored_values(classes) + ")",
           "the value " + std::to_string(values.values[p]));
    }
  }
  return label;
}

LabelledImage load_sample(const Sample& sample, const std::optional<ClassTable>& classes) {
  LabelledImage loaded{read_image(sample.image), {}};
  if (!sample.label) return loaded;
  TORCH_CHECK(classes, "load_sample: expected the classes for a sample with a label map");
  loaded.label = load_label(sample, *classes);
  if (loaded.label->size(0) != loaded.image.size(0) || loaded.label->size(1) != loaded.image.size(1)) {
    fail(*sample.label, "the size of " + sample.image.string() + ", " + size_text(loaded.image),
         size_text(*loaded.label));
  }
  return loaded;
}

}  // namespace smooseg::app
