#include "data/textures.hpp"

#include <algorithm>
#include <cmath>

#include "support/seeds.hpp"

namespace smooseg::app::textures {
namespace {

/// A wave of period 1 through 0, 1, 0, -1, of two parabolas; nearly a sine.
double wave(double phase) {
  const double p = phase - std::floor(phase);
  return p < 0.5 ? 16 * p * (0.5 - p) : -16 * (p - 0.5) * (1 - p);
}

struct Cell {
  double dx, dy;    // from the cell's centre to the position, in cells
  double distance;  // the length of that
  double tone;      // random for the cell, -1..1
};

/// The nearest of random centres, one in each unit square.
Cell nearest_cell(double x, double y, uint64_t seed) {
  const auto left = static_cast<int64_t>(std::floor(x));
  const auto top = static_cast<int64_t>(std::floor(y));
  Cell best{0, 0, 4, 0};
  for (int64_t j = top - 1; j <= top + 1; ++j) {
    for (int64_t i = left - 1; i <= left + 1; ++i) {
      const double dx = x - (static_cast<double>(i) + 0.15 + 0.7 * lattice(i, j, seed));
      const double dy = y - (static_cast<double>(j) + 0.15 + 0.7 * lattice(i, j, seed + 1));
      const double distance = std::sqrt(dx * dx + dy * dy);
      if (distance < best.distance) best = {dx, dy, distance, 2 * lattice(i, j, seed + 2) - 1};
    }
  }
  return best;
}

}  // namespace

double lattice(int64_t x, int64_t y, uint64_t seed) {
  const uint64_t position = static_cast<uint64_t>(x) * 0x1f123bb5u + static_cast<uint64_t>(y) * 0x5851f42d4c957f2du;
  return static_cast<double>(mixed(position ^ mixed(seed)) >> 11) * 0x1p-53;
}

double noise(double x, double y, uint64_t seed) {
  const double left = std::floor(x);
  const double top = std::floor(y);
  const auto i = static_cast<int64_t>(left);
  const auto j = static_cast<int64_t>(top);
  const auto smooth = [](double t) { return t * t * (3 - 2 * t); };
  const double u = smooth(x - left);
  const double v = smooth(y - top);
  const double upper = lattice(i, j, seed) * (1 - u) + lattice(i + 1, j, seed) * u;
  const double lower = lattice(i, j + 1, seed) * (1 - u) + lattice(i + 1, j + 1, seed) * u;
  return 2 * (upper * (1 - v) + lower * v) - 1;
}

double clouds(double x, double y, uint64_t seed) {
  return 0.6 * noise(x / 64, y / 28, seed) + 0.3 * noise(x / 30, y / 13, seed + 1) +
         0.15 * noise(x / 14, y / 7, seed + 2);
}

double waves(double x, double y, uint64_t seed) {
  const double bend = 0.7 * noise(x / 26, y / 9, seed);
  const double strength = 0.75 + 0.35 * noise(x / 20, y / 7, seed + 1);
  return strength * wave(y / 7 + bend);
}

double crowns(double x, double y, uint64_t seed) {
  const Cell crown = nearest_cell(x / 13, y / 10, seed);
  const double light = 0.75 - 1.3 * crown.distance - 0.9 * crown.dy;
  return std::clamp(0.9 * light + 0.25 * crown.tone + 0.2 * noise(x / 2.5, y / 2.5, seed + 3), -1.2, 1.0);
}

double furrows(double x, double y, uint64_t seed) {
  return 0.85 * wave(x / 8 + 0.25 * noise(x / 40, y / 40, seed)) + 0.2 * noise(x / 2, y / 5, seed + 1);
}

double grass(double x, double y, uint64_t seed) {
  return 0.9 * noise(x / 1.3, y / 3.5, seed) + 0.5 * noise(x / 2.2, y / 5, seed + 1);
}

double bricks(double x, double y, uint64_t seed) {
  const double course = std::floor(y / 8);
  const auto row = static_cast<int64_t>(course);
  const double shifted = x / 17 + (row % 2 != 0 ? 0.5 : 0.0);
  const double column = std::floor(shifted);
  const double from_left = (shifted - column) * 17;
  const double from_top = y - course * 8;
  if (from_left < 1.8 || from_top < 1.8) return 1.1;  // mortar
  const double tone = 2 * lattice(static_cast<int64_t>(column), row, seed) - 1;
  return -0.55 + 0.4 * tone + 0.2 * noise(x / 1.5, y / 1.5, seed + 1);
}

double boards(double x, double y, uint64_t seed) {
  const double board = std::floor(x / 11);
  const double from_left = x - board * 11;
  if (from_left < 1.8) return -1.6;  // the gap
  const auto number = static_cast<int64_t>(board);
  const double tone = 2 * lattice(number, 0, seed) - 1;
  return 0.25 + 0.35 * tone + 0.35 * noise(x / 1.4, y / 22, seed + 1);
}

double pebbles(double x, double y, uint64_t seed) {
  const Cell pebble = nearest_cell(x / 5, y / 4.2, seed);
  return 0.75 - 1.9 * pebble.distance + 0.5 * pebble.tone;
}

}  // namespace smooseg::app::textures
