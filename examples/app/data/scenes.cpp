#include "data/scenes.hpp"

#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "data/image_file.hpp"
#include "data/textures.hpp"
#include "smooseg/io/atomic_file.hpp"
#include "support/disk.hpp"
#include "support/seeds.hpp"

namespace smooseg::app {
namespace {

enum SceneClass : uint8_t { kSky, kWater, kForest, kField, kMeadow, kBrick, kWood, kGravel };

using Rgb = std::array<double, 3>;

/// Uniform numbers that are the same everywhere, which the standard's distributions are not.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(mixed(seed)) {}
  double uniform(double low, double high) {
    return low + (high - low) * (static_cast<double>(engine_() >> 11) * 0x1p-53);
  }
  bool chance(double probability) { return uniform(0, 1) < probability; }
  uint64_t seed() { return engine_(); }

 private:
  std::mt19937_64 engine_;
};

Rgb blend(const Rgb& a, const Rgb& b, double share) {
  return {a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share};
}

/// A house front or a wall: a rectangle standing on `bottom`, with a gable roof of height `roof` (0: none).
struct Building {
  double left, right, top, bottom, roof;
  SceneClass wall_class, roof_class;
  uint64_t seed;

  bool on_wall(double x, double y) const { return x >= left && x < right && y >= top && y < bottom; }
  bool on_roof(double x, double y) const {
    if (roof <= 0 || y >= top || y < top - roof) return false;
    const double inset = (top - y) / roof * 0.3 * (right - left) - 5;  // the eaves stand out
    return x >= left + inset && x < right - inset;
  }
};

/// What distinguishes one scene: all that is drawn at random, in pixels.
struct Plan {
  double height, width;
  uint64_t seed;
  Rgb blue, green, brown;  // the base colours of the three families
  double light_x, light_y, exposure;
  double contrast, scale;  // of all textures
  double horizon, hill_height;
  double lake_left, lake_right;  // depth of the lake at the left and the right border, negative: none
  double border_x, border_slope;
  bool field_left;
  double furrow_slant;
  double path_top, path_bottom, path_width;
  std::vector<Building> buildings;

