#pragma once

// The page of `smooseg report`: one HTML file that needs nothing else, and no network.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "report/gallery.hpp"
#include "report/run_folder.hpp"

namespace smooseg::app {

struct Page {
  std::string title = "Segmentation report";
  std::vector<RunFolder> runs;
  Gallery gallery;
  nlohmann::json maps = nlohmann::json::array();  ///< of patches, as `embedding_maps` makes them
  int64_t refresh = 0;                            ///< seconds after which the page loads itself again; 0: never
};

/// The page as HTML. Pictures and tables need no script; curves and maps do. No text in it can become markup, and its
/// content security policy lets a browser fetch nothing.
std::string page_html(const Page& page);

/// What the histogram of the label penalty looks like (appendix A): "at step 500, 61 % of the pairs ...: bimodal".
/// @param line of log.jsonl; "" where it has no histogram.
std::string penalty_text(const nlohmann::json& line);

}  // namespace smooseg::app
