#pragma once

// Data sets as people have them on disk, looked at picture by picture before anything is trained on them.

#include <cstdint>
#include <filesystem>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "data/dataset.hpp"

namespace smooseg::app {

/// What is wrong with a data set.
struct DatasetCheck {
  int64_t pictures = 0;               ///< all of them
  int64_t checked_before = 0;         ///< of these, by an earlier call that did not come to its end
  std::vector<std::string> problems;  ///< a line each: "PATH: expected ..., found ..."
};

/// Reads every picture and label map: whether both are whole and of one size, and each label is a class or to be ignored.
/// @param splits by name, listed.
/// @param folder where a note is kept of the pictures that are in order, so that a later call skips them unless the files
///   have changed since; it is removed at the end if there was no problem.
/// @param recipe what the meaning of labels depends on; another one makes the note void.
/// @param workers threads. @param err gets the progress.
/// @throws Stopped for a signal; the note is then kept.
DatasetCheck check_pictures(const std::map<std::string, Dataset>& splits, const std::filesystem::path& folder,
                            const std::string& recipe, int workers, std::ostream& err);

/// Pictures that are in two splits of which one is trained on and the other scored, which a wrong list can do: a line, or
/// none.
std::vector<std::string> shared_pictures(const Dataset& train, const Dataset& scored, const std::string& scored_name);

/// "3 label maps in FOLDER belong to no picture, such as ...; they are left out", and a line's end; "" if none does.
/// Splits with a list are not looked at: others' label maps are in the same folder.
std::string extra_labels_line(const SplitPlaces& places, const std::filesystem::path& root, const Dataset& dataset);

}  // namespace smooseg::app
