#include "report/page.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <set>
#include <sstream>
#include <string_view>
#include <utility>

#include "report/assets.hpp"
#include "report/html.hpp"
#include "report/numbers.hpp"
#include "smooseg/version.hpp"

namespace smooseg::app {
namespace {

using html::escaped;
using html::percent;
using Json = nlohmann::json;

/// At most so many lines of a log, evenly chosen, with the last one.
Json thinned(const std::vector<Json>& log) {
  constexpr std::size_t kMost = 600;
  const std::size_t every = log.size() / kMost + 1;
  Json lines = Json::array();
  for (std::size_t i = 0; i < log.size(); ++i) {
    if ((log.size() - 1 - i) % every == 0) lines.push_back(log[i]);
  }
  return lines;
}

Json script_data(const Page& page) {
  Json runs = Json::array();
  for (const RunFolder& run : page.runs) {
    runs.push_back({{"name", run.name}, {"log", thinned(run.log)}, {"parts", run.milliseconds}});
  }
  return {{"runs", runs},
          {"names", page.gallery.classes.names},
          {"colors", page.gallery.classes.colors},
          {"maps", page.maps},
          {"refresh", page.refresh}};
}

/// The classes' colours as variables, which a script may set to another palette.
std::string palette_css(const ClassTable& classes) {
  std::ostringstream variables, rules;
  for (std::size_t c = 0; c < classes.colors.size(); ++c) {
    const Color& color = classes.colors[c];
    variables << "--c" << c << ":rgb(" << int{color[0]} << "," << int{color[1]} << "," << int{color[2]} << ");";
    rules << ".c" << c << "{background:var(--c" << c << ")}";
  }
  return ":root{" + variables.str() + "}" + rules.str();
}

class PageWriter {
 public:
  explicit PageWriter(const Page& page) : page_(page) {}

  std::string html() {
    write_numbers();
    write_gallery();
    write_training();
    write_maps();
    const std::string body = out_.str();
    out_.str("");
    write_head();
    out_ << "<nav aria-label=\"sections\"><ul>" << links_ << "</ul></nav>\n<main>\n" << body << "</main>\n";
    write_foot();
    return out_.str();
  }

 private:
  void open(const std::string& id, const std::string& title) {
    links_ += "<li><a href=\"#" + id + "\">" + title + "</a></li>";
    out_ << "<section class=\"block\" id=\"" << id << "\"><h2>" << title << "</h2>\n";
  }

  void write_head() {
    out_ << "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src "
            "'unsafe-inline'; script-src 'unsafe-inline'\">\n<link rel=\"icon\" href=\"data:,\">\n";
    if (page_.refresh > 0)
      out_ << "<noscript><meta http-equiv=\"refresh\" content=\"" << page_.refresh << "\"></noscript>\n";
    out_ << "<title>" << escaped(page_.title) << "</title>\n<style>" << assets::kStyle
         << palette_css(page_.gallery.classes) << "</style>\n</head>\n<body>\n<header><h1>" << escaped(page_.title)
         << "</h1>\n<p class=\"lead\">" << (page_.runs.size() == 1 ? "Run: " : "Runs: ");
    for (const RunFolder& run : page_.runs) out_ << (&run == &page_.runs.front() ? "" : ", ") << escaped(run.name);
    if (page_.refresh > 0) out_ << ". Training goes on; this page loads itself again.";
    out_ << "</p></header>\n";
  }

  void write_foot() {
    out_ << "<footer><p>Made by smooseg " SMOOSEG_VERSION
            ".</p><details><summary>Chart.js and its licence</summary><pre>"
         << escaped(assets::kChartLicense)
         << "</pre></details></footer>\n<script type=\"application/json\" id=\"data\">"
         << html::script_json(script_data(page_)) << "</script>\n<script>" << assets::kChart << "</script>\n<script>"
         << assets::kScript << "</script>\n</body>\n</html>\n";
  }

  void write_numbers() {
    const std::string summary = summary_html(page_.runs), comparison = comparison_html(page_.runs),
                      sweeps = sweep_html(page_.runs);
    if (summary.empty() && comparison.empty() && sweeps.empty()) return;
    open("numbers", "Numbers");
    if (page_.runs.size() == 1 && page_.runs.front().scores) write_figures(*page_.runs.front().scores);
    if (page_.runs.size() > 1 || !page_.runs.front().scores) out_ << summary;
    out_ << comparison << sweeps;
    if (!summary.empty()) out_ << "<h3>IoU of each class</h3>\n" << iou_html(page_.runs);
    write_confusion();
    out_ << "</section>\n";
  }

