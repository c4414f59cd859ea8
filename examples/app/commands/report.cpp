// `smooseg report`: runs as one page to look at.

#include <optional>

#include "commands/command_line.hpp"
#include "commands/run_models.hpp"
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
  app.add_option("runs", s.runs, "folders of smooseg train or evaluate, or with a compare.json or sweep.json")
      ->required()
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->default_str("");
  app.add_option("-o,--out", s.out, "the page; default: report.html in the first run's folder");
  app.add_option("--title", s.title, "of the page");
  add_options(app, s.gallery);
  app.add_option("--patches", s.patches, "points in the maps of embeddings, patches of these pictures; 0: no maps")
      ->check(from_to(0, 4700));
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
    auto loaded = page.gallery.pictures.empty() ? std::nullopt : model_of(run, s.runtime, device, console.err);
    SegmenterImpl* const segmenter = loaded ? loaded->model.segmenter.get() : nullptr;
    add_maps(page.gallery, run, segmenter, device, threads);
    if (segmenter == nullptr) continue;
    for (auto& map : embedding_maps(page.gallery, run, *segmenter, device, s.patches, s.gallery.seed, threads)) {
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
