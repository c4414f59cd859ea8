#pragma once

// Many runs of this program, several at a time, each a process of its own: what `sweep` and `compare` consist of.

#include <filesystem>
#include <string>
#include <vector>

#include "commands/command_line.hpp"

namespace smooseg::app {

/// One command of this program.
struct Run {
  std::string name;                    ///< different from those of other runs
  std::filesystem::path folder;        ///< its output goes to output.txt in it; made where it is not there
  std::vector<std::string> arguments;  ///< without the program's name; the command, which knows --threads, first
  std::filesystem::path result;        ///< the run is done where this exists
};

/// What a run is started with: its arguments, its share of the cores unless they say --threads, and for `train` --resume
/// unless they say --overwrite.
std::vector<std::string> arguments_of(const Run& run, int parallel);

/// Runs those that are not done, in their order, `parallel` at a time. The program is this very one, or the one that the
/// environment's SMOOSEG_PROGRAM names. The first failure stops the others, as does a signal to stop; what they have
/// done by then is kept, and another call goes on from there.
/// @param console its `err` gets a line for each run that ends.
/// @throws std::runtime_error for a run that fails, with its name and the last lines of its output; Stopped for a
///   signal; c10::Error for less than one at a time.
void run_all(const std::vector<Run>& runs, int parallel, const Console& console);

}  // namespace smooseg::app
