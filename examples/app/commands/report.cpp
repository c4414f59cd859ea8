// `smooseg report`: runs as one page to look at.

#include <optional>

#include "commands/command_line.hpp"
#include "features/precision.hpp"
#include "model/model.hpp"
#include "report/embedding.hpp"
#include "report/gallery.hpp"
#include "report/page.hpp"
#include "settings/runtime.hpp"
#include "smooseg/io/atomic_file.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;

struct ReportSettings {
  RuntimeSettings runtime;
  std::vector<std::string> runs;
  std::string out, title = Page().title;
  GalleryOptions gallery;
  int64_t patches = 1000;
};

void add_options(CLI::App& app, ReportSettings& s) {
  app.add_option("runs", s.runs, "folders of smooseg train or evaluate, or with a compare.json")
      ->required()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->default_str("");
  app.add_option("-o,--out", s.out, "the page; default: report.html in the first run's folder");
  app.add_option("--title", s.title, "of the page");
  app.add_option("--data", s.gallery.data,
                 "where the pictures are, if not where they were scored; without scores any folder of pictures");
  app.add_option("--split", s.gallery.split,
                 "which split to show; default: the one that was scored, else test or train");
  app.add_option("--pictures", s.gallery.pictures, "number of pictures chosen at random")->check(from_to(0, 1000));
  app.add_option("--extremes", s.gallery.extremes,
                 "number of the best, of the worst and of those pictures that differ the most between the runs")
      ->check(from_to(0, 1000));
  app.add_option("--patches", s.patches, "points in the maps of embeddings, patches of these pictures; 0: no maps")
      ->check(from_to(0, 4700));
  app.add_option("--seed", s.gallery.seed, "decides which pictures, and patches of them, are chosen at random");
  app.add_option("--resolution", s.gallery.resolution, "shorter side in pixels of pictures that were not scored")
      ->check(side());
  app.add_option("--side", s.gallery.side, "shorter side in pixels of the pictures on the page at most")->check(side());
  add_options(app, s.runtime);
}

void report(const ReportSettings& s, const Console& console) {
  const torch::Device device = start(s.runtime, console.err);
  const int threads = thread_count(s.runtime);
  Page page;
  page.title = s.title;
  page.runs = read_run_folders(s.runs);
  page.gallery = choose_pictures(page.runs, s.gallery, threads);
  if (!page.gallery.missing.empty()) console.err << "no pictures: " << page.gallery.missing << std::endl;
  for (const RunFolder& run : page.runs) {
    const bool whole = run.model.empty() || holds_backbone(run.model);
    if (!whole) {
      console.err << fs::path(run.model).string() << ": no labels are drawn, since the file does not hold its backbone"
                  << std::endl;
    }
    if (page.gallery.pictures.empty() || run.model.empty() || !whole) {
      add_maps(page.gallery, run, nullptr, device, threads);
      continue;
    }
    SegmenterOptions options;
    if (run.scores) options.flip(run.scores->flip);
    LoadedModel loaded = load_model(run.model, device, options);
    set_precision(s.runtime, *loaded.model.segmenter, device, loaded.model.settings.resolution, console.err);
    add_maps(page.gallery, run, loaded.model.segmenter.get(), device, threads);
    for (auto& map :
         embedding_maps(page.gallery, run, *loaded.model.segmenter, device, s.patches, s.gallery.seed, threads)) {
      page.maps.push_back(std::move(map));
    }
  }
  const fs::path out = s.out.empty() ? fs::path(s.runs.front()) / "report.html" : fs::path(s.out);
  io::write_file_atomically(out, [&](std::ostream& file) { file << page_html(page); });
  console.out << "report: " << out.string() << std::endl;
}

}  // namespace

Command report_command() {
  return make_command("report", "Make a page of runs: pictures, numbers, curves.", report);
}

}  // namespace smooseg::app
