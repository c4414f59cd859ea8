#include "report/svg.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <iomanip>
#include <numeric>
#include <set>
#include <sstream>
#include <stdexcept>

#include "report/html.hpp"

namespace smooseg::app::svg {
namespace {

// Attributes hold the light colours, which every program shows; the style sheet has the dark ones.
constexpr std::array<const char*, 8> kLight{"#0b62a8", "#c44900", "#0a7a55", "#8a4fbf",
                                            "#94700a", "#b3266e", "#4d6b00", "#555b63"};
constexpr std::array<const char*, 8> kDark{"#6cb8f5", "#ff9a5c", "#4cc79b", "#c39bf0",
                                           "#e6c04d", "#f587bb", "#a9cf52", "#b5bcc4"};
constexpr auto kInk = "#1a1d21", kSoft = "#59626d", kGrid = "#dfe3e8", kHeat = "#0068b5";
constexpr double kFont = 13, kLetter = 8;  // the latter: how wide a letter is at most on average
constexpr double kPadding = 16, kTitle = 30, kLegendRow = 22;

double width_of(const std::string& text) {
  // Bytes that only continue a letter of UTF-8 take no room.
  const auto begins = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; };
  return kLetter * static_cast<double>(std::count_if(text.begin(), text.end(), begins));
}

double widest(const std::vector<std::string>& texts) {
  double width = 0;
  for (const std::string& text : texts) width = std::max(width, width_of(text));
  return width;
}

std::string style() {
  std::ostringstream css;
  css << "<style>.plot text{font:" << kFont
      << "px system-ui,-apple-system,\"Segoe UI\",Roboto,\"DejaVu Sans\",sans-serif}.plot .title{font-weight:600}"
         "@media (prefers-color-scheme:dark){.plot .back{fill:#1d2126}.plot .ink{fill:#e8eaed}.plot .soft{fill:#a3acb7}"
         ".plot .grid{stroke:#343a42}.plot .edge{stroke:#e8eaed}.plot .heat{fill:#4096de}.plot .deep{fill:#0b0d10}";
  for (std::size_t i = 0; i < kDark.size(); ++i) {
    css << ".plot .f" << i << "{fill:" << kDark[i] << "}.plot .l" << i << "{stroke:" << kDark[i] << "}";
  }
  css << "}</style>\n";
  return css.str();
}

/// Round numbers from at most `low` to at least `high`, some four to seven of them.
std::vector<double> ticks_of(double low, double high) {
  if (!(high > low)) high = low + 1;
  const double rough = (high - low) / 5, power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {1, 2, 5}) {
    if (factor * power >= rough) {
      step = factor * power;
      break;
    }
  }
  std::vector<double> ticks;
  for (double i = std::floor(low / step + 1e-9);; ++i) {
    ticks.push_back(i * step);
    if (i * step >= high - 1e-9 * step) return ticks;
  }
}

struct Box {
  double left, top, width, height;
  double right() const { return left + width; }
  double bottom() const { return top + height; }
};

struct Entry {
  std::string name, swatch;  // the attributes of the swatch's fill
};

class Canvas {
 public:
  void text(double x, double y, const std::string& content, const std::string& more = "") {
    out_ << "<text x=\"" << x << "\" y=\"" << y << "\" "
         << (more.find("fill=") == std::string::npos ? "class=\"ink\" fill=\"" + std::string(kInk) + "\" " : "") << more
         << ">" << html::escaped(content) << "</text>\n";
  }

  void title(double x, double y, const std::string& content) {
    out_ << "<text x=\"" << x << "\" y=\"" << y << "\" class=\"title ink\" fill=\"" << kInk << "\">"
         << html::escaped(content) << "</text>\n";
  }

  void line(double x1, double y1, double x2, double y2, const std::string& more) {
    out_ << "<line x1=\"" << x1 << "\" y1=\"" << y1 << "\" x2=\"" << x2 << "\" y2=\"" << y2 << "\" " << more << "/>\n";
  }

  void rect(const Box& box, const std::string& more) {
    out_ << "<rect x=\"" << box.left << "\" y=\"" << box.top << "\" width=\"" << box.width << "\" height=\""
         << box.height << "\" " << more << "/>\n";
  }

  std::ostringstream& out() { return out_; }

 private:
  std::ostringstream out_ = [] {
    std::ostringstream out;
    out << std::fixed << std::setprecision(1);
    return out;
  }();
};

const std::string kMiddle = "text-anchor=\"middle\"", kEnd = "text-anchor=\"end\"";

