#include "data/potsdam.hpp"

#include <torch/types.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include "data/class_tables.hpp"
#include "data/codec.hpp"
#include "data/image_file.hpp"
#include "data/label_map.hpp"
#include "smooseg/detail/parallel.hpp"
#include "smooseg/io/atomic_file.hpp"
#include "support/disk.hpp"
#include "support/progress.hpp"
#include "support/seeds.hpp"
#include "support/stop_signal.hpp"

namespace smooseg::app {
namespace {

namespace fs = std::filesystem;
using codec::fail;

constexpr auto kSide = PotsdamPieces::kPerSide;
constexpr int64_t kPiecesOfTile = kSide * kSide;
constexpr int64_t kShrink = 2;
constexpr int64_t kIgnoredLabel = 255;

/// Row and column of the tiles that ISPRS published with labels, and of those it kept back at first.
constexpr std::array<const char*, 24> kLabelled{"2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11",
                                                "4_12", "5_10", "5_11", "5_12", "6_7",  "6_8",  "6_9",  "6_10",
                                                "6_11", "6_12", "7_7",  "7_8",  "7_9",  "7_10", "7_11", "7_12"};
constexpr std::array<const char*, 14> kUnlabelled{"2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15",
                                                  "5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13"};
static_assert(kLabelled.size() * kPiecesOfTile == PotsdamPieces::kTrain + PotsdamPieces::kTest);
static_assert(kUnlabelled.size() * kPiecesOfTile == PotsdamPieces::kUnlabelled);

struct Tile {
  std::string name;
  fs::path picture;
  fs::path label;     // empty: none is taken
  int64_t first = 0;  // number of its first piece among those of its kind
};

std::vector<Tile> tiles_of(const std::string& variant, const fs::path& root) {
  const bool rgb = variant == "rgb";
  const fs::path pictures = root / (rgb ? "2_Ortho_RGB" : "3_Ortho_IRRG"), labels = root / "5_Labels_all";
  const auto picture = [&](const std::string& name) {
    return pictures / ("top_potsdam_" + name + (rgb ? "_RGB.tif" : "_IRRG.tif"));
  };
  std::vector<Tile> tiles;
  for (const std::string name : kLabelled) {
    tiles.push_back({name, picture(name), labels / ("top_potsdam_" + name + "_label.tif")});
  }
  for (const std::string name : kUnlabelled) tiles.push_back({name, picture(name), {}});
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    tiles[i].first = static_cast<int64_t>(i % kLabelled.size()) * kPiecesOfTile;
  }
  return tiles;
}

void check_files(const std::vector<Tile>& tiles, const fs::path& root) {
  std::vector<fs::path> missing;
  for (const Tile& tile : tiles) {
    for (const fs::path& file : {tile.picture, tile.label}) {
      if (!file.empty() && !fs::is_regular_file(file)) missing.push_back(file);
    }
  }
  if (missing.empty()) return;
  fail(root, "38 tiles of pictures and the labels of 24",
       std::to_string(missing.size()) + " of these files missing, such as " +
           missing.front().lexically_relative(root).generic_string() +
           ": unpack all of the zip files, without folders of their own");
}

/// Of the labelled pieces, by number, which are for the test: those whose numbers are the smallest once mixed.
std::vector<bool> test_pieces() {
  constexpr uint64_t kSeed = 0x506f747364616d;  // never changes
  std::vector<uint64_t> order(PotsdamPieces::kTrain + PotsdamPieces::kTest);
  std::iota(order.begin(), order.end(), uint64_t{0});
  std::sort(order.begin(), order.end(), [](uint64_t a, uint64_t b) { return mixed(kSeed + a) < mixed(kSeed + b); });
  std::vector<bool> is_test(order.size(), false);
  for (int64_t i = 0; i < PotsdamPieces::kTest; ++i) is_test[order[static_cast<std::size_t>(i)]] = true;
  return is_test;
}

/// Where the pieces of a tile go.
struct Piece {
  int64_t row, column;
  fs::path image, label;
};

std::vector<Piece> pieces_of(const Tile& tile, const fs::path& folder, const std::vector<bool>& is_test) {
  std::vector<Piece> pieces;
  for (int64_t i = 0; i < kPiecesOfTile; ++i) {
    const auto two_digits = [](int64_t n) { return std::string(n < 10 ? "0" : "") + std::to_string(n); };
    const std::string name = tile.name + "_" + two_digits(i / kSide) + "_" + two_digits(i % kSide) + ".png";
    const std::string split = tile.label.empty()                                  ? "unlabelled"
                              : is_test[static_cast<std::size_t>(tile.first + i)] ? "test"
                                                                                  : "train";
    pieces.push_back({i / kSide, i % kSide, folder / "images" / split / name,
                      tile.label.empty() ? fs::path() : folder / "labels" / split / name});
  }
  return pieces;
}

bool is_there(const Piece& piece) {
  return fs::exists(piece.image) && (piece.label.empty() || fs::exists(piece.label));
}

/// The mean of each 2 x 2 pixels, rounded. @param picture (H,W,3) uint8, H and W even.
Tensor halved(const Tensor& picture) {
  const int64_t height = picture.size(0) / kShrink, width = picture.size(1) / kShrink;
  const Tensor sums = picture.to(torch::kInt32).view({height, kShrink, width, kShrink, 3}).sum({1, 3});
  return sums.add(2).floor_divide(4).to(torch::kUInt8);
}

void cut(const Tile& tile, const std::vector<Piece>& pieces, int threads) {
  const Tensor picture = read_image(tile.picture);
  const int64_t side = picture.size(0);
  if (side != picture.size(1) || side % (kShrink * kSide) != 0) {
    fail(tile.picture, "a square tile, 6000 x 6000 pixels as published", codec::size_text(side, picture.size(1)));
  }
  Tensor label;
  if (!tile.label.empty()) {
    label = read_label_map(tile.label, potsdam_tile_classes());
    if (label.size(0) != side || label.size(1) != side) {
      fail(tile.label, "the size of " + tile.picture.string() + ", " + codec::size_text(side, side),
           codec::size_text(label.size(0), label.size(1)));
    }
  }
  const int64_t piece_side = side / kSide;
  const auto part = [&](const Tensor& whole, const Piece& piece) {
    return whole.narrow(0, piece.row * piece_side, piece_side).narrow(1, piece.column * piece_side, piece_side);
  };
  smooseg::detail::parallel_for(static_cast<int64_t>(pieces.size()), threads, [&](int64_t i) {
    const Piece& piece = pieces[static_cast<std::size_t>(i)];
    if (label.defined()) {
      const Tensor chosen =
          part(label, piece).slice(0, kShrink / 2, piece_side, kShrink).slice(1, kShrink / 2, piece_side, kShrink);
      write_png(piece.label, chosen.masked_fill(chosen < 0, kIgnoredLabel).to(torch::kUInt8));
    }
    write_png(piece.image, halved(part(picture, piece).contiguous()));
  });
}

/// Refuses pieces of other tiles in the same folder; notes whose they are.
void claim(const fs::path& folder, const std::string& variant, const fs::path& root) {
  const fs::path path = folder / "of.txt";
  const std::string ours = variant + " " + fs::canonical(root).string();
  std::ifstream file(path);
  std::string found;
  if (file && std::getline(file, found) && found != ours) {
    fail(folder, "unfinished pieces of " + ours, "those of " + found + ": remove them, or take another --out");
  }
  io::write_file_atomically(path, [&](std::ostream& stream) { stream << ours << "\n"; });
}

}  // namespace

