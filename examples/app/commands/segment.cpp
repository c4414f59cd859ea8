// `smooseg segment`: labels of any pictures, as an index map, in colours, and laid over the picture.

#include <algorithm>
#include <map>

#include "commands/command_line.hpp"
#include "commands/segment_windows.hpp"
#include "data/bad_files.hpp"
#include "data/dataset.hpp"
#include "data/image_file.hpp"
#include "data/tiff_writer.hpp"
#include "data/transforms.hpp"
#include "data/windows.hpp"
#include "features/precision.hpp"
#include "model/labels.hpp"
#include "model/model.hpp"
#include "model/score.hpp"
#include "report/pictures.hpp"
#include "report/scores.hpp"
#include "settings/backbone_files.hpp"
#include "smooseg/detail/parallel.hpp"
#include "support/disk.hpp"
#include "support/error_text.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

struct SegmentSettings {
  RuntimeSettings runtime;
  BackboneFiles files;
  std::string model, out, scores;
  std::string on_error = "fail";
  std::vector<std::string> images;
  int64_t resolution = ScoreOptions().resolution;
  SegmenterOptions segmenter;
  double alpha = 0.5;
  int64_t window_pixels = kWindowPixels;
  CrfSettings crf;
};

void add_options(CLI::App& app, SegmentSettings& s) {
  app.add_option("--model", s.model, "model file of smooseg train")->required();
  app.add_option("images", s.images, "pictures, or folders of pictures")
      ->required()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->default_str("");
  app.add_option("--out", s.out,
                 "folder for NAME_index.png, NAME_color.png and NAME_overlay.png; of large pictures and those with a "
                 "georeference (GeoTIFF) they are .tif")
      ->required();
  add_on_error(app, s.on_error);
  app.add_option("--scores", s.scores, "scores.json of smooseg evaluate: gives clusters their classes and colours");
  app.add_option(
         "--resolution", s.resolution,
         "shorter side in pixels at which the model sees pictures; 0: their own. Labels have the picture's size")
      ->check(side(0));
  app.add_option("--tile", s.segmenter.tile(),
                 "side in pixels of the tiles that a transformer gets, and any backbone of a picture in windows")
      ->check(side(128));
  app.add_flag("--flip", s.segmenter.flip(), "average the codes of each picture and its mirror image");
  app.add_option("--alpha", s.alpha, "how strongly the overlay is coloured, 0 to 1")->check(CLI::Range(0.0, 1.0));
  app.add_option("--window-pixels", s.window_pixels,
                 "pictures of more pixels are read, labelled and written in windows, as TIFF files")
      ->check(at_least(0));
  add_options(app, s.files);
  add_options(app, s.crf);
  add_options(app, s.runtime);
}

struct Picture {
  fs::path path;
  std::string name;  ///< of its features in a folder of such
};

/// All pictures, by the names that their outputs get.
std::map<std::string, Picture> pictures_of(const std::vector<std::string>& arguments, const fs::path& out,
                                           std::ostream& err) {
  std::map<std::string, Picture> pictures;
  const auto add = [&](const std::string& name, const Picture& picture) {
    const auto [at, added] = pictures.emplace(name, picture);
    const fs::path &path = picture.path, &other = at->second.path;
    TORCH_CHECK(added || other == path, path.string(), ": its outputs would overwrite those of ", other.string(),
                ": both are named '", name, "'; rename one, or label them in two runs with folders of their own");
  };
  for (const auto& argument : arguments) {
    const fs::path path(argument);
    if (!fs::is_directory(path)) {
      add(path.stem().string(), {path, path.stem().string()});
      continue;
    }
    const fs::path own = fs::weakly_canonical(out).lexically_relative(fs::canonical(path));
    TORCH_CHECK(own != ".", "--out: ", out.string(),
                " is a folder of pictures to label, and what is written there would be labelled the next time: take "
                "another");
    const Dataset folder = list_pictures(path);
    err << skipped_line(folder);
    for (const Sample& sample : folder.samples) {
      const fs::path place = fs::canonical(sample.image).lexically_relative(fs::weakly_canonical(out));
      if (place.empty() || *place.begin() == "..")
        add(flat_name(sample), {sample.image, sample.name});  // else an earlier output
    }
  }
  return pictures;
}

/// Pictures that are held at a time for the CRF measure this much in all, or there is one.
constexpr int64_t kPixelsAtATime = int64_t{1} << 23;

/// A picture on its way to its labels.
struct Work {
  std::string name;
  fs::path path;
  Tensor picture;   // (H,W,3)
  Tensor energies;  // (K,H,W), where a CRF is still to be applied
  Tensor labels;    // (H,W) uint8
};

/// A picture as it is opened.
struct Opened {
  fs::path path;
  std::unique_ptr<PictureRows> rows;
  Tensor features;  // (C,h,w), what the model sees instead, if defined
  bool in_windows;
};

