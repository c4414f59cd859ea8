#include "settings/crf.hpp"

#include <stdexcept>
#include <string>
#include <vector>

namespace smooseg::app {
namespace {

/// The one list of settings: calls add(option, value, description) for each, which returns a CLI11 option.
template <class Add>
void list_settings(CrfSettings& s, Add add) {
  crf::PairwiseTerm &gaussian = s.options.terms().at(0), &bilateral = s.options.terms().at(1);
  add("--crf-scale", s.scale, "factor that turns the teacher's cosines into logits")->check(CLI::PositiveNumber);
  add("--crf-iterations", s.options.iterations(), "updates of the marginals")->check(from_to(0, 1000));
  add("--crf-gaussian-sxy", gaussian.sxy, "Gaussian kernel: standard deviation of positions in pixels")
      ->check(CLI::PositiveNumber);
  add("--crf-gaussian-weight", gaussian.weight, "Gaussian kernel: weight; 0: none")->check(CLI::NonNegativeNumber);
  add("--crf-bilateral-sxy", bilateral.sxy, "bilateral kernel: standard deviation of positions in pixels")
      ->check(CLI::PositiveNumber);
  add("--crf-bilateral-srgb", *bilateral.srgb, "bilateral kernel: standard deviation of colours in steps of 1/255")
      ->check(CLI::PositiveNumber);
  add("--crf-bilateral-weight", bilateral.weight, "bilateral kernel: weight; 0: none")->check(CLI::NonNegativeNumber);
  add("--crf-normalization", s.normalization, "where the kernels are divided by their sums at each pixel")
      ->check(CLI::IsMember(kNormalizations));
  add("--crf-tile", s.options.tile(), "longest side in pixels of the tiles into which larger pictures are cut")
      ->check(from_to(1, 1 << 20));
  add("--crf-overlap", s.options.overlap(), "pixels that neighbouring tiles share")->check(from_to(0, 1 << 20));
}

}  // namespace

void add_options(CLI::App& command, CrfSettings& settings) {
  constexpr auto kGroup = "Dense CRF";
  command.add_flag("--crf", settings.use, "move borders to those of the picture with a dense CRF")->group(kGroup);
  list_settings(settings, [&](const char* name, auto& value, const char* description) {
    return command.add_option(name, value, description)->capture_default_str()->group(kGroup);
  });
}

crf::DenseCrfOptions crf_options(const CrfSettings& s, int64_t threads) {
  std::vector<crf::PairwiseTerm> terms;
  for (const crf::PairwiseTerm& term : s.options.terms()) {
    if (term.weight > 0) terms.push_back(term);
  }
  crf::DenseCrfOptions options = s.options;
  return options.terms(terms).normalization(kNormalizations.at(s.normalization)).threads(threads);
}

nlohmann::json to_json(const CrfSettings& settings) {
  if (!settings.use) return false;
  CLI::App unused;
  CrfSettings copy = settings;
  nlohmann::json json;
  list_settings(copy, [&](const char* name, auto& value, const char* description) {
    json[name + 2] = value;
    return unused.add_option(name, value, description);
  });
  return json;
}

CrfSettings crf_settings_from(const nlohmann::json& json, const std::string& source) {
  CLI::App app;
  CrfSettings settings;
  add_options(app, settings);
  check_numbers(app);
  std::vector<std::string> arguments;
  for (const auto& [name, value] : json.items()) {
    if (json.is_object())
      arguments.push_back("--" + name + "=" + (value.is_string() ? value.get<std::string>() : value.dump()));
  }
  if (json.is_object()) arguments.emplace_back("--crf");
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& e) {
    throw std::runtime_error(source + ": its settings of the CRF do not fit this version: " + e.what());
  }
  return settings;
}

}  // namespace smooseg::app
