#pragma once

// Label maps as classes.

#include <filesystem>
#include <memory>

#include "data/classes.hpp"
#include "data/image_file.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

/// Opens a label map whose rows are classes: 0..K-1, or -1 where `classes` says to leave out.
/// @throws std::runtime_error for a file that cannot be read; `finish` for values or colours of the rows read that mean
///   nothing: which, and of how many pixels.
std::unique_ptr<LabelRows> open_label_map(const std::filesystem::path& path, const ClassTable& classes);

/// Reads a label map and turns what it stores, values or colours, into classes.
/// @return (H,W) int64: 0..K-1, or -1 where `classes` says to leave out.
/// @throws std::runtime_error for a file that cannot be read, and for values or colours that mean nothing: which, and of
///   how many pixels.
Tensor read_label_map(const std::filesystem::path& path, const ClassTable& classes);

}  // namespace smooseg::app
