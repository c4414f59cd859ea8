#pragma once

// The tiles of ISPRS Potsdam, cut into pieces.

#include <cstdint>
#include <filesystem>
#include <ostream>
#include <string>

namespace smooseg::app {

/// Numbers of the pieces of Potsdam as the literature uses them.
struct PotsdamPieces {
  static constexpr int64_t kPerSide = 15;  ///< of each of the 38 tiles
  static constexpr int64_t kTrain = 4545, kTest = 855, kUnlabelled = 3150;
};

/// Cuts the 38 tiles into 8550 pieces, a data set of its own in `out`: images/{train,test,unlabelled}, labels/{train,test},
/// classes.json. Each tile is cut into 15 x 15 squares and halved: a pixel of a piece is the mean of 2 x 2 pixels of the
/// tile, its label that of the lower right one. The 24 tiles that ISPRS published with labels give the pieces to train on
/// and to score, which of them is drawn by a fixed seed; the other 14 the unlabelled ones.
/// @param variant "rgb" (2_Ortho_RGB) or "irrg" (3_Ortho_IRRG).
/// @param root holds that folder and 5_Labels_all, whole (`check_is`).
/// @param threads that write pieces. @param err gets the progress.
/// @throws std::runtime_error naming tiles that are missing or cannot be used, all of them; Stopped for a signal. The
///   pieces made so far are kept, out of the sight of other commands, and the next call goes on from them.
void cut_potsdam(const std::string& variant, const std::filesystem::path& root, const std::filesystem::path& out,
                 int threads, std::ostream& err);

}  // namespace smooseg::app
