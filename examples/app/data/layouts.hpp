#pragma once

// Where published data sets keep their pictures and label maps, as people have them on disk.

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/classes.hpp"

namespace smooseg::app {

/// Where the pictures of a split and their label maps are, below the data set's folder.
struct SplitPlaces {
  std::string name;                 ///< such as "train"
  std::filesystem::path images;     ///< a folder, and those in it
  std::filesystem::path labels;     ///< the folder of label maps of the same names; empty: there are none
  std::filesystem::path list = {};  ///< a file with the names of the pictures that count, one a line; empty: all
  std::string image_ending = {};    ///< what follows a picture's name; empty: that of any picture
  std::string label_ending = ".png";
};

/// One form of a data set.
struct Variant {
  std::string name;                 ///< empty where there is but one
  std::vector<SplitPlaces> splits;  ///< empty: it has to be cut first, from `folders`
  std::string scored;               ///< the split that the literature scores
  std::function<ClassTable(const std::filesystem::path& root)> classes;  ///< none where nothing tells them
  std::vector<std::filesystem::path> folders = {};                       ///< of a form that has to be cut
};

struct Layout {
  std::string name;               ///< such as "cityscapes"
  std::string title;              ///< such as "Cityscapes"
  std::string source;             ///< where to get it
  std::vector<Variant> variants;  ///< the first is the usual one
};

/// All published data sets that are known.
const std::vector<Layout>& layouts();

/// The layout of a name that `layouts` lists. @throws std::runtime_error for another name.
const Layout& find_layout(const std::string& name);

/// @param name empty: the first variant. @throws std::runtime_error listing the variants for an unknown name.
const Variant& find_variant(const Layout& layout, const std::string& name);

/// The places of `split`; empty: of the scored one. @throws std::runtime_error naming `root` and the splits there are.
const SplitPlaces& find_split(const Variant& variant, const std::string& split, const std::filesystem::path& root);

/// What a form of a data set needs and `root` lacks, one folder or list an entry.
std::vector<std::filesystem::path> missing_parts(const Variant& variant, const std::filesystem::path& root);

/// What `root` looks like: a layout and its variant, or nothing (nullptr).
struct Likeness {
  const Layout* layout = nullptr;
  const Variant* variant = nullptr;
};
Likeness what_is(const std::filesystem::path& root);

/// Refuses a folder that is not the data set of this name: what is missing, what it looks like instead, where to get it.
/// @throws std::runtime_error beginning with `root`.
void check_is(const std::filesystem::path& root, const Layout& layout, const Variant& variant);

/// A data set of one's own: any folders of pictures and label maps, as the key "splits" of classes.json names them:
///
///     {"classes": [...], "splits": {"train": {"images": "photos", "labels": "masks"}}}
///
/// each split with "images", and if need be "labels", "list", "image_ending" and "label_ending", as in `SplitPlaces`.
/// Where there is no such key, the folders in images/ are the splits, and those of the same names in labels/ their labels.
/// Scored is "test", or "val" where there is no such split.
/// @throws std::runtime_error naming the file and the key for what is no such description.
Variant folder_variant(const std::filesystem::path& root);

}  // namespace smooseg::app