Opened open(const Picture& picture, const std::optional<FeatureFiles>& files, int64_t patch, int64_t window_pixels) {
  const fs::path& path = picture.path;
  auto rows = open_picture(path);
  const int64_t height = rows->height(), width = rows->width();
  TORCH_CHECK(std::min(height, width) >= patch, path.string(), ": expected a picture of at least ", patch, " x ", patch,
              " pixels, found ", width, " x ", height);
  const bool in_windows = width > window_pixels / height || !read_georeference(path).empty();
  return {path, std::move(rows), files ? files->read(picture.name) : Tensor(), in_windows};
}

/// The labels of a picture that is held as a whole, or what the CRF makes them of.
Work look_at(const std::string& name, const Opened& picture, SegmenterImpl& segmenter, const SegmentSettings& s,
             torch::Device device) {
  const auto read = read_transformed(*picture.rows, picture.path, {Transform{}, Transform{s.resolution}});
  Work work{name, picture.path, read.pixels[0], {}, {}};
  const int64_t height = work.picture.size(0), width = work.picture.size(1);
  const Tensor seen =
      picture.features.defined() ? picture.features : normalize(read.pixels[1], normalization_of(*segmenter.backbone));
  const Tensor image = seen.unsqueeze(0).to(device);
  if (!s.crf.use) {
    work.labels = labels_of(segmenter, image, height, width)[0].to(torch::kCPU, torch::kUInt8);
  } else if (height * width > kPixelsAtATime) {
    work.labels = crf_labels_of(segmenter, s.crf, thread_count(s.runtime), image, work.picture);
  } else {
    work.energies = crf_energies(segmenter, s.crf, image, height, width)[0];
  }
  return work;
}

/// Applies the CRF to a group of pictures at once, one a thread; the threads that are left share the tiles of each.
void apply_crf(std::vector<Work>& group, const CrfSettings& settings, int threads) {
  const auto count = static_cast<int64_t>(group.size());
  const int64_t threads_each = std::max<int64_t>(1, threads / count);
  smooseg::detail::parallel_for(count, threads, [&](int64_t i) {
    Work& work = group[static_cast<std::size_t>(i)];
    if (!work.energies.defined()) return;
    work.labels = crf_labels(settings, threads_each, work.picture, work.energies).to(torch::kUInt8);
    work.energies = Tensor();
  });
}

void segment(const SegmentSettings& s, const Console& console) {
  const torch::Device device = start(s.runtime, console.err);
  const int threads = thread_count(s.runtime);
  LoadedModel loaded = load_model(s.model, device, s.segmenter, s.files.module);
  const auto files = model_feature_files(loaded.model, s.files.features_dir, s.segmenter.flip());
  auto& segmenter = *loaded.model.segmenter;
  set_precision(s.runtime, segmenter, device, loaded.model.settings.resolution, console.err);
  const int64_t clusters = loaded.model.settings.classes;
  const Legend legend = s.scores.empty() ? cluster_legend(clusters) : read_legend(s.scores, clusters);
  const auto pictures = pictures_of(s.images, s.out, console.err);
  if (s.crf.use) check_crf(s.crf);  // so that wrong settings are noticed before any work
  make_folder(s.out, "--out");

  const Tensor index_of_cluster = torch::tensor(legend.index_of_cluster, torch::kInt64).to(torch::kUInt8);
  std::vector<Work> group;
  int64_t pixels = 0;
  const auto finish_group = [&] {
    if (s.crf.use && !group.empty()) apply_crf(group, s.crf, threads);
    for (const Work& work : group) {
      const Tensor indices = mapped(work.labels, index_of_cluster);
      const auto output = [&](const char* kind) { return fs::path(s.out) / (work.name + "_" + kind + ".png"); };
      write_png(output("index"), indices);
      write_png(output("color"), colorize(indices, legend.colors));
      write_png(output("overlay"), overlay(work.picture, indices, legend.colors, s.alpha));
      console.out << work.path.string() << " -> " << output("overlay").string() << std::endl;
    }
    group.clear();
    pixels = 0;
  };
  std::vector<std::string> problems;
  for (const auto& [name, picture] : pictures) {
    try {
      const Opened opened = open(picture, files, segmenter.backbone->patch_size(), s.window_pixels);
      if (opened.in_windows) {
        const fs::path overlay = segment_in_windows({picture.path, s.resolution, opened.features},
                                                    {s.out, name, legend, s.alpha}, segmenter, s.crf, threads, device);
        console.out << picture.path.string() << " -> " << overlay.string() << std::endl;
        continue;
      }
      group.push_back(look_at(name, opened, segmenter, s, device));
    } catch (const std::exception& e) {
      problems.push_back(text_of(e));
      continue;
    }
    pixels += group.back().picture.size(0) * group.back().picture.size(1);
    if (!s.crf.use || static_cast<int>(group.size()) == threads || pixels >= kPixelsAtATime) finish_group();
  }
  finish_group();
  if (problems.empty()) return;
  const std::string text = bad_files_text(problems, pictures.size());
  if (s.on_error == "fail" || problems.size() == pictures.size()) throw std::runtime_error(text);
  console.err << text << std::endl;
}

}  // namespace

Command segment_command() {
  return make_command("segment", "Label pictures of any size.", segment);
}

}  // namespace smooseg::app
