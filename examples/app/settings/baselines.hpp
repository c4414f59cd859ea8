#pragma once

// How the methods learn that SmooSeg is compared with, for `compare`.

#include <CLI/App.hpp>
#include <cstdint>

#include "settings/options.hpp"
#include "smooseg/baselines/linear_probe.hpp"
#include "smooseg/baselines/stego.hpp"

namespace smooseg::app {

/// The defaults are the library's and, where it has none, those of STEGO's protocol.
struct BaselineSettings {
  baselines::StegoOptions stego;
  int64_t stego_patches = 121;
  int64_t stego_neighbors = 7;
  double stego_rate = 5e-4;
  double linear_rate = baselines::LinearProbeOptions(1, 2).learning_rate();
};

/// Adds an option for each setting.
inline void add_options(CLI::App& command, BaselineSettings& s) {
  const auto add = [&](const char* name, auto& value, const char* description) {
    return command.add_option(name, value, description)->capture_default_str()->group("Baselines");
  };
  const auto weight = [&](const char* name, double& value, const char* description) {
    add(name, value, description)->check(CLI::NonNegativeNumber);
  };
  weight("--stego-self-weight", s.stego.self_weight(), "lambda of the pairs of an image and itself");
  add("--stego-self-shift", s.stego.self_shift(), "closeness above which these pairs are pulled together");
  weight("--stego-neighbor-weight", s.stego.neighbor_weight(), "lambda of an image and one of its nearest neighbours");
  add("--stego-neighbor-shift", s.stego.neighbor_shift(), "closeness above which these pairs are pulled together");
  weight("--stego-random-weight", s.stego.random_weight(), "lambda of an image and a random other one");
  add("--stego-random-shift", s.stego.random_shift(), "closeness above which these pairs are pulled together");
  add("--stego-patches", s.stego_patches, "patches of each crop that a step of STEGO draws")->check(at_least(1));
  add("--stego-neighbors", s.stego_neighbors, "nearest neighbours of each crop, one of which a step draws")
      ->check(at_least(1));
  add("--stego-rate", s.stego_rate, "Adam's learning rate for STEGO's projector")->check(CLI::PositiveNumber);
  add("--linear-rate", s.linear_rate, "Adam's learning rate for the linear probe")->check(CLI::PositiveNumber);
}

}  // namespace smooseg::app
