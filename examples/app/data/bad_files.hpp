#pragma once

// One bad file among many: all of them are found and named, not the first alone.

#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "data/crops.hpp"
#include "data/dataset.hpp"

namespace smooseg::app {

/// Reads sample i of a data set as it will be used, and throws what is wrong with it.
using SampleCheck = std::function<void(int64_t)>;

/// Reads the training crops of each picture.
SampleCheck check_of(Crops crops);

/// Reads picture and label map of each sample of a data set, which must outlive the check.
SampleCheck check_of(const Dataset& dataset, const Transform& transform);

/// "3 of 40 pictures cannot be used:" and a line for each problem.
std::string bad_files_text(const std::vector<std::string>& problems, std::size_t count);

/// Leaves out the samples that the check refuses, which takes a pass over all of them; `err` gets their list.
/// @throws std::runtime_error with the list where none is left.
void leave_out_bad(Dataset& dataset, const SampleCheck& check, int threads, std::ostream& err);

/// Runs `work`, which uses all samples. Where it throws because of one of their files, the others are looked at, too.
/// @throws std::runtime_error with the list of all bad ones; else what `work` threw.
void naming_all_bad(const Dataset& dataset, const SampleCheck& check, int threads, const std::function<void()>& work);

}  // namespace smooseg::app
