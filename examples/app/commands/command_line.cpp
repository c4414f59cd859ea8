#include "commands/command_line.hpp"

#include <algorithm>

#include "settings/options.hpp"
#include "settings/toml_file.hpp"
#include "smooseg/version.hpp"
#include "support/error_text.hpp"
#include "support/stop_signal.hpp"

namespace smooseg::app {
namespace {

const CLI::App* find_command(const CLI::App& program, const std::string& name) {
  const auto found = program.get_subcommands([&](const CLI::App* command) { return command->get_name() == name; });
  return found.empty() ? nullptr : found.front();
}

bool is_key(const std::string& name, const CLI::App& command) {
  return name != "config" && name != "help" && command.get_option_no_throw("--" + name) != nullptr;
}

/// How many letters must be put in, left out or exchanged to make one word of another (Levenshtein, 1965).
std::size_t distance_of(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t before = row[0]++;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t changed = before + (a[i] == b[j] ? 0 : 1);
      before = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, before + 1});
    }
  }
  return row.back();
}

/// The key that was meant, where one is close, and all of them.
std::string known_keys(const std::string& unknown, const CLI::App& command) {
  constexpr std::size_t kClose = 2;
  std::string names, meant;
  std::size_t least = kClose + 1;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_lnames().empty() || !is_key(option->get_lnames().front(), command)) continue;
    const std::string& name = option->get_lnames().front();
    names += (names.empty() ? "" : ", ") + name;
    if (distance_of(unknown, name) >= least) continue;
    least = distance_of(unknown, name);
    meant = "; did you mean '" + name + "'?";
  }
  return meant + "; known keys: " + names;
}

/// The section of a TOML file that belongs to the command, as arguments; before it what it shares with `also_reads`.
std::vector<std::string> arguments_of_config(const CLI::App& program, const CLI::App& command,
                                             const std::string& also_reads, const std::string& path) {
  std::vector<std::string> arguments, shared;
  for (const TomlValue& value : read_toml(path)) {
    const std::string place = path + ", line " + std::to_string(value.line);
    if (find_command(program, value.section) == nullptr) {
      throw CLI::ConfigError(place + ": unknown section [" + value.section + "]: expected the name of a command");
    }
    const std::string argument = "--" + value.key + "=" + value.text;
    if (value.section == also_reads && is_key(value.key, command)) shared.push_back(argument);
    if (value.section != command.get_name()) continue;
    if (!is_key(value.key, command)) {
      throw CLI::ConfigError(place + ": unknown key '" + value.key + "' in [" + value.section + "]" +
                             known_keys(value.key, command));
    }
    arguments.push_back(argument);
  }
  arguments.insert(arguments.begin(), shared.begin(), shared.end());
  return arguments;
}

/// Puts the options of each `--config FILE`, in their order, before those of the command line, so that the latter win.
std::vector<std::string> with_config(const CLI::App& program, const std::vector<Command>& commands,
                                     std::vector<std::string> arguments) {
  if (arguments.empty() || arguments.front().empty()) return arguments;
  const CLI::App* command = find_command(program, arguments.front());
  if (command == nullptr && arguments.front().front() != '-') {
    throw CLI::ConfigError("unknown command '" + arguments.front() + "'; see 'smooseg --help'");
  }
  if (command == nullptr) return arguments;
  const auto is_this = [&](const Command& c) { return c.name == command->get_name(); };
  const std::string& also_reads = std::find_if(commands.begin(), commands.end(), is_this)->also_reads;
  const std::string flag = "--config";
  std::vector<std::string> found;
  for (std::size_t i = 1; i < arguments.size() && arguments[i] != "--"; ++i) {
    std::string path;
    if (arguments[i] == flag && i + 1 < arguments.size()) path = arguments[i + 1];
    if (arguments[i].compare(0, flag.size() + 1, flag + "=") == 0) path = arguments[i].substr(flag.size() + 1);
    if (path.empty()) continue;
    const auto of_file = arguments_of_config(program, *command, also_reads, path);
    found.insert(found.end(), of_file.begin(), of_file.end());
  }
  arguments.insert(arguments.begin() + 1, found.begin(), found.end());
  return arguments;
}

}  // namespace

int run(const std::vector<std::string>& arguments, std::ostream& out, std::ostream& err) {
  CLI::App program{"Unsupervised semantic segmentation: SmooSeg in C++.", "smooseg"};
  program.set_version_flag("--version", SMOOSEG_VERSION);
  program.require_subcommand(1);
  const std::vector<Command> commands{train_command(),   evaluate_command(), compare_command(), sweep_command(),
                                      tune_command(),    segment_command(),  prepare_command(), weights_command(),
                                      convert_command(), report_command(),   plot_command(),    doctor_command()};
  std::string config;
  for (const Command& command : commands) {
    CLI::App* sub = program.add_subcommand(command.name, command.description);
    sub->option_defaults()->always_capture_default()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    const std::string also = command.also_reads.empty() ? "" : ", and what [" + command.also_reads + "] shares with it";
    sub->add_option("--config", config,
                    "TOML file; its section [" + command.name + "] holds any of these options" + also +
                        "; given several times, a later file wins")
        ->type_name("FILE");
    command.add_options(*sub);
    check_numbers(*sub);
  }

  const auto fail = [&](const std::string& message, int status) {
    err << "smooseg: " << message << std::endl;
    return status;
  };
  // A full device or a closed pipe shows when the last of the output is written.
  const auto finished = [&](int status) {
    out.flush();
    return out ? status : fail("the standard output cannot be written: is the disk full?", 1);
  };
  try {
    auto words = with_config(program, commands, arguments);
    std::reverse(words.begin(), words.end());  // as CLI11 wants them
    program.parse(words);
  } catch (const CLI::CallForHelp& e) {
    return finished(program.exit(e, out, err));
  } catch (const CLI::CallForVersion& e) {
    return finished(program.exit(e, out, err));
  } catch (const CLI::ParseError& e) {
    return fail(std::string(e.what()) + "\nTry 'smooseg --help' or 'smooseg COMMAND --help'.", 2);
  }
  try {
    for (const Command& command : commands) {
      if (!program.got_subcommand(command.name)) continue;
      if (const int64_t size = process_place().size; size > 1 && !command.is_shared) {
        throw std::runtime_error("WORLD_SIZE: '" + command.name + "' works in one process, and " +
                                 std::to_string(size) + " were started");
      }
      command.execute({out, err});
    }
    return finished(0);
  } catch (const Stopped& e) {
    return fail(e.what(), 128 + e.signal);
  } catch (const std::exception& e) {
    return fail(text_of(e), 1);
  }
}

}  // namespace smooseg::app
