#pragma once

// Where the published weights of backbones are kept on this machine, and how they get there.

#include <filesystem>
#include <optional>
#include <ostream>
#include <string>

#include "smooseg/backbone/registry.hpp"

namespace smooseg::app {

/// Where downloaded weights are kept: the folder SMOOSEG_WEIGHTS names, else smooseg/weights in XDG_CACHE_HOME, else
/// ~/.cache/smooseg/weights.
std::filesystem::path weights_folder();

/// Where a backbone's weights are fetched from, or asked for. SMOOSEG_WEIGHTS_URL names a mirror with the publisher's
/// paths of what anybody may fetch.
std::string weights_url(const backbone::PretrainedWeights& weights);

/// The file with a backbone's weights: in `folder`, else where Python's torch.hub keeps its downloads
/// (TORCH_HOME/hub/checkpoints).
/// @throws std::runtime_error where the one in `folder` is not as large as the published one.
std::optional<std::filesystem::path> find_weights(const backbone::PretrainedWeights& weights,
                                                  const std::filesystem::path& folder);

/// What to fetch or whom to ask, and where to put it, in a few lines.
std::string how_to_get(const backbone::RegistryEntry& entry, const std::filesystem::path& folder);

/// Fetches a backbone's weights with the program curl, unless they are there already. The file gets its name only when
/// its size and SHA-256 are those published or, where none are, its tensors have the names and shapes of the
/// backbone's; a download that was cut off goes on where it stopped. Of files that their publisher must be asked for,
/// the one that is there is checked.
/// @param err gets a line on what was checked.
/// @return its path.
/// @throws std::runtime_error saying why not, and `how_to_get`.
std::filesystem::path download_weights(const backbone::RegistryEntry& entry, const std::filesystem::path& folder,
                                       std::ostream& err);

/// The weights to load: `given` if not empty, else what `find_weights` finds.
/// @throws std::runtime_error where there are none, saying how to get them.
std::string weights_for(const backbone::RegistryEntry& entry, const std::string& given);

}  // namespace smooseg::app
