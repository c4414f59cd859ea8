#pragma once

// From words on a command line to a command that runs. Every command takes `--config FILE`, a TOML file whose section
// of the command's name holds any of its options. Of several files a later one wins over an earlier one, and what stands
// on the command line over all.

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "support/processes.hpp"

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
  std::string also_reads = {};  ///< command whose section of a TOML file counts too, where it names options of this one
  bool is_shared = false;       ///< whether several processes may share its work
};

/// A command with settings of its own, whose options an `add_options(CLI::App&, Settings&)` beside them adds.
template <class Settings>
Command make_command(const std::string& name, const std::string& description,
                     void (*execute)(const Settings&, const Console&)) {
  const auto settings = std::make_shared<Settings>();
  return {name, description, [settings](CLI::App& app) { add_options(app, *settings); },
          [settings, execute](const Console& console) { execute(*settings, console); }};
}

/// Likewise one whose work several processes share. Only the first of them prints what `execute` prints.
template <class Settings>
Command make_shared_command(const std::string& name, const std::string& description,
                            void (*execute)(const Settings&, const Console&, const std::shared_ptr<Processes>&)) {
  const auto settings = std::make_shared<Settings>();
  const auto run = [settings, execute](const Console& console) {
    together([&](const std::shared_ptr<Processes>& processes) {
      std::ostream nowhere(nullptr);
      execute(*settings, processes->is_first() ? console : Console{nowhere, nowhere}, processes);
    });
  };
  return {name, description, [settings](CLI::App& app) { add_options(app, *settings); }, run, {}, true};
}

Command train_command();
Command evaluate_command();
Command compare_command();
Command segment_command();
Command prepare_command();
Command weights_command();
Command convert_command();
Command report_command();
Command sweep_command();
Command tune_command();
Command plot_command();
Command doctor_command();

/// Runs the program. @param arguments without the program's own name.
/// @return 0 if all went well, 1 if the command failed, 2 if the arguments are wrong, 128 + N if it stopped for signal N;
///   why is printed to `err`.
int run(const std::vector<std::string>& arguments, std::ostream& out, std::ostream& err);

}  // namespace smooseg::app