  double lake_depth(double x) const { return lake_left + (lake_right - lake_left) * x / width; }
};

Building make_house(Random& random, const Plan& plan) {
  Building house{};
  house.left = plan.width * random.uniform(0.02, 0.7);
  house.bottom = plan.horizon + std::max(0.0, plan.lake_depth(house.left)) + plan.height * random.uniform(0.05, 0.2);
  const double size = 0.65 + (house.bottom - plan.horizon) / (plan.height - plan.horizon);
  house.top = house.bottom - size * plan.height * random.uniform(0.2, 0.28);
  house.right = house.left + size * plan.width * random.uniform(0.24, 0.34);
  house.roof = size * plan.height * random.uniform(0.14, 0.2);
  const bool brick = random.chance(0.5);
  house.wall_class = brick ? kBrick : kWood;
  house.roof_class = brick ? kWood : kBrick;
  house.seed = random.seed();
  return house;
}

/// A wall or fence near the viewer, from the left or the right border inwards.
Building make_wall(Random& random, const Plan& plan) {
  const bool from_left = random.chance(0.5);
  const double length = plan.width * random.uniform(0.25, 0.5);
  Building wall{};
  wall.left = from_left ? -1 : plan.width - length;
  wall.right = from_left ? length : plan.width + 1;
  wall.bottom = plan.height * random.uniform(0.86, 1.02);
  wall.top = wall.bottom - plan.height * random.uniform(0.2, 0.3);
  wall.wall_class = wall.roof_class = random.chance(0.5) ? kBrick : kWood;
  wall.seed = random.seed();
  return wall;
}

Plan make_plan(int64_t height, int64_t width, uint64_t seed) {
  Random random(seed);
  Plan plan{};
  plan.height = static_cast<double>(height);
  plan.width = static_cast<double>(width);
  plan.seed = random.seed();
  plan.blue = blend({104, 142, 190}, {150, 160, 172}, random.uniform(0, 1));  // clear .. overcast
  plan.green = blend({84, 128, 62}, {164, 136, 70}, random.uniform(0, 1));    // spring .. autumn
  plan.brown = blend({170, 110, 84}, {150, 142, 118}, random.uniform(0, 1));  // clay .. sandstone
  plan.light_x = random.uniform(-0.25, 0.25);
  plan.light_y = random.uniform(-0.1, 0.2);
  plan.exposure = random.uniform(0.75, 1.15);
  plan.contrast = random.uniform(0.55, 1.25);
  plan.scale = random.uniform(0.8, 1.3);
  plan.horizon = plan.height * random.uniform(0.3, 0.42);
  plan.hill_height = plan.height * random.uniform(0.12, 0.22);
  plan.lake_left = plan.height * random.uniform(-0.04, 0.3);
  plan.lake_right = plan.height * random.uniform(-0.04, 0.3);
  plan.border_x = plan.width * random.uniform(0.25, 0.75);
  plan.border_slope = random.uniform(-1.2, 1.2);
  plan.field_left = random.chance(0.5);
  plan.furrow_slant = random.uniform(-0.9, 0.9);
  plan.path_top = plan.width * random.uniform(0.2, 0.8);
  plan.path_bottom = plan.width * random.uniform(0.2, 0.8);
  plan.path_width = plan.width * random.uniform(0.2, 0.32);
  if (random.chance(0.9)) plan.buildings.push_back(make_house(random, plan));
  if (random.chance(0.45)) plan.buildings.push_back(make_house(random, plan));
  if (random.chance(0.65)) plan.buildings.push_back(make_wall(random, plan));
  std::sort(plan.buildings.begin(), plan.buildings.end(),
            [](const Building& a, const Building& b) { return a.bottom < b.bottom; });  // the nearest last
  return plan;
}

/// The landscape behind the buildings.
SceneClass ground_class(const Plan& plan, double x, double y) {
  const double ripple = textures::noise(x / 60, 0, plan.seed) + 0.4 * textures::noise(x / 17, 0, plan.seed + 1);
  const double shore = plan.horizon + 3 * ripple;
  const double hills = plan.hill_height * (0.75 + 0.5 * textures::noise(x / 90, 5, plan.seed + 2)) +
                       5 * textures::noise(x / 14, 5, plan.seed + 3);
  if (y < shore - hills) return kSky;
  if (y < shore) return kForest;

  const double depth = (y - plan.horizon) / (plan.height - plan.horizon);
  if (y < plan.horizon + plan.lake_depth(x) + 5 * ripple) return kWater;

  const double sway = 0.12 * plan.width * textures::noise(3, depth * 2.5, plan.seed + 4);
  const double path = plan.path_top * (1 - depth) + plan.path_bottom * depth + sway;
  if (std::abs(x - path) < 0.5 * plan.path_width * (0.2 + depth)) return kGravel;

  const double wobble = 0.06 * plan.width * textures::noise(7, y / 40, plan.seed + 5);
  const bool left = x + wobble < plan.border_x + plan.border_slope * (y - 0.7 * plan.height);
  return left == plan.field_left ? kField : kMeadow;
}

/// A position on an object's surface, and the class there.
struct Surface {
  SceneClass kind;
  double x, y;
  uint64_t seed;
  double shade;     // of the brightness
  double contrast;  // of the texture
};

Surface surface_at(const Plan& plan, double x, double y) {
  const double scale = 1 / plan.scale;
  for (auto b = plan.buildings.rbegin(); b != plan.buildings.rend(); ++b) {
    if (b->on_wall(x, y)) return {b->wall_class, (x - b->left) * scale, (y - b->top) * scale, b->seed, 1, 1};
    if (b->on_roof(x, y)) return {b->roof_class, (x - b->left) * scale, (y - b->top) * scale, b->seed, 0.85, 1};
  }
  const SceneClass kind = ground_class(plan, x, y);
  if (kind == kSky || kind == kForest) return {kind, x * scale, y * scale, plan.seed, 1, 1};
  // What lies flat grows towards the viewer and loses its haze, and its lines run together at the horizon.
  const double depth = (y - plan.horizon) / (plan.height - plan.horizon);
  return {kind,
          (x - 0.5 * plan.width) / (0.75 + 0.45 * depth) * scale,
          (y - plan.horizon) / (0.75 + 0.2 * depth) * scale,
          plan.seed,
          1,
          0.65 + 0.35 * depth};
}

/// How the surfaces of a class look.
struct Texture {
  double contrast;
  double (*pattern)(double x, double y, uint64_t seed);  ///< -1..1
};

/// By class.
constexpr std::array<Texture, 8> kTextures{{{0.16, textures::clouds},
                                            {0.15, textures::waves},
                                            {0.34, textures::crowns},
                                            {0.24, textures::furrows},
                                            {0.26, textures::grass},
                                            {0.20, textures::bricks},
                                            {0.22, textures::boards},
                                            {0.26, textures::pebbles}}};

/// The pattern of a class times its contrast.
double pattern(const Plan& plan, const Surface& at) {
  const auto seed = at.seed + 16 * (1 + static_cast<uint64_t>(at.kind));
  const Texture& texture = kTextures[at.kind];
  const double slant = at.kind == kField ? plan.furrow_slant : 0;
  return texture.contrast * texture.pattern(at.x + slant * at.y, at.y, seed);
}

const Rgb& base_color(const Plan& plan, SceneClass kind) {
  if (kind == kSky || kind == kWater) return plan.blue;
  return kind == kForest || kind == kField || kind == kMeadow ? plan.green : plan.brown;
}

Rgb color_at(const Plan& plan, const Surface& at, int64_t column, int64_t row) {
  const auto x = static_cast<double>(column);
  const auto y = static_cast<double>(row);
  const double light =
      plan.exposure * (1 + plan.light_x * (x / plan.width - 0.5) + plan.light_y * (y / plan.height - 0.5));
  const double tint = 0.06 * textures::noise(x / 45, y / 45, plan.seed + 6);  // warmer here, cooler there
  const double brightness = light * at.shade * (1 + plan.contrast * at.contrast * pattern(plan, at));
  const Rgb& base = base_color(plan, at.kind);
  Rgb color{};
  for (size_t c = 0; c < 3; ++c) {
    const double grain =
        textures::lattice(column, row, plan.seed + 7 + c) + textures::lattice(column, row, plan.seed + 10 + c) - 1;
    color[c] = base[c] * brightness * (1 + tint * (1 - static_cast<double>(c))) + 9 * grain;
  }
  return color;
}

/// Such as "0007.png".
std::string file_name(int64_t number) {
  const std::string digits = std::to_string(number);
  return std::string(digits.size() < 4 ? 4 - digits.size() : 0, '0') + digits + ".png";
}

}  // namespace

