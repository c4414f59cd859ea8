// BMP without compression, with the header that Windows has written since version 3 or a later one.

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/codec.hpp"

namespace smooseg::app::codec {
namespace {

constexpr int64_t kFileHeader = 14, kInfoHeader = 40;
constexpr uint32_t kUncompressed = 0, kBitFields = 3;

class BmpPicture : public PictureRows {
 public:
  explicit BmpPicture(File file) : file_(std::move(file)) {
    std::array<uint8_t, kFileHeader + kInfoHeader + 12> head{};  // and three masks
    read_at(0, head.data(), kFileHeader + 4);
    const auto word = [&](std::size_t at) {
      return head[at] | uint32_t{head[at + 1]} << 8 | uint32_t{head[at + 2]} << 16 | uint32_t{head[at + 3]} << 24;
    };
    const int64_t info = word(14);
    if (info < kInfoHeader || info > (int64_t{1} << 16)) {
      refuse("a header of 40 bytes or more, as Windows writes it", "one of " + std::to_string(info));
    }
    read_at(0, head.data(), kFileHeader + kInfoHeader);
    width_ = static_cast<int32_t>(word(18));
    const int64_t height = static_cast<int32_t>(word(22));
    height_ = std::abs(height);
    from_bottom_ = height > 0;
    bits_ = word(28) & 0xffff;
    const uint32_t compression = word(30);
    pixels_ = word(10);
    if (width_ <= 0 || height_ == 0 || height_ > std::numeric_limits<int32_t>::max()) {
      refuse("a size of at least 1 x 1", size_text(height_, width_));
    }
    if (bits_ != 1 && bits_ != 4 && bits_ != 8 && bits_ != 24 && bits_ != 32) {
      refuse("1, 4, 8, 24 or 32 bits a pixel", std::to_string(bits_));
    }
    if (compression == kBitFields && bits_ == 32) {
      read_at(0, head.data(), static_cast<int64_t>(head.size()));
      if (word(54) != 0xff0000 || word(58) != 0xff00 || word(62) != 0xff) {
        refuse("blue, green and red of 8 bits each, in this order", "other bit fields");
      }
    } else if (compression != kUncompressed) {
      refuse("no compression", "that of number " + std::to_string(compression));
    }
    stride_ = (width_ * static_cast<int64_t>(bits_) + 31) / 32 * 4;
    if (stride_ > kMaxPixels * 4) check_whole(file_.path(), "rows", 1, width_);
    check_bytes(file_, height_, width_, pixels_ + stride_ * height_);
    if (bits_ <= 8) read_palette(word(46), kFileHeader + info);
    row_.resize(static_cast<std::size_t>(stride_));
  }
  int64_t height() const override { return height_; }
  int64_t width() const override { return width_; }

  void read(int64_t y, uint8_t* values) override {
    read_at(pixels_ + (from_bottom_ ? height_ - 1 - y : y) * stride_, row_.data(), stride_);
    if (bits_ >= 24) {
      const std::size_t bytes = bits_ / 8;
      for (std::size_t x = 0; x < static_cast<std::size_t>(width_); ++x) {
        for (std::size_t c = 0; c < 3; ++c) *values++ = row_[x * bytes + 2 - c];
      }
      return;
    }
    const std::size_t in_a_byte = 8 / bits_, mask = (std::size_t{1} << bits_) - 1;
    for (std::size_t x = 0; x < static_cast<std::size_t>(width_); ++x) {
      const std::size_t shift = (in_a_byte - 1 - x % in_a_byte) * bits_;
      const std::size_t index = std::size_t{row_[x / in_a_byte]} >> shift & mask;
      if (index >= palette_.size()) {
        refuse("indices below the palette's " + std::to_string(palette_.size()) + " entries", std::to_string(index));
      }
      for (const uint8_t value : palette_[index]) *values++ = value;
    }
  }

 private:
  void read_palette(uint32_t count, int64_t at) {
    const std::size_t most = std::size_t{1} << bits_;
    if (count > most) refuse("a palette of at most " + std::to_string(most) + " entries", std::to_string(count));
    palette_.resize(count == 0 ? most : count);
    std::vector<uint8_t> entries(4 * palette_.size());
    read_at(at, entries.data(), static_cast<int64_t>(entries.size()));
    for (std::size_t i = 0; i < palette_.size(); ++i) {
      palette_[i] = {entries[4 * i + 2], entries[4 * i + 1], entries[4 * i]};
    }
  }

  void read_at(int64_t offset, uint8_t* target, int64_t count) {
    const auto size = static_cast<std::size_t>(count);
    if (offset + count > file_.size() || ::fseeko(file_.stream(), offset, SEEK_SET) != 0 ||
        std::fread(target, 1, size, file_.stream()) != size) {
      fail(file_.path(), "an intact BMP", "the end of the file (truncated)");
    }
  }

  [[noreturn]] void refuse(const std::string& expected, const std::string& found) const {
    fail(file_.path(), "a BMP with " + expected, found);
  }

  File file_;
  int64_t height_ = 0, width_ = 0, stride_ = 0;
  int64_t pixels_ = 0;  // where they begin
  bool from_bottom_ = true;
  uint32_t bits_ = 0;  // of a pixel
  std::vector<Color> palette_;
  std::vector<uint8_t> row_;
};

}  // namespace

std::unique_ptr<PictureRows> open_bmp(File file) {
  return std::make_unique<BmpPicture>(std::move(file));
}

}  // namespace smooseg::app::codec
