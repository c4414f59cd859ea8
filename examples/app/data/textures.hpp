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

double clouds(double x, double y, uint64_t seed);   ///< three octaves of `noise`
double waves(double x, double y, uint64_t seed);    ///< long low ripples, nearly horizontal
double crowns(double x, double y, uint64_t seed);   ///< tree crowns lit from above
double furrows(double x, double y, uint64_t seed);  ///< parallel furrows along the y axis
double grass(double x, double y, uint64_t seed);    ///< short upright blades
double bricks(double x, double y, uint64_t seed);   ///< bricks of random tone in bond, with mortar between
double boards(double x, double y, uint64_t seed);   ///< upright boards with dark gaps and fine grain
double pebbles(double x, double y, uint64_t seed);  ///< round pebbles of random tone

}  // namespace smooseg::app::textures
