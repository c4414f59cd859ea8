// `smooseg plot`: the paper's kinds of figures, of runs of one's own.

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <utility>

#include "commands/command_line.hpp"
#include "commands/run_models.hpp"
#include "data/encoded_image.hpp"
#include "data/image_file.hpp"
#include "report/embedding.hpp"
#include "report/html.hpp"
#include "report/page.hpp"
#include "report/penalty.hpp"
#include "report/pictures.hpp"
#include "report/svg.hpp"
#include "smooseg/io/atomic_file.hpp"
#include "support/progress.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

struct PlotSettings {
  RuntimeSettings runtime;
  GalleryOptions gallery;
  std::string kind, out;
  std::vector<std::string> runs;
  int64_t patches = 2000, bins = 50;
  PlotSettings() {
    gallery.pictures = 8;
    gallery.extremes = 0;
  }
};

void add_options(CLI::App& app, PlotSettings& s) {
  app.add_option("kind", s.kind,
                 "penalty: how the label penalty is distributed; panels: picture, label, and what each run makes of "
                 "them, side by side; embedding: t-SNE of patches by the backbone's features and by the code")
      ->required()
      ->check(CLI::IsMember({"penalty", "panels", "embedding"}))
      ->default_str("");
  app.add_option("runs", s.runs, "folders of smooseg train or evaluate")
      ->required()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->default_str("");
  app.add_option("-o,--out", s.out,
                 "the file, .svg, or of panels also .png; default: KIND.svg, of panels panels.png, in the first run's "
                 "folder");
  add_options(app, s.gallery);
  app.add_option("--patches", s.patches, "of embedding: points at most")->check(from_to(1, 4700));
  app.add_option("--bins", s.bins, "of penalty: number of bins from 0 to 1")->check(from_to(1, 1000));
  add_options(app, s.runtime);
}

/// What all kinds of plots are made from: pictures, and the runs' models one at a time.
struct Source {
  std::vector<RunFolder> runs;
  Gallery gallery;
  torch::Device device;
  int threads;
};

/// Calls f(run, model) for each run. @throws std::runtime_error for a run without a model that can be used.
template <class F>
void for_each_model(const Source& source, const PlotSettings& s, std::ostream& err, const F& f) {
  for (const RunFolder& run : source.runs) {
    auto loaded = model_of(run, s.runtime, source.device, err);
    if (!loaded) throw std::runtime_error(run.folder.string() + ": expected a run with a model, found none to use");
    f(run, loaded->model);
  }
}

std::string penalty_figure(const Source& source, const PlotSettings& s, const Console& console) {
  std::vector<svg::Plot> plots;
  for_each_model(source, s, console.err, [&](const RunFolder& run, Model& model) {
    const PenaltyShares shares =
        penalty_shares(source.gallery, *model.segmenter, model.settings.temperature, source.device, s.bins);
    svg::Histogram plot;
    plot.title = run.name;
    plot.x_label = "label penalty";
    plot.y_label = "share of pairs of patches";
    plot.steps.push_back({"within pictures", shares.within});
    if (!shares.across.empty()) plot.steps.push_back({"across pictures", shares.across});
    plots.emplace_back(std::move(plot));
    console.out << run.name << ": " << penalty_text({{"step", model.step}, {"penalty_histogram", shares.within}})
                << "\n";
  });
  return svg::figure(plots);
}

std::vector<svg::ScatterPlot::Kind> kinds_of(const ClassTable& classes) {
  std::vector<svg::ScatterPlot::Kind> kinds;
  for (std::size_t k = 0; k < classes.names.size(); ++k) kinds.push_back({classes.names[k], classes.colors[k]});
  return kinds;
}

std::vector<svg::ScatterPlot::Point> scatter_points(const nlohmann::json& points) {
  std::vector<svg::ScatterPlot::Point> result;
  for (const auto& point : points) {
    result.push_back({point.at(0).get<double>(), point.at(1).get<double>(), point.at(2).get<std::size_t>()});
  }
  return result;
}

std::string embedding_figure(const Source& source, const PlotSettings& s, const Console& console) {
  std::vector<svg::Plot> plots;
  for_each_model(source, s, console.err, [&](const RunFolder& run, Model& model) {
    std::optional<Progress> progress;
    const auto show = [&](int64_t step, int64_t steps) {
      if (!progress) progress.emplace(console.err, 0, steps);
      progress->show(step, run.name);
    };
    const nlohmann::json maps = embedding_maps(source.gallery, run, *model.segmenter, source.device, s.patches,
                                               s.gallery.seed, source.threads, show);
    for (const auto& map : maps) {
      if (map.at("method") != "t-SNE") continue;
      plots.emplace_back(svg::ScatterPlot{map.at("title").get<std::string>(), kinds_of(source.gallery.classes),
                                          scatter_points(map.at("points")), scatter_points(map.at("stars"))});
    }
    if (maps.empty()) {
      throw std::runtime_error(run.folder.string() + ": expected the run's scores, since other runs have some: " +
                               "score it with smooseg evaluate");
    }
  });
  return svg::figure(plots);
}