std::string of_grid() {
  return "class=\"grid\" stroke=\"" + std::string(kGrid) + "\"";
}

std::string fill_of(std::size_t i) {
  i %= kLight.size();
  return "class=\"f" + std::to_string(i) + "\" fill=\"" + kLight[i] + "\"";
}

std::string stroke_of(std::size_t i) {
  i %= kLight.size();
  return "class=\"l" + std::to_string(i) + "\" stroke=\"" + kLight[i] + "\" stroke-width=\"2\"";
}

std::string fill_of(const Color& color) {
  std::ostringstream text;
  text << "fill=\"#" << std::hex << std::setfill('0');
  for (const auto level : color) text << std::setw(2) << static_cast<int>(level);
  text << "\"";
  return text.str();
}

/// Entries in rows of at most `width`; nothing is drawn where there is no canvas. @return the height.
double legend(Canvas* canvas, const std::vector<Entry>& entries, double left, double top, double width) {
  if (entries.empty()) return 0;
  double x = left, y = top + kLegendRow;
  for (const Entry& entry : entries) {
    const double room = 20 + width_of(entry.name) + 14;
    if (x > left && x + room > left + width) {
      x = left;
      y += kLegendRow;
    }
    if (canvas != nullptr) {
      canvas->rect({x, y - 11, 12, 12}, entry.swatch + " stroke=\"#808080\" stroke-opacity=\".5\" rx=\"2\"");
      canvas->text(x + 18, y, entry.name);
    }
    x += room;
  }
  return y - top + 6;
}

/// Labels below columns of one width, askew where they would not fit. @return the height.
double column_labels(Canvas* canvas, const std::vector<std::string>& labels, double left, double top, double width) {
  const double each = width / static_cast<double>(labels.size()), longest = widest(labels);
  const bool askew = longest > each - 8;
  for (std::size_t i = 0; canvas != nullptr && i < labels.size(); ++i) {
    const double x = left + (static_cast<double>(i) + 0.5) * each, y = top + 18;
    std::ostringstream turn;
    turn << kEnd << " transform=\"rotate(-35 " << x + 5 << " " << y << ")\"";
    canvas->text(askew ? x + 5 : x, y, labels[i], askew ? turn.str() : kMiddle);
  }
  return askew ? 24 + longest * 0.574 : 24;  // the sine of 35 degrees
}

void vertical_label(Canvas& canvas, double x, double y, const std::string& label) {
  std::ostringstream turn;
  turn << "class=\"soft\" fill=\"" << kSoft << "\" " << kMiddle << " transform=\"rotate(-90 " << x << " " << y << ")\"";
  canvas.text(x, y, label, turn.str());
}

std::string soft(const std::string& more) {
  return "class=\"soft\" fill=\"" + std::string(kSoft) + "\" " + more;
}

/// Lines of the grid with their numbers to the left of a box. @return where a value is.
class VerticalAxis {
 public:
  VerticalAxis(Canvas& canvas, const Box& box, double low, double high) : box_(box), ticks_(ticks_of(low, high)) {
    for (const double tick : ticks_) {
      canvas.line(box.left, at(tick), box.right(), at(tick), of_grid());
      canvas.text(box.left - 8, at(tick) + 4.5, html::number(tick), soft(kEnd));
    }
  }

  double at(double value) const {
    return box_.bottom() - (value - ticks_.front()) / (ticks_.back() - ticks_.front()) * box_.height;
  }

 private:
  Box box_;
  std::vector<double> ticks_;
};

/// How much room a plot takes, and how it is drawn into a box of that size.
struct Drawing {
  double width, height;
  std::string content;
};

constexpr double kPlotWidth = 520, kPlotHeight = 270, kLeft = 66;