  void write_figures(const EvaluationScores& s) {
    const auto figure = [&](const char* id, const std::string& name, double share) {
      out_ << "<div><dt>" << name << "</dt><dd id=\"" << id << "\" data-value=\"" << Json(share).dump() << "\">"
           << percent(share) << "\u202f%</dd></div>";
    };
    out_ << "<dl class=\"figures\">";
    figure("accuracy", "accuracy", s.accuracy);
    figure("miou", "mean IoU", s.miou);
    if (s.kmeans) {
      figure("kmeans-accuracy", "accuracy of k-means", s.kmeans->first);
      figure("kmeans-miou", "mean IoU of k-means", s.kmeans->second);
    }
    out_ << "<div><dt>pictures</dt><dd>" << s.images << "</dd></div></dl>\n<p class=\"lead\">Split " << escaped(s.split)
         << " of " << escaped(s.data) << ", " << s.resolution << " pixels"
         << (s.crf.is_object() ? ", with the dense CRF" : "") << (s.flip ? ", averaged over mirror images" : "")
         << ".</p>\n";
  }

  void write_confusion() {
    std::string tables;
    int count = 0;
    for (const RunFolder& run : page_.runs) {
      const std::string table = confusion_html(run);
      if (table.empty()) continue;
      tables += "<details" + std::string(++count == 1 ? " open" : "") + "><summary>" + escaped(run.name) +
                "</summary>" + table + "</details>\n";
    }
    if (tables.empty()) return;
    out_ << "<h3>Clusters and classes</h3>\n<p class=\"lead\">A row is a cluster and the class it was matched with, a "
            "column a class of the labels; in %.</p>\n<div class=\"controls\"><label>Shares <select id=\"normalize\">"
            "<option value=\"column\">of each class's pixels</option><option value=\"row\">of each cluster's "
            "pixels</option>"
            "<option value=\"count\">none: numbers of pixels</option></select></label></div>\n"
         << tables;
  }

  void write_gallery() {
    const Gallery& gallery = page_.gallery;
    if (gallery.pictures.empty() && gallery.missing.empty()) return;
    open("pictures", "Pictures");
    if (gallery.pictures.empty()) {
      out_ << "<p class=\"lead\">" << escaped(gallery.missing) << "</p></section>\n";
      return;
    }
    write_controls();
    out_ << legend_html() << gallery_html(gallery, page_.runs) << "</section>\n";
  }

  void write_controls() {
    out_ << "<div class=\"controls\"><label>Overlay <input type=\"range\" id=\"opacity\" min=\"0\" max=\"100\" "
            "value=\"60\" "
            "aria-label=\"from picture to overlay\"></label>"
            "<label><input type=\"checkbox\" id=\"borders\">only borders</label>"
            "<label><input type=\"checkbox\" id=\"safe\">colours for colour-blind eyes</label>";
    if (page_.runs.size() > 1) {
      out_ << "<label>of <select id=\"source\">";
      for (std::size_t r = 0; r < page_.runs.size(); ++r) {
        out_ << "<option value=\"run" << r << "\">" << escaped(page_.runs[r].name) << "</option>";
      }
      out_ << "</select></label>";
    }
    std::string groups;
    int count = 0;
    for (const auto& [group, title] : gallery_groups()) {
      const auto& pictures = page_.gallery.pictures;
      const auto in_group = [&, &name = group](const GalleryPicture& picture) { return picture.group == name; };
      if (std::none_of(pictures.begin(), pictures.end(), in_group)) continue;
      groups += "<option value=\"" + group + "\">" + title + "</option>";
      ++count;
    }
    if (count > 1)
      out_ << "<label>Show <select id=\"group\"><option value=\"\">all</option>" << groups << "</select></label>";
    out_ << "<span class=\"lead\" id=\"count\" role=\"status\"></span></div>\n";
  }

  /// The classes as buttons that filter, with their IoU; clusters by size where there are no labels.
  std::string legend_html() {
    const Gallery& gallery = page_.gallery;
    const std::size_t classes = gallery.classes.names.size() - 1;  // without "no class"
    std::vector<double> share(classes, 0);
    double pixels = 0;
    for (const GalleryPicture& picture : gallery.pictures) {
      for (const Tensor& map : picture.maps) {
        if (!map.defined()) continue;
        const Tensor counts = at::bincount(map.reshape(-1), {}, static_cast<int64_t>(classes) + 1);
        for (std::size_t c = 0; c < classes; ++c)
          share[c] += static_cast<double>(counts[static_cast<int64_t>(c)].item<int64_t>());
        pixels += static_cast<double>(map.numel());
        break;  // the first run's
      }
    }
    std::vector<std::size_t> order(classes);
    for (std::size_t c = 0; c < classes; ++c) order[c] = c;
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return share[a] > share[b]; });
    std::ostringstream out;
    out << "<ul class=\"legend\" aria-label=\"filter by class\">";
    for (const std::size_t c : order) {
      out << "<li><button type=\"button\" class=\"class\" data-class=\"" << c
          << "\" aria-pressed=\"false\" title=\"show only this class\"><i class=\"swatch c" << c << "\"></i>"
          << escaped(gallery.classes.names[c]);
      bool any = false;
      for (const RunFolder& run : page_.runs) {
        if (!run.scores || c >= run.scores->iou.size()) continue;
        out << (any ? " / " : " <small>IoU ") << percent(run.scores->iou[c]);
        any = true;
      }
      if (any) out << "</small>";
      if (!any && pixels > 0) out << " <small>" << percent(share[c] / pixels) << "\u202f%</small>";
      out << "</button></li>";
    }
    out << "<li><button type=\"button\" id=\"reset\" hidden>all classes</button></li></ul>\n"
        << "<p class=\"lead\">"
        << (gallery.labelled ? "Sorted by size. " : "Clusters by their share of these pictures. ")
        << "<span class=\"controls\">Keys on a picture: ← → go to the next, + − move the overlay, b borders, c "
           "colours.</span></p>\n";
    return out.str();
  }

