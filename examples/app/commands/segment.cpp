// `smooseg segment`: labels of any pictures, as an index map, in colours, and laid over the picture.

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "commands/commands.hpp"
#include "commands/model.hpp"
#include "commands/runtime.hpp"
#include "data/dataset.hpp"
#include "data/image_file.hpp"
#include "data/transforms.hpp"
#include "report/pictures.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

// The index of pixels whose cluster has no class, in maps of class indices.
constexpr int64_t kNoClass = 255;

struct SegmentSettings {
  RuntimeSettings runtime;
  std::string model, out, scores;
  std::vector<std::string> images;
  int64_t resolution = 320;
  int64_t tile = 512;
  bool flip = false;
  double alpha = 0.5;
};

void add_options(CLI::App& app, SegmentSettings& s) {
  app.add_option("--model", s.model, "model file of smooseg train")->required();
  app.add_option("images", s.images, "pictures, or folders of pictures")
      ->required()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--out", s.out, "folder for NAME_index.png, NAME_color.png and NAME_overlay.png")->required();
  app.add_option("--scores", s.scores, "scores.json of smooseg evaluate: gives clusters their classes and colours");
  app.add_option(
         "--resolution", s.resolution,
         "shorter side in pixels at which pictures are looked at; 0: as they are. Labels have the picture's size")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--tile", s.tile, "side in pixels of the tiles that a transformer gets")
      ->check(CLI::Range(int64_t{128}, int64_t{8192}))
      ->capture_default_str();
  app.add_flag("--flip", s.flip, "average the codes of each picture and its mirror image");
  app.add_option("--alpha", s.alpha, "how strongly the overlay is coloured, 0 to 1")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  add_options(app, s.runtime);
}

/// What an index means and looks like.
struct Legend {
  std::vector<int64_t> index_of_cluster;
  std::vector<Color> colors;  // by index
};

Legend clusters_legend(int64_t clusters) {
  Legend legend{{}, default_colors(clusters)};
  for (int64_t k = 0; k < clusters; ++k) legend.index_of_cluster.push_back(k);
  return legend;
}

/// @throws std::runtime_error naming the file if it is no scores.json for this number of clusters.
Legend classes_legend(const std::string& path, int64_t clusters) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + ": cannot read these scores");
  Legend legend;
  try {
    const auto json = nlohmann::json::parse(file);
    legend.index_of_cluster = json.at("class_of_cluster").get<std::vector<int64_t>>();
    legend.colors = json.at("class_colors").get<std::vector<Color>>();
  } catch (const nlohmann::json::exception& e) {
    throw std::runtime_error(path + ": expected the scores.json of smooseg evaluate: " + e.what());
  }
  if (static_cast<int64_t>(legend.index_of_cluster.size()) != clusters) {
    throw std::runtime_error(path + ": expected scores of the model's " + std::to_string(clusters) +
                             " clusters, found " + std::to_string(legend.index_of_cluster.size()));
  }
  const auto classes = static_cast<int64_t>(legend.colors.size());
  for (int64_t& index : legend.index_of_cluster) {
    if (index >= classes) {
      throw std::runtime_error(path + ": class " + std::to_string(index) + " of class_of_cluster has no colour");
    }
    if (index < 0) index = kNoClass;
  }
  if (classes <= kNoClass) legend.colors.resize(kNoClass + 1, Color{0, 0, 0});
  return legend;
}

/// All pictures, by the names that their outputs get.
std::map<std::string, fs::path> list_pictures(const std::vector<std::string>& arguments) {
  std::map<std::string, fs::path> pictures;
  const auto add = [&](const std::string& name, const fs::path& path) {
    const auto [at, added] = pictures.emplace(name, path);
    if (!added && at->second != path) {
      throw std::runtime_error(path.string() + ": its outputs would overwrite those of " + at->second.string() +
                               ": both are named '" + name + "'");
    }
  };
  for (const auto& argument : arguments) {
    const fs::path path(argument);
    if (!fs::is_directory(path)) {
      add(path.stem().string(), path);
      continue;
    }
    for (const Sample& sample : list_samples(path)) {
      std::string name = sample.name;
      std::replace(name.begin(), name.end(), '/', '_');
      add(name, sample.image);
    }
  }
  return pictures;
}

void segment(const SegmentSettings& s, const Console& console) {
  const torch::Device device = start(s.runtime);
  LoadedModel loaded = load_model(s.model, device, SegmenterOptions().flip(s.flip).tile(s.tile));
  auto& segmenter = *loaded.model.segmenter;
  const int64_t clusters = loaded.model.settings.classes, patch = segmenter.backbone->patch_size();
  const Legend legend = s.scores.empty() ? clusters_legend(clusters) : classes_legend(s.scores, clusters);
  const auto pictures = list_pictures(s.images);
  std::error_code ignored;
  fs::create_directories(s.out, ignored);
  if (!fs::is_directory(s.out)) throw std::runtime_error("--out: cannot create the folder " + s.out);

  const Tensor index_of_cluster = torch::tensor(legend.index_of_cluster, torch::kInt64);
  for (const auto& [name, path] : pictures) {
    const Tensor picture = read_image(path);
    const int64_t height = picture.size(0), width = picture.size(1);
    if (std::min(height, width) < patch) {
      throw std::runtime_error(path.string() + ": expected a picture of at least " + std::to_string(patch) + " x " +
                               std::to_string(patch) + " pixels, found " + std::to_string(width) + " x " +
                               std::to_string(height));
    }
    const Tensor seen = s.resolution > 0 ? resize_shorter(picture, s.resolution) : picture;
    const Tensor labels = segmenter.labels(normalize(seen).unsqueeze(0).to(device), height, width)[0];
    const Tensor indices = index_of_cluster.index({labels.to(torch::kCPU)});
    const auto output = [&](const char* kind) { return fs::path(s.out) / (name + "_" + kind + ".png"); };
    write_png(output("index"), indices.to(torch::kUInt8));
    write_png(output("color"), colorize(indices, legend.colors));
    write_png(output("overlay"), overlay(picture, indices, legend.colors, s.alpha));
    console.out << path.string() << " -> " << output("overlay").string() << std::endl;
  }
}

}  // namespace

Command segment_command() {
  const auto settings = std::make_shared<SegmentSettings>();
  return {"segment", "Label pictures of any size.", [settings](CLI::App& app) { add_options(app, *settings); },
          [settings](const Console& console) { segment(*settings, console); }};
}

}  // namespace smooseg::app
