#pragma once

// Maps of patch embeddings (Fig. 5).

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "report/gallery.hpp"
#include "smooseg/segmenter.hpp"

namespace smooseg::app {

/// Patches of a gallery's pictures on planes: t-SNE and PCA, each of the backbone's features and of the learnt code with
/// the prototypes; directions alone count, as in the losses.
/// @param run whose model this is; its scores say which class a cluster is. @param points patches at most, the same of
///   each picture and for a seed always the same. @param progress is told of the steps of t-SNE.
/// @return a list of objects with "method", "title", "hint", "points" ([x, y, class, picture] each), "stars"
///   ([x, y, class] of each prototype) and "pictures" (their names); empty where there are no pictures.
nlohmann::json embedding_maps(const Gallery& gallery, const RunFolder& run, SegmenterImpl& segmenter,
                              torch::Device device, int64_t points, uint64_t seed, int threads,
                              const std::function<void(int64_t step, int64_t steps)>& progress = {});

}  // namespace smooseg::app
