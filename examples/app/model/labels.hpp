#pragma once

// Labels by a model, as they are or after the dense CRF. All that computes them is compiled here, once.

#include <torch/types.h>

#include <cstdint>
#include <functional>

#include "data/transforms.hpp"
#include "data/windows.hpp"
#include "settings/crf.hpp"
#include "smooseg/segmenter.hpp"
#include "smooseg/window_segmenter.hpp"

namespace smooseg::app {

/// A model's labels of images, on its device. The model is in evaluation mode.
/// @param images (B,3,H,W) float32, normalised. @return (B,out_height,out_width) int64.
Tensor labels_of(SegmenterImpl& segmenter, const Tensor& images, int64_t out_height, int64_t out_width);

/// What the CRF starts from: a model's logits as energies. The model is in evaluation mode.
/// @param images (B,3,H,W) float32, normalised. @return (B,K,out_height,out_width) float32 on the CPU.
Tensor crf_energies(SegmenterImpl& segmenter, const CrfSettings& settings, const Tensor& images, int64_t out_height,
                    int64_t out_width);

/// What a model sees of a picture that is read window by window. @param windows must outlive what is returned.
WindowSource window_source(PictureWindows& windows, const Normalization& with, torch::Device device);

/// Some rows of a picture, (end-begin,W,3) uint8. `begin` and `end` grow from call to call.
using PixelRows = std::function<Tensor(int64_t begin, int64_t end)>;

/// Labels of a picture from its row `first` on, (n,W) uint8.
using LabelSink = std::function<void(int64_t first, const Tensor& labels)>;

/// A model's labels of a picture that need not fit into memory, handed on a few rows at a time, from the top. With
/// `settings.use` after the CRF, as `crf_labels` makes them of the whole, tile by tile.
/// @param height, width those of the labels. @param pixels what the CRF sees; not called without it.
void label_rows(WindowSegmenter& picture, int64_t height, int64_t width, const CrfSettings& settings, int64_t threads,
                const PixelRows& pixels, const LabelSink& sink);

/// The labels that the CRF makes of a large picture: those of `crf_labels` of its `crf_energies`, of which no more than
/// some of the CRF's tiles are held at a time.
/// @param image (1,3,h,w) float32, normalised. @param picture (H,W,3) uint8. @return (H,W) uint8.
Tensor crf_labels_of(SegmenterImpl& segmenter, const CrfSettings& settings, int64_t threads, const Tensor& image,
                     const Tensor& picture);

/// The labels that the CRF makes of energies.
/// @param pictures (H,W,3) or (B,H,W,3) uint8. @param energies (K,H,W) or (B,K,H,W). @return (H,W) or (B,H,W) int64.
Tensor crf_labels(const CrfSettings& settings, int64_t threads, const Tensor& pictures, const Tensor& energies);

/// @throws c10::Error or std::invalid_argument for settings that do not go together.
void check_crf(const CrfSettings& settings);

}  // namespace smooseg::app
