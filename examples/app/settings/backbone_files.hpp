#pragma once

// Where commands that use a model find what a model file does not hold of its backbone.

#include <CLI/App.hpp>
#include <string>

namespace smooseg::app {

struct BackboneFiles {
  std::string module;        ///< of a model with the backbone "exported"
  std::string features_dir;  ///< of one with the backbone "features"
};

inline void add_features_dir(CLI::App& command, std::string& folder) {
  command
      .add_option("--features-dir", folder, "with the backbone features: folder with one safetensors file a picture")
      ->type_name("DIR");
}

inline void add_options(CLI::App& command, BackboneFiles& files) {
  command
      .add_option("--weights", files.module,
                  "of a model whose backbone was exported from Python: the module that it was trained with")
      ->type_name("FILE");
  add_features_dir(command, files.features_dir);
}

}  // namespace smooseg::app