void cut_potsdam(const std::string& variant, const fs::path& root, const fs::path& out, int threads,
                 std::ostream& err) {
  constexpr std::size_t kShown = 20;
  if (!reads_tiff()) {
    throw std::runtime_error(
        "potsdam: the tiles are TIFF files, for which this program must be built with libtiff-dev: "
        "install that package and run cmake/build.sh");
  }
  const std::vector<Tile> tiles = tiles_of(variant, root);
  check_files(tiles, root);
  const fs::path unfinished = out / ".unfinished";
  for (const char* name : {"images", "labels", "classes.json"}) {
    const bool may_be_ours = name != std::string("images") && fs::exists(unfinished);
    if (fs::exists(out / name) && !may_be_ours) {
      fail(out, "a folder without a data set", std::string(name) + " in it: take another --out");
    }
  }
  for (const char* folder : {"images/train", "images/test", "images/unlabelled", "labels/train", "labels/test"}) {
    make_folder(unfinished / folder, "--out");
  }
  claim(unfinished, variant, root);

  const std::vector<bool> is_test = test_pieces();
  std::vector<std::string> problems;
  const StopSignal stop;
  Progress progress(err, 0, static_cast<int64_t>(tiles.size()));
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    const std::vector<Piece> pieces = pieces_of(tiles[i], unfinished, is_test);
    try {
      if (!std::all_of(pieces.begin(), pieces.end(), is_there)) cut(tiles[i], pieces, threads);
    } catch (const std::runtime_error& e) {
      problems.emplace_back(e.what());
    }
    progress.show(static_cast<int64_t>(i) + 1, "tiles cut");
    if (stop.received() != 0) {
      throw Stopped(stop.received(),
                    "stopped by signal " + std::to_string(stop.received()) + "; the same command goes on from here");
    }
  }
  if (!problems.empty()) {
    std::string lines;
    for (std::size_t i = 0; i < std::min(kShown, problems.size()); ++i) lines += problems[i] + "\n";
    throw std::runtime_error(lines + std::to_string(problems.size()) +
                             " tiles cannot be used: get them again, and the same command goes on with them");
  }
  // With images/ in its place the data set is whole.
  io::write_file_atomically(out / "classes.json",
                            [](std::ostream& file) { file << classes_to_json(potsdam_classes()) << "\n"; });
  fs::remove_all(out / "labels");  // of a run that was killed between this and the next line
  fs::rename(unfinished / "labels", out / "labels");
  fs::rename(unfinished / "images", out / "images");
  fs::remove_all(unfinished);
}

}  // namespace smooseg::app