/// A run's map of each picture, or an error where it has none.
void label_all(Source& source, const PlotSettings& s, const Console& console) {
  for_each_model(source, s, console.err, [&](const RunFolder& run, Model& model) {
    add_maps(source.gallery, run, model.segmenter.get(), source.device, source.threads);
    if (source.gallery.pictures.front().maps.back().defined()) return;
    throw std::runtime_error(
        run.folder.string() +
        ": expected the run's scores, which say what class each cluster is: " + "score it with smooseg evaluate");
  });
}

std::vector<std::string> titles_of(const Source& source) {
  std::vector<std::string> titles{"picture"};
  if (source.gallery.labelled) titles.emplace_back("label");
  for (const RunFolder& run : source.runs) titles.push_back(run.name);
  return titles;
}

/// The maps of a picture, its label first where there are labels.
std::vector<Tensor> maps_in(const Gallery& gallery, const GalleryPicture& picture) {
  std::vector<Tensor> maps;
  if (gallery.labelled) maps.push_back(picture.label);
  maps.insert(maps.end(), picture.maps.begin(), picture.maps.end());
  return maps;
}

std::string panels_figure(const Source& source) {
  const Gallery& gallery = source.gallery;
  svg::PictureGrid grid;
  grid.columns = titles_of(source);
  Tensor counts = torch::zeros({gallery.classes.size()}, torch::kInt64);
  for (const GalleryPicture& picture : gallery.pictures) {
    const auto width = static_cast<double>(picture.pixels.size(1)),
               height = static_cast<double>(picture.pixels.size(0));
    constexpr double kWidth = 200;
    auto& row = grid.rows.emplace_back();
    const auto add = [&](const std::string& type, const std::string& bytes) {
      row.push_back({html::data_uri(type, bytes), kWidth, kWidth * height / width});
    };
    constexpr int kQuality = 90;
    add("image/jpeg", encode_jpeg(picture.pixels, kQuality));
    for (const Tensor& map : maps_in(gallery, picture)) {
      add("image/png", encode_palette_png(map, gallery.classes.colors));
      counts += at::bincount(map.masked_select(map.ge(0)), {}, counts.numel());
    }
  }
  const auto kinds = kinds_of(gallery.classes);
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    if (counts[static_cast<int64_t>(k)].item<int64_t>() > 0) grid.kinds.push_back(kinds[k]);
  }
  return svg::figure({grid});
}

/// Rows of pictures below each other on white.
Tensor panels_picture(const Gallery& gallery) {
  std::vector<Tensor> rows;
  int64_t width = 0;
  for (const GalleryPicture& picture : gallery.pictures) {
    std::vector<Tensor> pictures{picture.pixels};
    for (const Tensor& map : maps_in(gallery, picture)) pictures.push_back(colorize(map, gallery.classes.colors));
    rows.push_back(panel(pictures));
    width = std::max(width, rows.back().size(1));
  }
  constexpr int64_t kBetween = 4;
  for (Tensor& row : rows) row = at::constant_pad_nd(row, {0, 0, 0, width - row.size(1), 0, kBetween}, 255);
  return torch::cat(rows);
}

void plot(const PlotSettings& s, const Console& console) {
  const bool panels = s.kind == "panels";
  const fs::path out =
      s.out.empty() ? fs::path(s.runs.front()) / (s.kind + (panels ? ".png" : ".svg")) : fs::path(s.out);
  const bool png = panels && out.extension() == ".png";
  if (!png && out.extension() != ".svg") {
    throw std::runtime_error("--out: expected a file ending in .svg" + std::string(panels ? " or .png" : "") +
                             ", got " + out.string());
  }
  Source source{read_run_folders(s.runs), {}, start(s.runtime, console.err), thread_count(s.runtime)};
  source.gallery = choose_pictures(source.runs, s.gallery, source.threads);
  if (source.gallery.pictures.empty()) {
    throw std::runtime_error("no pictures to plot" +
                             (source.gallery.missing.empty() ? "" : ": " + source.gallery.missing));
  }
  if (panels) label_all(source, s, console);
  const auto write = [&](const std::string& text) {
    io::write_file_atomically(out, [&](std::ostream& file) { file << text; });
  };
  if (png) {
    write_png(out, panels_picture(source.gallery));
    for (const std::string& title : titles_of(source)) {
      console.out << (title == "picture" ? "columns: " : " | ") << title;
    }
    console.out << "\n";
  } else if (panels) {
    write(panels_figure(source));
  } else if (s.kind == "penalty") {
    write(penalty_figure(source, s, console));
  } else {
    write(embedding_figure(source, s, console));
  }
  console.out << "plot: " << out.string() << std::endl;
}

}  // namespace

Command plot_command() {
  return make_command("plot", "Draw the paper's figures of runs: penalty, panels, embedding.", plot);
}

}  // namespace smooseg::app
