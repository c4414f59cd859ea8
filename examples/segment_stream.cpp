// Labels of one frame after another by a model that stays loaded: of a folder of pictures, or of raw RGB from a pipe.
//
//     ffmpeg -i FILM -vf scale=640:360 -f rawvideo -pix_fmt rgb24 - | segment_stream MODEL 640 360 >labels.raw
//     segment_stream MODEL FOLDER >labels.raw
//
// Each label is a byte, row by row; frames per second are printed at the end. It shares the reading of models and
// pictures with the program `smooseg`.

#include <ATen/Parallel.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>
#include <smooseg/memory.hpp>
#include <stdexcept>
#include <string>
#include <thread>

#include "data/dataset.hpp"
#include "model/model.hpp"

namespace app = smooseg::app;

/// Frames (H,W,3) of uint8, one a call; an undefined tensor at the end.
std::function<torch::Tensor()> frames_of(int argc, char** argv) {
  if (argc == 3) {
    return [folder = app::list_pictures(argv[2]), next = std::size_t{0}]() mutable {
      return next < folder.samples.size() ? app::read_image(folder.samples[next++].image) : torch::Tensor();
    };
  }
  if (argc != 4) throw std::runtime_error("usage: segment_stream MODEL FOLDER, or segment_stream MODEL WIDTH HEIGHT");
  return [width = std::stol(argv[2]), height = std::stol(argv[3])] {
    const torch::Tensor frame = torch::empty({height, width, 3}, torch::kUInt8);
    const std::size_t size = frame.nbytes(), got = std::fread(frame.data_ptr(), 1, size, stdin);
    if (got != 0 && got != size) {
      throw std::runtime_error("standard input: expected frames of " + std::to_string(size) + " bytes, found one of " +
                               std::to_string(got));
    }
    return got == size ? frame : torch::Tensor();
  };
}

int main(int argc, char** argv) try {
  smooseg::keep_freed_memory();
  at::set_num_threads(static_cast<int>(std::thread::hardware_concurrency()));
  const auto next = frames_of(argc, argv);
  smooseg::Segmenter segmenter = app::load_model(argv[1], torch::kCPU).model.segmenter;
  const app::Normalization normalization = app::normalization_of(*segmenter->backbone);
  const auto begin = std::chrono::steady_clock::now();
  int64_t count = 0;
  for (torch::Tensor frame = next(); frame.defined(); frame = next(), ++count) {
    const torch::Tensor image = app::normalize(frame, normalization).unsqueeze(0);
    const torch::Tensor labels = segmenter->labels(image).to(torch::kUInt8).contiguous();
    if (std::fwrite(labels.data_ptr(), 1, labels.nbytes(), stdout) != labels.nbytes()) {
      throw std::runtime_error("standard output: cannot write, is the disk full or the reader gone?");
    }
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  std::cerr << count << " frames, " << static_cast<double>(count) / taken.count() << " a second\n";
} catch (const std::exception& e) {
  std::cerr << "segment_stream: " << e.what() << "\n";
  return 1;
}
