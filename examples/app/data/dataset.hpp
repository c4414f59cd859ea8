#pragma once

// Folders of pictures, with labels or without:
// - what `smooseg prepare` made of a published data set (dataset.json), which is read where it is;
// - images/{train,test}/**; with labels also labels/{train,test}/** (the same names, ending in .png, .tif or .tiff) and
//   classes.json, which may name other folders;
// - any folder: all the pictures in it and below, without labels, whatever the split.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/classes.hpp"
#include "data/image_file.hpp"
#include "data/layouts.hpp"
#include "data/transforms.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

/// One picture of a data set.
struct Sample {
  std::string name;  ///< the path below the split's folder without its ending, such as "aachen/0001"
  std::filesystem::path image;
  std::optional<std::filesystem::path> label;
};

/// A picture and its label map in memory.
struct LabelledImage {
  Tensor pixels;                ///< (H,W,3) uint8, RGB
  std::optional<Tensor> label;  ///< (H,W) int64: 0..K-1, or -1 where ignored
};

/// The pictures of one split, sorted by name; either all of them have labels or none has.
struct Dataset {
  std::vector<Sample> samples;        ///< at least one
  std::optional<ClassTable> classes;  ///< always there where there are labels

  /// Pictures that are left out because their format is not read: how many of each extension, such as ".heic".
  std::map<std::string, int64_t> skipped = {};

  std::string split = {};  ///< "train", "test", ...; empty where the folder has no splits

  bool labelled() const { return samples.front().label.has_value(); }
};

/// All the pictures in and below a folder, whatever its layout, without labels. Files count as pictures by their ending
/// (`picture_endings`, in any case); hidden ones are skipped, and links to folders are not followed.
/// @throws std::runtime_error "PATH: expected ..., found ..." where there is no such folder, or no picture in it.
Dataset list_pictures(const std::filesystem::path& folder);

/// Which label maps of a data set are wanted.
enum class Labels { kAll, kNone };

/// Lists a split (such as "train" or "test") without reading the pictures.
/// @throws std::runtime_error "PATH: expected ..., found ..." for missing and empty folders, a split that is not there,
///   a folder of data sets, a published data set that was not prepared; and, where labels are wanted, a picture without
///   label where labels/SPLIT exists, labels without classes.json.
Dataset open_dataset(const std::filesystem::path& root, const std::string& split, Labels wanted = Labels::kAll);

/// The split of a data set that is scored unless another one is named: that of the literature, or "test".
std::string scored_split(const std::filesystem::path& root);

/// "cityscapes", "cocostuff 10k": the data set that was prepared in this folder; "" if none was.
std::string dataset_name(const std::filesystem::path& root);

/// Lists a split of a form of a data set, with names as in its list, or those of the pictures without their ending.
/// @throws std::runtime_error as `open_dataset`, and for a list that names pictures twice or such as are not there.
Dataset list_split(const Variant& variant, const std::filesystem::path& root, const std::string& split,
                   Labels wanted = Labels::kAll);

/// "12 pictures are left out: 10 .gif, 2 .heic (only .jpg, .jpeg, .png, ... are read)", and a line's end; "" if none is.
std::string skipped_line(const Dataset& dataset);

/// @param height, width of the sample's picture.
/// @throws std::runtime_error where its label map has another size.
void check_label_size(const Sample& sample, const LabelRows& label, int64_t height, int64_t width);

/// The label map of a sample that has one, its values checked against the classes.
/// @return (H,W) int64: 0..K-1, or -1 for what `classes` leaves out.
/// @throws std::runtime_error as `read_label_map`.
Tensor load_label(const Sample& sample, const ClassTable& classes);

/// Picture and label map, of one size, after one transform.
/// @param classes needed for samples with labels only.
/// @throws std::runtime_error as `read_transformed` and `open_label_map`, and where the sizes differ.
LabelledImage load_sample(const Sample& sample, const std::optional<ClassTable>& classes,
                          const Transform& transform = {});

}  // namespace smooseg::app