Drawing draw(const LinePlot& plot) {
  Canvas canvas;
  const Box box{kLeft, kTitle + 6, kPlotWidth - kLeft - 8, kPlotHeight};
  canvas.title(0, 16, plot.title);
  double low = INFINITY, high = -INFINITY;
  for (const auto& line : plot.lines) {
    if (line.means.size() != plot.columns.size() || line.deviations.size() != plot.columns.size()) {
      throw std::runtime_error("svg::LinePlot: expected a mean and a deviation for each of " +
                               std::to_string(plot.columns.size()) + " columns, got " +
                               std::to_string(line.means.size()) + " and " + std::to_string(line.deviations.size()));
    }
    for (std::size_t i = 0; i < line.means.size(); ++i) {
      if (std::isnan(line.means[i])) continue;
      low = std::min(low, line.means[i] - line.deviations[i]);
      high = std::max(high, line.means[i] + line.deviations[i]);
    }
  }
  if (!(low <= high)) low = 0, high = 1;
  const VerticalAxis axis(canvas, box, low, high);
  vertical_label(canvas, 14, box.top + box.height / 2, plot.y_label);
  const double each = box.width / static_cast<double>(plot.columns.size());
  std::vector<Entry> entries;
  for (std::size_t s = 0; s < plot.lines.size(); ++s) {
    const auto& line = plot.lines[s];
    std::ostringstream points;
    points << std::fixed << std::setprecision(1);
    for (std::size_t i = 0; i < line.means.size(); ++i) {
      if (std::isnan(line.means[i])) continue;
      const double x = box.left + (static_cast<double>(i) + 0.5) * each, y = axis.at(line.means[i]);
      points << x << "," << y << " ";
      const double above = axis.at(line.means[i] + line.deviations[i]);
      const double below = axis.at(line.means[i] - line.deviations[i]);
      if (line.deviations[i] > 0) {
        canvas.line(x, above, x, below, stroke_of(s) + " stroke-opacity=\".6\"");
        for (const double end : {above, below})
          canvas.line(x - 5, end, x + 5, end, stroke_of(s) + " stroke-opacity=\".6\"");
      }
      canvas.out() << "<circle cx=\"" << x << "\" cy=\"" << y << "\" r=\"4\" " << fill_of(s) << "/>\n";
    }
    canvas.out() << "<polyline points=\"" << points.str() << "\" fill=\"none\" " << stroke_of(s) << "/>\n";
    if (plot.lines.size() > 1) entries.push_back({line.name, fill_of(s)});
  }
  double y = box.bottom() + column_labels(&canvas, plot.columns, box.left, box.bottom(), box.width);
  canvas.text(box.left + box.width / 2, y + 16, plot.x_label, soft(kMiddle));
  y += 24;
  y += legend(&canvas, entries, box.left, y, box.width);
  return {kPlotWidth, y, canvas.out().str()};
}

Drawing draw(const Histogram& plot) {
  Canvas canvas;
  const Box box{kLeft, kTitle + 6, kPlotWidth - kLeft - 12, kPlotHeight};
  canvas.title(0, 16, plot.title);
  double high = 0;
  for (const auto& steps : plot.steps) {
    if (steps.shares.empty()) throw std::runtime_error("svg::Histogram: expected at least one bin, got none");
    high = std::max(high, *std::max_element(steps.shares.begin(), steps.shares.end()));
  }
  const VerticalAxis axis(canvas, box, 0, high);
  vertical_label(canvas, 14, box.top + box.height / 2, plot.y_label);
  for (int tenth = 0; tenth <= 10; tenth += 2) {
    const double x = box.left + box.width * tenth / 10;
    canvas.line(x, box.bottom(), x, box.bottom() + 5, of_grid());
    canvas.text(x, box.bottom() + 19, html::number(plot.low + (plot.high - plot.low) * tenth / 10), soft(kMiddle));
  }
  std::vector<Entry> entries;
  for (std::size_t s = 0; s < plot.steps.size(); ++s) {
    const auto& shares = plot.steps[s].shares;
    const double each = box.width / static_cast<double>(shares.size());
    std::ostringstream path;
    path << std::fixed << std::setprecision(1) << "M" << box.left << "," << box.bottom();
    for (std::size_t i = 0; i < shares.size(); ++i) {
      path << "V" << axis.at(shares[i]) << "H" << box.left + each * static_cast<double>(i + 1);
    }
    path << "V" << box.bottom() << "Z";
    canvas.out() << "<path d=\"" << path.str() << "\" " << fill_of(s) << " fill-opacity=\".25\"/>\n<path d=\""
                 << path.str() << "\" fill=\"none\" " << stroke_of(s) << "/>\n";
    if (plot.steps.size() > 1) entries.push_back({plot.steps[s].name, fill_of(s)});
  }
  for (std::size_t m = 0; m < plot.marks.size(); ++m) {
    const auto& mark = plot.marks[m];
    const double share = (mark.at - plot.low) / (plot.high - plot.low);
    if (!(share >= 0 && share <= 1)) continue;
    const double x = box.left + box.width * share, top = box.top + 16 * static_cast<double>(m + 1);
    canvas.line(x, top - 8, x, box.bottom(), stroke_of(mark.steps) + " stroke-dasharray=\"5 4\"");
    canvas.text(x + 5, top, mark.name);
  }
  canvas.text(box.left + box.width / 2, box.bottom() + 42, plot.x_label, soft(kMiddle));
  double y = box.bottom() + 50;
  y += legend(&canvas, entries, box.left, y, box.width);
  return {kPlotWidth, y, canvas.out().str()};
}

