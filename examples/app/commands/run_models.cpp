#include "commands/run_models.hpp"

#include "features/precision.hpp"
#include "settings/options.hpp"

namespace smooseg::app {

void add_options(CLI::App& app, GalleryOptions& options) {
  app.add_option("--data", options.data,
                 "where the pictures are, if not where they were scored; without scores any folder of pictures");
  app.add_option("--split", options.split, "which split to show; default: the one that was scored, else test or train");
  app.add_option("--pictures", options.pictures, "number of pictures chosen at random")->check(from_to(0, 1000));
  app.add_option("--extremes", options.extremes,
                 "number of the best, of the worst and of those pictures that differ the most between the runs")
      ->check(from_to(0, 1000));
  app.add_option("--seed", options.seed, "decides which pictures, and patches of them, are chosen at random");
  app.add_option("--resolution", options.resolution, "shorter side in pixels of pictures that were not scored")
      ->check(side());
}

std::optional<LoadedModel> model_of(const RunFolder& run, const RuntimeSettings& runtime, torch::Device device,
                                    std::ostream& err) {
  if (run.model.empty()) return std::nullopt;
  if (!holds_backbone(run.model)) {
    err << run.model.string() << ": no labels are drawn, since the file does not hold its backbone" << std::endl;
    return std::nullopt;
  }
  SegmenterOptions options;
  if (run.scores) options.flip(run.scores->flip);
  LoadedModel loaded = load_model(run.model, device, options);
  set_precision(runtime, *loaded.model.segmenter, device, loaded.model.settings.resolution, err);
  return loaded;
}

}  // namespace smooseg::app