  void write_training() {
    const auto has_log = [](const RunFolder& run) { return !run.log.empty(); };
    if (std::none_of(page_.runs.begin(), page_.runs.end(), has_log)) return;
    open("training", "Training");
    out_ << "<div class=\"scroll\"><table id=\"last\"><thead><tr><th>run<th class=\"n\">step";
    const std::vector<std::pair<const char*, const char*>> columns{{"total", "total"},
                                                                   {"within", "within"},
                                                                   {"across", "across"},
                                                                   {"data", "data"},
                                                                   {"within_penalty_mean", "penalty within"},
                                                                   {"across_penalty_mean", "penalty across"},
                                                                   {"classes_in_use", "classes in use"}};
    for (const auto& column : columns) out_ << "<th class=\"n\">" << column.second;
    out_ << "</tr></thead><tbody>\n";
    std::string penalties;
    for (const RunFolder& run : page_.runs) {
      const auto last =
          std::find_if(run.log.rbegin(), run.log.rend(), [](const Json& line) { return line.contains("total"); });
      if (last == run.log.rend()) continue;
      out_ << "<tr><th scope=\"row\">" << escaped(run.name) << "</th><td class=\"n\">" << (*last)["step"];
      for (const auto& column : columns) {
        const Json value = last->value(column.first, Json());
        out_ << "<td class=\"n\">" << (value.is_number() ? html::number(value.get<double>()) : "–");
      }
      out_ << "</tr>\n";
      const std::string text = penalty_text(*last);
      if (!text.empty())
        penalties +=
            "<p>" + (page_.runs.size() > 1 ? escaped(run.name) + ": " : std::string()) + escaped(text) + "</p>\n";
    }
    out_ << "</tbody></table></div>\n"
         << penalties
         << "<noscript><p class=\"lead\">The curves need JavaScript.</p></noscript>\n<div class=\"charts\" "
            "id=\"charts\" "
            "style=\"margin-top:1.2rem\"></div></section>\n";
  }

  void write_maps() {
    if (page_.maps.empty()) return;
    open("patches", "Patches");
    out_ << "<p class=\"lead\">Each point is a patch of the pictures above, by the backbone's features and by the "
            "learnt "
            "embedding; stars are prototypes.</p>\n<div class=\"controls\"><label>Map <select id=\"method\">"
            "<option value=\"t-SNE\">t-SNE</option><option value=\"PCA\">PCA</option></select></label>"
            "<label>coloured by <select id=\"by\"><option value=\"class\">class</option>"
            "<option value=\"picture\">picture</option></select></label></div>\n"
            "<noscript><p class=\"lead\">The maps need JavaScript.</p></noscript>\n<div class=\"charts\" "
            "id=\"maps\"></div>"
            "</section>\n";
  }

  const Page& page_;
  std::ostringstream out_;
  std::string links_;
};

}  // namespace

std::string penalty_text(const Json& line) {
  const Json histogram = line.value("penalty_histogram", Json());
  if (!histogram.is_array() || histogram.empty()) return "";
  double low = 0, high = 0;
  for (std::size_t i = 0; i < histogram.size(); ++i) {
    if (!histogram[i].is_number()) return "";
    const double middle = (static_cast<double>(i) + 0.5) / static_cast<double>(histogram.size());
    if (middle < 0.2) low += histogram[i].get<double>();
    if (middle > 0.8) high += histogram[i].get<double>();
  }
  // Two heaps at the ends, and little between.
  constexpr double kHeap = 0.1, kBetween = 0.25;
  const double between = std::max(0.0, 1 - low - high);
  const bool bimodal = low >= kHeap && high >= kHeap && between <= kBetween;
  return "The label penalty at step " + line["step"].dump() + ": " + percent(low) +
         " % of the pairs of patches are below 0.2, " + percent(high) + " % above 0.8, " + percent(between) +
         " % between: " + (bimodal ? "bimodal" : "not bimodal") +
         (bimodal        ? ", as it should be after training."
          : high < kHeap ? ", since nearly all patches of an image have like labels."
          : low < kHeap  ? ", since hardly any two patches of an image have the same label."
                         : ", since many pairs are undecided.");
}

std::string page_html(const Page& page) {
  return PageWriter(page).html();
}

}  // namespace smooseg::app