Drawing draw(const HeatMap& plot) {
  Canvas canvas;
  constexpr double kCell = 62, kRow = 40;
  const double rows = widest(plot.rows);
  const auto columns = static_cast<double>(plot.columns.size());
  const Box box{rows + 40, kTitle + 6, std::max(columns * kCell, width_of(plot.x_label)),
                static_cast<double>(plot.rows.size()) * kRow};
  canvas.title(0, 16, plot.title);
  double low = INFINITY, high = -INFINITY;
  bool fits = plot.values.size() == plot.rows.size();
  for (const auto& row : plot.values) {
    fits = fits && row.size() == plot.columns.size();
    for (const double value : row) {
      if (std::isnan(value)) continue;
      low = std::min(low, value);
      high = std::max(high, value);
    }
  }
  if (!fits) {
    throw std::runtime_error("svg::HeatMap: expected " + std::to_string(plot.rows.size()) + " rows of " +
                             std::to_string(plot.columns.size()) + " values");
  }
  const double cell = box.width / columns;
  for (std::size_t r = 0; r < plot.rows.size(); ++r) {
    const double top = box.top + static_cast<double>(r) * kRow;
    canvas.text(box.left - 8, top + kRow / 2 + 4.5, plot.rows[r], kEnd);
    for (std::size_t c = 0; c < plot.columns.size(); ++c) {
      const double value = plot.values[r][c], left = box.left + static_cast<double>(c) * cell;
      if (std::isnan(value)) continue;
      const double share = high > low ? (value - low) / (high - low) : 0.5;
      std::ostringstream opacity;
      opacity << "class=\"heat\" fill=\"" << kHeat << "\" fill-opacity=\"" << std::setprecision(3)
              << 0.06 + 0.94 * share << "\" rx=\"3\"";
      canvas.rect({left + 1, top + 1, cell - 2, kRow - 2}, opacity.str());
      std::ostringstream number;
      number << std::fixed << std::setprecision(1) << value;
      canvas.text(left + cell / 2, top + kRow / 2 + 4.5, number.str(),
                  share > 0.5 ? "class=\"deep\" fill=\"#fff\" " + kMiddle : kMiddle);
    }
  }
  vertical_label(canvas, 14, box.top + box.height / 2, plot.y_label);
  const double y = box.bottom() + column_labels(&canvas, plot.columns, box.left, box.bottom(), box.width);
  canvas.text(box.left + box.width / 2, y + 16, plot.x_label, soft(kMiddle));
  return {std::max(box.right() + 8, width_of(plot.title)), std::max(y + 24, box.top + width_of(plot.y_label)),
          canvas.out().str()};
}

std::vector<Entry> entries_of(const std::vector<ScatterPlot::Kind>& kinds) {
  std::vector<Entry> entries;
  for (const auto& kind : kinds) entries.push_back({kind.name, fill_of(kind.color)});
  return entries;
}

