#pragma once

// What `report` and `plot` share: which pictures are shown, and the models of runs.

#include <CLI/App.hpp>
#include <optional>
#include <ostream>

#include "model/model.hpp"
#include "report/gallery.hpp"
#include "report/run_folder.hpp"
#include "settings/runtime.hpp"

namespace smooseg::app {

/// Adds the options that say which pictures are shown.
void add_options(CLI::App& app, GalleryOptions& options);

/// A run's model as it was evaluated; none, and a line to `err` that says so, where its file does not hold its backbone.
std::optional<LoadedModel> model_of(const RunFolder& run, const RuntimeSettings& runtime, torch::Device device,
                                    std::ostream& err);

}  // namespace smooseg::app
