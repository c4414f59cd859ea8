#pragma once

// Procedural textures for `scenes.hpp`: brightness patterns of mean about 0 and range about -1..1, as functions of the
// position in pixels and a seed. Only +, -, *, /, floor and sqrt, which round alike everywhere, so that the pictures do
// not depend on a mathematical library.

#include <cstdint>

namespace smooseg::app::textures {

/// Uniform in [0,1) for each whole position.
double lattice(int64_t x, int64_t y, uint64_t seed);

/// Smoothly interpolated random values of the whole positions, -1..1.
double noise(double x, double y, uint64_t seed);

/// Three octaves of `noise`.
double clouds(double x, double y, uint64_t seed);

/// Long low ripples, nearly horizontal.
double waves(double x, double y, uint64_t seed);

/// Tree crowns lit from above.
double crowns(double x, double y, uint64_t seed);

/// Parallel furrows along the y axis.
double furrows(double x, double y, uint64_t seed);

/// Short upright blades.
double grass(double x, double y, uint64_t seed);

/// Bricks of random tone in bond, with mortar between.
double bricks(double x, double y, uint64_t seed);

/// Upright boards with dark gaps and fine grain.
double boards(double x, double y, uint64_t seed);

/// Round pebbles of random tone.
double pebbles(double x, double y, uint64_t seed);

}  // namespace smooseg::app::textures
