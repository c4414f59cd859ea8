#pragma once

// From words on a command line to a command that runs. Every command takes `--config FILE`, a TOML file whose section
// of the command's name holds any of its options; what stands on the command line wins.

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

namespace smooseg::app {

/// Where a command prints: results to `out`, progress and errors to `err`.
struct Console {
  std::ostream& out;
  std::ostream& err;
};

/// One of the program's commands.
struct Command {
  std::string name, description;
  std::function<void(CLI::App&)> add_options;
  std::function<void(const Console&)> execute;  ///< after all arguments were parsed and checked
};

/// Runs the program. @param arguments without the program's own name.
/// @return 0 if all went well, 1 if the command failed, 2 if the arguments are wrong; why is printed to `err`.
int run(const std::vector<std::string>& arguments, std::ostream& out, std::ostream& err);

}  // namespace smooseg::app
