#include "data/class_tables.hpp"

#include <array>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

#include "data/codec.hpp"

namespace smooseg::app {
namespace {

using Names = std::vector<std::string>;

/// The class of each of COCO-Stuff's 182 labels, counted from 0.
constexpr std::array<uint8_t, 182> kCocoCoarse{
    9,  11, 11, 11, 11, 11, 11, 11, 11, 8,  8,  8,  8,  8,  8,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  6,
    6,  6,  6,  6,  6,  6,  6,  10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 5,  5,  5,  5,  5,  5,  5,  5,  2,
    2,  2,  2,  2,  2,  2,  2,  2,  2,  3,  3,  3,  3,  3,  3,  3,  3,  3,  3,  0,  0,  0,  0,  0,  0,  1,
    1,  1,  1,  1,  1,  4,  4,  4,  4,  4,  4,  4,  4,  17, 17, 22, 20, 20, 22, 15, 25, 16, 13, 12, 12, 17,
    17, 23, 15, 15, 17, 15, 21, 15, 25, 13, 13, 13, 13, 13, 22, 26, 14, 14, 15, 22, 21, 21, 24, 20, 22, 15,
    17, 16, 15, 22, 24, 21, 17, 25, 16, 21, 17, 22, 16, 21, 21, 25, 21, 26, 21, 24, 20, 17, 14, 21, 26, 15,
    23, 20, 21, 24, 15, 24, 22, 25, 15, 20, 17, 17, 22, 14, 18, 18, 18, 18, 18, 18, 18, 26, 26, 19, 19, 24};

/// The colours of Pascal VOC's palette: the bits of a number, three at a time, become the highest bits of red, green and
/// blue.
std::vector<Color> voc_palette(int64_t count) {
  std::vector<Color> colors(static_cast<size_t>(count), Color{0, 0, 0});
  for (int64_t k = 0; k < count; ++k) {
    for (int bit = 0; bit < 8; ++bit) {
      for (size_t c = 0; c < 3; ++c) {
        const auto set = static_cast<uint8_t>((k >> (3 * bit + static_cast<int>(c)) & 1) << (7 - bit));
        colors[static_cast<size_t>(k)][c] = static_cast<uint8_t>(colors[static_cast<size_t>(k)][c] | set);
      }
    }
  }
  return colors;
}

}  // namespace

ClassTable cocostuff_classes(int64_t first_label) {
  ClassTable table;
  table.names = Names{
      "electronic",   "appliance",  "food",   "furniture", "indoor",   "kitchen", "accessory",    "animal",
      "outdoor",      "person",     "sports", "vehicle",   "ceiling",  "floor",   "food (stuff)", "furniture (stuff)",
      "raw material", "textile",    "wall",   "window",    "building", "ground",  "plant",        "sky",
      "solid",        "structural", "water"};
  table.colors = voc_palette(table.size());
  table.ids.resize(table.names.size());
  for (size_t fine = 0; fine < kCocoCoarse.size(); ++fine) {
    table.ids[kCocoCoarse[fine]].push_back(static_cast<int64_t>(fine) + first_label);
  }
  table.ignore = {first_label == 0 ? 255 : 0};
  return table;
}

ClassTable cityscapes_classes() {
  constexpr int64_t kFirst = 7;
  ClassTable table;
  table.names = Names{"road",       "sidewalk", "parking", "rail track", "building",   "wall",          "fence",
                      "guard rail", "bridge",   "tunnel",  "pole",       "polegroup",  "traffic light", "traffic sign",
                      "vegetation", "terrain",  "sky",     "person",     "rider",      "car",           "truck",
                      "bus",        "caravan",  "trailer", "train",      "motorcycle", "bicycle"};
  table.colors = {{128, 64, 128},  {244, 35, 232},  {250, 170, 160}, {230, 150, 140}, {70, 70, 70},    {102, 102, 156},
                  {190, 153, 153}, {180, 165, 180}, {150, 100, 100}, {150, 120, 90},  {153, 153, 153}, {153, 153, 153},
                  {250, 170, 30},  {220, 220, 0},   {107, 142, 35},  {152, 251, 152}, {70, 130, 180},  {220, 20, 60},
                  {255, 0, 0},     {0, 0, 142},     {0, 0, 70},      {0, 60, 100},    {0, 0, 90},      {0, 0, 110},
                  {0, 80, 100},    {0, 0, 230},     {119, 11, 32}};
  for (int64_t k = 0; k < table.size(); ++k) table.ids.push_back({kFirst + k});
  for (int64_t id = 0; id < kFirst; ++id) table.ignore.push_back(id);
  table.ignore.push_back(255);  // the licence plate's -1
  return table;
}

ClassTable potsdam_classes() {
  ClassTable table;
  table.names = Names{"roads and cars", "buildings and clutter", "vegetation and trees"};
  table.colors = {{68, 1, 84}, {33, 145, 140}, {253, 231, 37}};
  table.ids = {{0, 4}, {1, 5}, {2, 3}};
  table.ignore = {255};
  return table;
}

ClassTable potsdam_tile_classes() {
  ClassTable table;
  table.names = Names{"road (impervious surface)", "building", "low vegetation", "tree", "car", "clutter"};
  table.colors = {{255, 255, 255}, {0, 0, 255}, {0, 255, 255}, {0, 255, 0}, {255, 255, 0}, {255, 0, 0}};
  for (const Color& color : table.colors) table.label_colors.push_back({color});
  table.color_tolerance = 8;  // all are corners of the cube of colours: nothing else is as near
  return table;
}

ClassTable camvid_classes() {
  ClassTable table;
  table.names = Names{"sky",         "building", "pole", "road",       "pavement", "tree",
                      "sign symbol", "fence",    "car",  "pedestrian", "bicyclist"};
  table.colors = {{128, 128, 128}, {128, 0, 0},   {192, 192, 128}, {128, 64, 128}, {60, 40, 222}, {128, 128, 0},
                  {192, 128, 128}, {64, 64, 128}, {64, 0, 128},    {64, 64, 0},    {0, 128, 192}};
  table.ignore = {11};
  return table;
}

ClassTable voc_classes() {
  ClassTable table;
  table.names = Names{"background", "aeroplane", "bicycle",      "bird",  "boat",         "bottle", "bus",
                      "car",        "cat",       "chair",        "cow",   "dining table", "dog",    "horse",
                      "motorbike",  "person",    "potted plant", "sheep", "sofa",         "train",  "tv/monitor"};
  table.colors = voc_palette(table.size());
  table.ignore = {255};
  return table;
}

ClassTable ade20k_classes(const std::filesystem::path& root) {
  constexpr int64_t kClasses = 150;
  const std::filesystem::path path = root / "objectInfo150.txt";
  std::ifstream file(path);
  if (!file) codec::fail(path, "the names of ADE20K's classes, which come with the data set", "no readable file");
  ClassTable table;
  std::string line;
  std::getline(file, line);  // Idx, Ratio, Train, Val, Stuff, Name
  while (std::getline(file, line)) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) continue;
    std::istringstream words(line);
    int64_t index = 0, train = 0, val = 0, stuff = 0;
    double ratio = 0;
    std::string name;
    if (!(words >> index >> ratio >> train >> val >> stuff) || !std::getline(words >> std::ws, name) ||
        index != table.size() + 1) {
      codec::fail(path, "line " + std::to_string(table.size() + 2) + ": index, ratio, train, val, stuff and name",
                  "'" + line + "'");
    }
    table.names.push_back(name);
    table.ids.push_back({index});
  }
  if (table.size() != kClasses) {
    codec::fail(path, std::to_string(kClasses) + " classes", std::to_string(table.size()));
  }
  table.colors = default_colors(kClasses);
  table.ignore = {0};
  return table;
}

}  // namespace smooseg::app
