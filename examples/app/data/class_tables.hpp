#pragma once

// The classes of published data sets: names, colours, and the label values that are merged into each or left out.

#include <cstdint>
#include <filesystem>

#include "data/classes.hpp"

namespace smooseg::app {

/// COCO-Stuff's 182 labels as the 12 things and 15 kinds of stuff of IIC, PiCIE and STEGO.
/// @param first_label the value of the first label: 0 in the annotations of 164k (255: unlabelled), 1 in those of 10k (0:
///   unlabelled).
ClassTable cocostuff_classes(int64_t first_label);

/// The 27 classes of Cityscapes' labels 7 to 33; 0 to 6 are left out, and so is the licence plate.
ClassTable cityscapes_classes();

/// Potsdam's six labels (0: road, 1: building, 2: low vegetation, 3: tree, 4: car, 5: clutter) merged to three classes.
ClassTable potsdam_classes();

/// The six labels themselves, as the published tiles colour them.
ClassTable potsdam_tile_classes();

/// The 11 classes that the SegNet tutorial made common.
ClassTable camvid_classes();

/// The 20 classes of Pascal VOC 2012 and the background.
ClassTable voc_classes();

/// ADE20K's 150 classes (ADEChallengeData2016), named by the data set's own objectInfo150.txt.
/// @throws std::runtime_error naming that file where it is not there or does not list 150 classes.
ClassTable ade20k_classes(const std::filesystem::path& root);

}  // namespace smooseg::app
