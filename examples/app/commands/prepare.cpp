// `smooseg prepare`: data sets. Today: made-up scenes, to try everything with nothing to download.

#include "commands/commands.hpp"
#include "data/scenes.hpp"

namespace smooseg::app {
namespace {

struct PrepareSettings {
  std::string what, out;
  SceneOptions scenes;
};

void add_options(CLI::App& app, PrepareSettings& s) {
  const auto count = CLI::Range(int64_t{1}, int64_t{1000000});
  const auto side = CLI::Range(int64_t{64}, int64_t{8192});
  app.add_option("what", s.what, "scenes: labelled landscapes of textures, drawn at random")
      ->required()
      ->check(CLI::IsMember({"scenes"}));
  app.add_option("--out", s.out, "folder for the data set")->required();
  app.add_option("--train", s.scenes.train, "pictures to train on")->check(count)->capture_default_str();
  app.add_option("--test", s.scenes.test, "pictures to score")->check(count)->capture_default_str();
  app.add_option("--height", s.scenes.height, "of each picture in pixels")->check(side)->capture_default_str();
  app.add_option("--width", s.scenes.width, "of each picture in pixels")->check(side)->capture_default_str();
  app.add_option("--seed", s.scenes.seed, "decides every pixel")->capture_default_str();
}

}  // namespace

Command prepare_command() {
  const auto settings = std::make_shared<PrepareSettings>();
  return {"prepare", "Make a data set.", [settings](CLI::App& app) { add_options(app, *settings); },
          [settings](const Console& console) {
            write_scenes(settings->out, settings->scenes);
            console.out << settings->scenes.train << " scenes to train on and " << settings->scenes.test
                        << " to score: " << settings->out << std::endl;
          }};
}

}  // namespace smooseg::app
