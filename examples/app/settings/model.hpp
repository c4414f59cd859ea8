#pragma once

// The settings that decide what a training run ends with: options of `train`, keys of its TOML section, and the settings
// in a model file.

#include <CLI/App.hpp>
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "settings/options.hpp"
#include "smooseg/backbone/texture.hpp"
#include "smooseg/loss.hpp"
#include "smooseg/projector.hpp"

namespace smooseg::backbone {
struct RegistryEntry;
}

namespace smooseg::app {

inline const Choices<Centering> kCenterings{
    {"row-keep-mean", Centering::kRowKeepMean}, {"row", Centering::kRow}, {"none", Centering::kNone}};
inline const Choices<Reduction> kReductions{{"mean", Reduction::kMean}, {"sum", Reduction::kSum}};

/// Backbones that are no networks known by name: a module exported from Python, and features that files hold.
inline constexpr auto kExportedBackbone = "exported";
inline constexpr auto kFeaturesBackbone = "features";

/// Thresholds that a `ThresholdController` chooses while a model learns; those that are known to suit the backbone.
inline constexpr auto kAutomaticThresholds = "auto";
inline constexpr auto kPresetThresholds = "preset";

/// A number of classes that follows from the features.
inline constexpr int64_t kAutomaticClasses = -1;

/// The names of all backbones; of the networks among them; of those with published weights.
std::vector<std::string> backbone_names();
std::vector<std::string> network_names(bool only_with_weights = false);

/// What the library knows of a backbone by its name; null for the two above.
const backbone::RegistryEntry* registry_entry(const std::string& backbone);

/// The defaults are the library's and, where it has none, the paper's.
struct ModelSettings {
  std::string backbone = "texture";
  std::string features = "tokens";
  int64_t textons = backbone::TextureOptions().textons();
  double texton_sharpness = backbone::TextureOptions().sharpness();
  double position = backbone::TextureOptions().position();
  std::optional<int64_t> exported_patch, exported_skip_tokens, exported_image_size;  ///< unset: what the file says
  std::optional<std::string> exported_mean, exported_std;                            ///< likewise; "R,G,B"

  std::string crops = "center";
  int64_t resolution = 224;
  std::string feature_dtype = "float32";

  int64_t classes = 0;  ///< 0: as many as classes.json names; or `kAutomaticClasses`
  int64_t embed_dim = 64;
  double dropout = ProjectorOptions(1, 1).dropout();
  double momentum = PrototypePredictorOptions(2, 1).momentum();

  std::string thresholds = kAutomaticThresholds;
  std::optional<double> within_threshold, across_threshold;  ///< unset: as `thresholds` says, see `choose_thresholds`
  double temperature = EnergyOptions().temperature();
  std::string centering = name_of(SmoothnessOptions().centering(), kCenterings);
  std::string reduction = name_of(SmoothnessOptions().reduction(), kReductions);
  std::string without = "nothing";  ///< the term that the objective lacks (Table 4)
  std::string across = "own";       ///< of several processes: whose images are partners, own or global

  int64_t batch = 32;
  double projector_rate = 1e-4;
  double predictor_rate = 5e-4;
  std::string teacher_update = "before";
  std::string restarts = "auto";  ///< of dead prototypes: on, off, or on where the thresholds are chosen
  uint64_t seed = 0;
  int64_t debias = 0;  ///< directions of positions that closeness leaves out; 0: none
};

/// All settings, or only those that decide the features of training crops, but for the seed.
enum class SettingScope { kAll, kFeatures };

/// Adds an option for each setting.
void add_options(CLI::App& command, ModelSettings& settings, SettingScope scope = SettingScope::kAll);

/// Option names (without dashes) and values, as they stand in a model file; thresholds that are unset are left out.
using SettingValues = std::map<std::string, std::string>;
SettingValues values_of(const ModelSettings& settings, SettingScope scope = SettingScope::kAll);

/// @throws std::runtime_error naming `source` for an unknown name or a value out of range.
ModelSettings settings_from(const SettingValues& values, const std::string& source);

/// Sets the thresholds that `--thresholds` tells, or those that are missing to the backbone's; with "auto" and neither
/// given both stay unset.
/// @throws std::runtime_error naming the options where both tell a threshold.
void choose_thresholds(ModelSettings& settings);

/// Those that a `ThresholdController` begins with; nothing: those that the first batch gives.
std::optional<Thresholds> start_of_thresholds(const ModelSettings& settings);

/// "R,G,B" as three numbers; nothing for any other text.
std::optional<std::array<double, 3>> channels_from(const std::string& text);

/// What the features of training crops are rounded to.
torch::ScalarType feature_dtype(const ModelSettings& settings);

/// With the loss's own thresholds where they are unset.
EnergyOptions energy_options(const ModelSettings& settings);

}  // namespace smooseg::app
