#pragma once

// Plots as SVG files, for pages and papers: no script, no font of their own, and colours that follow the light or dark
// theme of whoever looks at them. Needs no LibTorch.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace smooseg::app::svg {

/// Red, green and blue, 0..255.
using Color = std::array<uint8_t, 3>;

/// Numbers over a few values of a setting, which stand at equal distances: where they are 0.9, 0.99 and 0.998 no scale
/// of numbers would keep them apart.
struct LinePlot {
  struct Line {
    std::string name;
    std::vector<double> means, deviations;  ///< one for each column; NaN where there is none
  };
  std::string title, x_label, y_label;
  std::vector<std::string> columns;
  std::vector<Line> lines;
};

/// Shares of bins of equal width, as steps: several histograms may lie over each other.
struct Histogram {
  struct Steps {
    std::string name;
    std::vector<double> shares;
  };
  /// A vertical line with a name, in the colour of one of the steps.
  struct Mark {
    std::string name;
    double at;
    std::size_t steps;
  };
  std::string title, x_label, y_label;
  std::vector<Steps> steps;
  double low = 0, high = 1;  ///< where the first bin begins and the last one ends
  std::vector<Mark> marks = {};
};

/// A number for each pair of a row and a column, NaN where there is none.
struct HeatMap {
  std::string title, x_label, y_label;
  std::vector<std::string> columns, rows;
  std::vector<std::vector<double>> values;  ///< rows from the top
};

/// Points on a plane without units.
struct ScatterPlot {
  struct Kind {
    std::string name;
    Color color;
  };
  struct Point {
    double x, y;
    std::size_t kind;
  };
  std::string title;
  std::vector<Kind> kinds;           ///< of which the legend shows those that occur
  std::vector<Point> points, stars;  ///< the latter are drawn large, over the former
};

/// Pictures in rows and columns.
struct PictureGrid {
  struct Picture {
    std::string uri;  ///< "data:image/png;base64,..."
    double width, height;
  };
  std::string title;
  std::vector<std::string> columns;  ///< their titles
  std::vector<std::vector<Picture>> rows;
  std::vector<ScatterPlot::Kind> kinds;  ///< the legend
};

using Plot = std::variant<LinePlot, Histogram, HeatMap, ScatterPlot, PictureGrid>;

/// An SVG file with these plots, `columns` of them in a row.
/// @throws std::runtime_error for no plots, no columns, and plots whose numbers of values do not fit each other.
std::string figure(const std::vector<Plot>& plots, std::size_t columns = 2);

}  // namespace smooseg::app::svg
