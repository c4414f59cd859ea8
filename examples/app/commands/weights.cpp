// `smooseg weights`: the published weights of backbones, listed and fetched.

#include <iomanip>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "commands/command_line.hpp"
#include "features/weight_files.hpp"
#include "settings/model.hpp"
#include "smooseg/backbone/registry.hpp"
#include "support/disk.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

struct WeightsSettings {
  std::string action, folder;
  std::vector<std::string> names;
};

void add_options(CLI::App& app, WeightsSettings& s) {
  app.add_option("action", s.action, "list all of them, or get those named")
      ->required()
      ->check(CLI::IsMember({"list", "get"}));
  app.add_option("names", s.names, "with get: the backbones whose weights to fetch")
      ->check(CLI::IsMember(network_names(/*only_with_weights=*/true)))
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->default_str("");
  app.add_option("--folder", s.folder,
                 "where they are kept; default: SMOOSEG_WEIGHTS, else smooseg/weights in XDG_CACHE_HOME or ~/.cache");
}

void list(const fs::path& folder, std::ostream& out) {
  const auto row = [&](const std::string& name, const std::string& channels, const std::string& patch,
                       const std::string& size, const std::string& licence, const std::string& file) {
    out << std::left << std::setw(23) << name << std::right << std::setw(8) << channels << std::setw(7) << patch
        << std::setw(9) << size << "  " << std::left << std::setw(20) << licence << file << "\n";
  };
  row("name", "channels", "patch", "size", "licence", "file");
  for (const auto& entry : backbone::registry()) {
    const backbone::PretrainedWeights& weights = entry.weights;
    if (weights.file.empty()) continue;
    std::optional<fs::path> found;
    std::string problem;
    try {
      found = find_weights(weights, folder);
    } catch (const std::runtime_error& e) {
      problem = e.what();
    }
    const int64_t bytes = found ? static_cast<int64_t>(fs::file_size(*found)) : weights.bytes;
    row(entry.name, std::to_string(entry.channels), std::to_string(entry.patch_size),
        bytes > 0 ? readable_bytes(static_cast<double>(bytes)) : "-", weights.licence,
        found             ? found->string()
        : problem.empty() ? (weights.request.empty() ? "" : "ask at ") + weights_url(weights)
                          : problem);
  }
  out << std::flush;
}

void weights(const WeightsSettings& s, const Console& console) {
  const fs::path folder = s.folder.empty() ? weights_folder() : fs::path(s.folder);
  if (s.action == "list") {
    if (!s.names.empty()) throw std::runtime_error("weights list: expected no names, got '" + s.names[0] + "'");
    list(folder, console.out);
    return;
  }
  if (s.names.empty()) throw std::runtime_error("weights get: expected the name of a backbone; see 'weights list'");
  for (const std::string& name : s.names) {
    console.out << download_weights(backbone::find(name), folder, console.err).string() << std::endl;
  }
}

}  // namespace

Command weights_command() {
  return make_command("weights", "List and fetch the published weights of backbones.", weights);
}

}  // namespace smooseg::app