ClassTable scene_classes() {
  ClassTable classes;
  classes.names = {"sky", "water", "forest", "field", "meadow", "brick", "wood", "gravel"};
  classes.colors = {{135, 206, 235}, {25, 90, 200}, {20, 100, 40}, {230, 190, 60},
                    {140, 210, 80},  {190, 50, 40}, {130, 80, 40}, {170, 170, 170}};
  return classes;
}

Scene make_scene(int64_t height, int64_t width, uint64_t seed) {
  const Plan plan = make_plan(height, width, seed);
  const Scene scene{torch::empty({height, width, 3}, torch::kUInt8), torch::empty({height, width}, torch::kUInt8)};
  auto *color = scene.image.data_ptr<uint8_t>(), *label = scene.labels.data_ptr<uint8_t>();
  for (int64_t row = 0; row < height; ++row) {
    for (int64_t column = 0; column < width; ++column) {
      const Surface surface = surface_at(plan, static_cast<double>(column), static_cast<double>(row));
      *label++ = surface.kind;
      for (const double value : color_at(plan, surface, column, row)) {
        *color++ = static_cast<uint8_t>(std::clamp(value, 0.0, 255.0) + 0.5);
      }
    }
  }
  return scene;
}

void write_scenes(const std::filesystem::path& root, const SceneOptions& options) {
  const ClassTable classes = scene_classes();
  const auto write_split = [&](const std::string& split, int64_t count, uint64_t stream) {
    const auto images = root / "images" / split, labels = root / "labels" / split;
    make_folder(images, "--out");
    make_folder(labels, "--out");
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t seed = mixed(options.seed ^ mixed(stream)) + static_cast<uint64_t>(i);
      const Scene scene = make_scene(options.height, options.width, seed);
      write_png(images / file_name(i), scene.image);
      write_palette_png(labels / file_name(i), scene.labels, classes.colors);
    }
  };
  write_split("train", options.train, 1);
  if (options.test > 0) write_split("test", options.test, 2);
  io::write_file_atomically(root / "classes.json", [&](std::ostream& out) { out << classes_to_json(classes) << '\n'; });
}

}  // namespace smooseg::app
