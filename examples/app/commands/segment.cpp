// `smooseg segment`: labels of any pictures, as an index map, in colours, and laid over the picture.

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

#include "commands/commands.hpp"
#include "data/dataset.hpp"
#include "data/image_file.hpp"
#include "data/transforms.hpp"
#include "features/precision.hpp"
#include "report/pictures.hpp"
#include "settings/crf.hpp"
#include "settings/model.hpp"
#include "settings/runtime.hpp"
#include "smooseg/detail/parallel.hpp"

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
  CrfSettings crf;
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
  add_options(app, s.crf);
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

/// A picture on its way to its labels.
struct Work {
  std::string name;
  fs::path path;
  Tensor picture;   // (H,W,3)
  Tensor energies;  // (K,H,W), with a CRF
  Tensor labels;    // (H,W)
};

Work look_at(const std::string& name, const fs::path& path, SegmenterImpl& segmenter, const SegmentSettings& s,
             torch::Device device) {
  const auto read = read_transformed(path, {Transform{}, Transform{s.resolution}});
  Work work{name, path, read.pixels[0], {}, {}};
  const int64_t height = work.picture.size(0), width = work.picture.size(1), patch = segmenter.backbone->patch_size();
  if (std::min(height, width) < patch) {
    throw std::runtime_error(path.string() + ": expected a picture of at least " + std::to_string(patch) + " x " +
                             std::to_string(patch) + " pixels, found " + std::to_string(width) + " x " +
                             std::to_string(height));
  }
  const Tensor image = normalize(read.pixels[1]).unsqueeze(0).to(device);
  if (s.crf.use) {
    work.energies = crf_energies(segmenter, s.crf, image, height, width)[0];
  } else {
    work.labels = segmenter.labels(image, height, width)[0].to(torch::kCPU);
  }
  return work;
}

/// The CRF for some pictures at a time, one a thread; the threads that are left share the tiles of each.
void apply_crf(std::vector<Work>& group, const CrfSettings& settings, int threads) {
  const auto count = static_cast<int64_t>(group.size());
  const crf::DenseCrf crf = make_crf(settings, std::max<int64_t>(1, threads / count));
  smooseg::detail::parallel_for(count, threads, [&](int64_t i) {
    Work& work = group[static_cast<std::size_t>(i)];
    work.labels = crf.labels_from_energies(work.picture, work.energies);
    work.energies = Tensor();
  });
}

void segment(const SegmentSettings& s, const Console& console) {
  // Pictures that are held at a time for the CRF measure this much in all, or there is one.
  constexpr int64_t kPixelsAtATime = int64_t{1} << 23;
  const torch::Device device = start(s.runtime);
  const int threads = thread_count(s.runtime);
  LoadedModel loaded = load_model(s.model, device, SegmenterOptions().flip(s.flip).tile(s.tile));
  auto& segmenter = *loaded.model.segmenter;
  set_precision(s.runtime, segmenter, device, loaded.model.settings.resolution, console.err);
  const int64_t clusters = loaded.model.settings.classes;
  const Legend legend = s.scores.empty() ? clusters_legend(clusters) : classes_legend(s.scores, clusters);
  const auto pictures = list_pictures(s.images);
  if (s.crf.use) make_crf(s.crf, threads);  // so that wrong settings are noticed before any work
  std::error_code ignored;
  fs::create_directories(s.out, ignored);
  if (!fs::is_directory(s.out)) throw std::runtime_error("--out: cannot create the folder " + s.out);

  const Tensor index_of_cluster = torch::tensor(legend.index_of_cluster, torch::kInt64);
  std::vector<Work> group;
  int64_t pixels = 0;
  const auto finish_group = [&] {
    if (s.crf.use && !group.empty()) apply_crf(group, s.crf, threads);
    for (const Work& work : group) {
      const Tensor indices = index_of_cluster.index({work.labels});
      const auto output = [&](const char* kind) { return fs::path(s.out) / (work.name + "_" + kind + ".png"); };
      write_png(output("index"), indices.to(torch::kUInt8));
      write_png(output("color"), colorize(indices, legend.colors));
      write_png(output("overlay"), overlay(work.picture, indices, legend.colors, s.alpha));
      console.out << work.path.string() << " -> " << output("overlay").string() << std::endl;
    }
    group.clear();
    pixels = 0;
  };
  for (const auto& [name, path] : pictures) {
    group.push_back(look_at(name, path, segmenter, s, device));
    pixels += group.back().picture.size(0) * group.back().picture.size(1);
    if (!s.crf.use || static_cast<int>(group.size()) == threads || pixels >= kPixelsAtATime) finish_group();
  }
  finish_group();
}

}  // namespace

Command segment_command() {
  const auto settings = std::make_shared<SegmentSettings>();
  return {"segment", "Label pictures of any size.", [settings](CLI::App& app) { add_options(app, *settings); },
          [settings](const Console& console) { segment(*settings, console); }};
}

}  // namespace smooseg::app
