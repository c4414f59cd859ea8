#pragma once

// Made-up landscapes with exact labels, so that the whole program can be tried with nothing to download.

#include <cstdint>
#include <filesystem>

#include "data/classes.hpp"
#include "smooseg/detail/torch_compat.hpp"

namespace smooseg::app {

struct SceneOptions {
  int64_t train = 200;   ///< pictures in images/train
  int64_t test = 40;     ///< pictures in images/test
  int64_t height = 240;  ///< of each picture, in pixels
  int64_t width = 320;   ///< likewise
  uint64_t seed = 1;     ///< decides every pixel, on every platform
};

/// A picture and the class of each of its pixels.
struct Scene {
  Tensor image;   ///< (H,W,3) uint8
  Tensor labels;  ///< (H,W) uint8
};

/// The classes of the scenes: three families (air and water; plants; buildings and paths) within each of which the
/// classes share their colours and differ in texture alone: direction, scale and contrast.
ClassTable scene_classes();

/// One scene: a sky over wooded hills, a lake, a field and a meadow, a path, houses, a wall. The colours of a family,
/// the light and the layout differ from scene to scene.
/// @param seed another number, another scene; the same number, the same pixels on every platform.
Scene make_scene(int64_t height, int64_t width, uint64_t seed);

/// Writes a data set of scenes: images/{train,test}/NNNN.png, labels/{train,test}/NNNN.png (palette), classes.json.
/// Scene n of a split does not depend on how many there are.
/// @throws std::runtime_error where files cannot be written, naming --out where a folder cannot be made.
void write_scenes(const std::filesystem::path& root, const SceneOptions& options = {});

}  // namespace smooseg::app