Drawing draw(const ScatterPlot& plot) {
  constexpr double kSide = 460, kMargin = 12;
  Canvas canvas;
  canvas.title(0, 16, plot.title);
  const Box box{0, kTitle, kSide, kSide};
  canvas.rect(box, "fill=\"none\" rx=\"4\" " + of_grid());
  if (plot.points.empty()) throw std::runtime_error("svg::ScatterPlot: expected at least one point, got none");
  double low_x = INFINITY, high_x = -INFINITY, low_y = INFINITY, high_y = -INFINITY;
  std::vector<bool> occurs(plot.kinds.size(), false);
  for (const auto* points : {&plot.points, &plot.stars}) {
    for (const auto& point : *points) {
      occurs.at(point.kind) = true;
      low_x = std::min(low_x, point.x), high_x = std::max(high_x, point.x);
      low_y = std::min(low_y, point.y), high_y = std::max(high_y, point.y);
    }
  }
  const double extent = std::max({high_x - low_x, high_y - low_y, 1e-30}), scale = (kSide - 2 * kMargin) / extent;
  const auto x_of = [&](double x) { return box.left + kSide / 2 + (x - (low_x + high_x) / 2) * scale; };
  const auto y_of = [&](double y) { return box.top + kSide / 2 - (y - (low_y + high_y) / 2) * scale; };
  for (const auto& point : plot.points) {
    canvas.out() << "<circle cx=\"" << x_of(point.x) << "\" cy=\"" << y_of(point.y) << "\" r=\"2.6\" "
                 << fill_of(plot.kinds[point.kind].color) << " stroke=\"#808080\" stroke-width=\".4\"/>\n";
  }
  for (const auto& star : plot.stars) {
    canvas.out() << "<path class=\"edge\" stroke=\"" << kInk << "\" stroke-width=\"1.5\" "
                 << fill_of(plot.kinds[star.kind].color) << " d=\"";
    for (int corner = 0; corner < 10; ++corner) {
      const double radius = corner % 2 == 0 ? 9 : 4, angle = corner * 3.14159265358979 / 5;
      canvas.out() << (corner == 0 ? "M" : "L") << x_of(star.x) + radius * std::sin(angle) << ","
                   << y_of(star.y) - radius * std::cos(angle);
    }
    canvas.out() << "Z\"/>\n";
  }
  std::vector<ScatterPlot::Kind> shown;
  for (std::size_t k = 0; k < plot.kinds.size(); ++k) {
    if (occurs[k]) shown.push_back(plot.kinds[k]);
  }
  const double height = box.bottom() + legend(&canvas, entries_of(shown), 0, box.bottom(), kSide);
  return {std::max(kSide, width_of(plot.title)), height, canvas.out().str()};
}

Drawing draw(const PictureGrid& plot) {
  constexpr double kGap = 6;
  Canvas canvas;
  const bool titled = !plot.title.empty();
  if (titled) canvas.title(0, 16, plot.title);
  double column = 0;
  for (const auto& row : plot.rows) {
    for (const auto& picture : row) column = std::max(column, picture.width);
  }
  column = std::max(column, widest(plot.columns));
  const double top = titled ? kTitle : 0, width = (column + kGap) * static_cast<double>(plot.columns.size()) - kGap;
  for (std::size_t c = 0; c < plot.columns.size(); ++c) {
    canvas.text(static_cast<double>(c) * (column + kGap) + column / 2, top + 14, plot.columns[c], kMiddle);
  }
  double y = top + 22;
  for (const auto& row : plot.rows) {
    double height = 0;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const double x = static_cast<double>(c) * (column + kGap) + (column - row[c].width) / 2;
      canvas.out() << "<image x=\"" << x << "\" y=\"" << y << "\" width=\"" << row[c].width << "\" height=\""
                   << row[c].height << "\" href=\"" << row[c].uri << "\"/>\n";
      height = std::max(height, row[c].height);
    }
    y += height + kGap;
  }
  y += legend(&canvas, entries_of(plot.kinds), 0, y - kGap, width);
  return {width, y, canvas.out().str()};
}

}  // namespace

std::string figure(const std::vector<Plot>& plots, std::size_t columns) {
  constexpr double kBetween = 28;
  if (plots.empty() || columns == 0) throw std::runtime_error("svg::figure: expected plots and columns, got none");
  std::vector<Drawing> drawings;
  for (const Plot& plot : plots) {
    drawings.push_back(std::visit([](const auto& kind) { return draw(kind); }, plot));
  }
  double width = 0, height = 0;
  for (const Drawing& drawing : drawings) width = std::max(width, drawing.width);
  std::ostringstream body;
  double y = kPadding;
  for (std::size_t i = 0; i < drawings.size(); ++i) {
    const std::size_t column = i % columns;
    if (i > 0 && column == 0) {
      y += height + kBetween;
      height = 0;
    }
    height = std::max(height, drawings[i].height);
    body << "<g transform=\"translate(" << kPadding + static_cast<double>(column) * (width + kBetween) << " " << y
         << ")\">\n"
         << drawings[i].content << "</g>\n";
  }
  const auto in_row = static_cast<double>(std::min(columns, plots.size()));
  const double whole_width = std::ceil(2 * kPadding + in_row * (width + kBetween) - kBetween);
  const double whole_height = std::ceil(y + height + kPadding);
  std::ostringstream out;
  out << "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" viewBox=\"0 0 " << whole_width << " " << whole_height
      << "\" width=\"" << whole_width << "\" height=\"" << whole_height << "\" style=\"max-width:100%;height:auto\">\n"
      << style() << "<rect class=\"back\" width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#fff\"/>\n"
      << body.str() << "</svg>\n";
  return out.str();
}

}  // namespace smooseg::app::svg
