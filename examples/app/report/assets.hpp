#pragma once

// The files of report/assets, which CMake puts into the program.

#include <string_view>

namespace smooseg::app::assets {

extern const std::string_view kStyle;         ///< report.css
extern const std::string_view kScript;        ///< report.js
extern const std::string_view kChart;         ///< chart.min.js
extern const std::string_view kChartLicense;  ///< LICENSE.chart.js

}  // namespace smooseg::app::assets
