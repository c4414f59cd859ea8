#pragma once

// The note that `smooseg prepare` leaves of a data set that it checked: which it is, and where.

#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace smooseg::app {

/// The name of the layout that classes.json describes, beside those of `layouts`.
inline constexpr auto kFolderLayout = "folder";

struct Prepared {
  std::string layout, variant;
  std::filesystem::path root;                    ///< where the data set is
  std::map<std::string, int64_t> pictures = {};  ///< that were checked, of each split
};

/// Reads FOLDER/dataset.json; nothing where there is no such file.
/// @throws std::runtime_error naming the file where it is not what `write_prepared` writes.
std::optional<Prepared> read_prepared(const std::filesystem::path& folder);

/// Writes FOLDER/dataset.json, whole or not at all.
void write_prepared(const std::filesystem::path& folder, const Prepared& prepared);

}  // namespace smooseg::app
