#include "data/image_file.hpp"

#include <torch/types.h>

#include <cerrno>
#include <numeric>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#include "data/codec.hpp"

namespace smooseg::app {
namespace codec {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{1} << 30;
constexpr std::size_t kHeadBytes = 32, kBufferBytes = std::size_t{1} << 16;

using std::string_view_literals::operator""sv;

constexpr std::string_view kJpegBeginning = "\xff\xd8\xff", kPngBeginning = "\x89PNG\r\n\x1a\n";

bool is_tiff(const File& file) {
  return file.starts_with("II*\0"sv) || file.starts_with("MM\0*"sv) || file.starts_with("II+\0"sv) ||
         file.starts_with("MM\0+"sv);
}

/// Levels 5 (MATLAB 5 to 7.2, SciPy) and 7.3.
bool is_mat(const File& file) {
  return file.starts_with("MATLAB 5.0 MAT-file") || file.starts_with("MATLAB 7.3 MAT-file");
}

/// What a file of none of the wanted formats seems to be.
std::string describe(const File& file) {
  if (file.starts_with("GIF8")) return "a GIF file";
  if (file.starts_with("BM")) return "a BMP file";
  if (file.starts_with("RIFF")) return "a WebP or other RIFF file";
  if (is_tiff(file)) return "a TIFF file";
  if (is_mat(file)) return "a MATLAB file";
  return "a file of another format";
}

/// All rows of a picture or label map, or those chosen.
template <class Value>
Tensor tensor_of(const std::filesystem::path& path, Rows<Value>& source, const RowChoice& choose_rows,
                 torch::ScalarType dtype) {
  constexpr int64_t kChannels = Rows<Value>::kChannels;
  const int64_t width = source.width();
  std::vector<int64_t> rows;
  if (choose_rows) {
    rows = choose_rows(source.height(), width);
  } else {
    check_whole(path, "a picture", source.height(), width);
    rows.resize(static_cast<std::size_t>(source.height()));
    std::iota(rows.begin(), rows.end(), 0);
  }
  const auto count = static_cast<int64_t>(rows.size());
  check_whole(path, "a picture", count, width);
  const Tensor all = torch::empty({count, width, kChannels}, dtype);
  auto* target = all.template data_ptr<Value>();
  for (const int64_t y : rows) {
    source.read(y, target);
    target += width * kChannels;
  }
  source.finish();
  return kChannels == 1 ? all.squeeze(2) : all;
}

/// Colours as numbers.
class PackedColors : public LabelRows {
 public:
  explicit PackedColors(std::unique_ptr<PictureRows> picture)
      : picture_(std::move(picture)), row_(static_cast<std::size_t>(3 * picture_->width())) {}
  int64_t height() const override { return picture_->height(); }
  int64_t width() const override { return picture_->width(); }
  void read(int64_t y, int64_t* values) override {
    picture_->read(y, row_.data());
    const uint8_t* rgb = row_.data();
    for (int64_t x = 0; x < width(); ++x, rgb += 3) values[x] = rgb[0] << 16 | rgb[1] << 8 | rgb[2];
  }
  void finish() override { picture_->finish(); }

 private:
  std::unique_ptr<PictureRows> picture_;
  std::vector<uint8_t> row_;
};

}  // namespace

File::File(const std::filesystem::path& path, const std::string& expected) : path_(path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) fail(path, expected, "no such file");
  if (std::filesystem::is_directory(status)) fail(path, expected, "a folder");
  if (!std::filesystem::is_regular_file(status)) fail(path, expected, "something that is not a file");
  size_ = static_cast<int64_t>(std::filesystem::file_size(path, error));
  if (error) fail(path, expected, error.message());
  if (size_ == 0) fail(path, expected, "an empty file");
  stream_.reset(std::fopen(path.c_str(), "rbe"));
  if (!stream_) fail(path, expected, "a file that cannot be read: " + std::generic_category().message(errno));
  std::setvbuf(stream_.get(), nullptr, _IOFBF, kBufferBytes);
  head_.resize(kHeadBytes);
  head_.resize(std::fread(head_.data(), 1, head_.size(), stream_.get()));
  if (head_.empty()) fail(path, expected, "a file that cannot be read: " + std::generic_category().message(errno));
  std::rewind(stream_.get());
}

bool File::starts_with(std::string_view beginning) const {
  return std::string_view(head_).substr(0, beginning.size()) == beginning;
}

std::vector<uint8_t> File::contents() const {
  if (size_ > kMaxFileBytes) fail(path_, "a file of at most 1 GiB in this format", std::to_string(size_) + " bytes");
  std::vector<uint8_t> bytes(static_cast<std::size_t>(size_));
  std::rewind(stream());
  if (std::fread(bytes.data(), 1, bytes.size(), stream()) != bytes.size()) {
    fail(path_, std::to_string(size_) + " bytes", "a file that cannot be read to its end");
  }
  return bytes;
}

void fail_unbuilt(const File& file, const std::string& format, const std::string& package) {
  fail(file.path(), "a file that this program reads",
       format + ", for which it must be built with " + package + ": install that package and run cmake/build.sh");
}

void fail(const std::filesystem::path& path, const std::string& expected, const std::string& found) {
  throw std::runtime_error(path.string() + ": expected " + expected + ", found " + found);
}

std::string size_text(int64_t height, int64_t width) {
  return std::to_string(width) + " x " + std::to_string(height) + " pixels";
}

void check_bytes(const File& file, int64_t height, int64_t width, int64_t min_bytes) {
  if (file.size() >= min_bytes) return;
  fail(file.path(), "at least " + std::to_string(min_bytes) + " bytes for " + size_text(height, width),
       std::to_string(file.size()) + " (truncated or damaged)");
}

void check_whole(const std::filesystem::path& path, const std::string& kind, int64_t height, int64_t width) {
  if (height <= kMaxPixels / width) return;
  fail(path, kind + " of at most " + std::to_string(kMaxPixels) + " pixels", size_text(height, width));
}

}  // namespace codec

using namespace codec;

const std::vector<std::string>& picture_endings() {
  static const std::vector<std::string> endings = [] {
    std::vector<std::string> found{".jpg", ".jpeg", ".png", ".bmp"};
    if (reads_tiff()) found.insert(found.end(), {".tif", ".tiff"});
    if (reads_webp()) found.emplace_back(".webp");
    return found;
  }();
  return endings;
}

std::unique_ptr<PictureRows> open_picture(const std::filesystem::path& path) {
  const char* const expected = "a JPEG, PNG, TIFF, BMP, WebP or MATLAB picture";
  File file(path, expected);
  if (file.starts_with(kJpegBeginning)) return open_jpeg(std::move(file));
  if (file.starts_with(kPngBeginning)) return open_png(std::move(file));
  if (is_tiff(file)) return open_tiff(std::move(file));
  if (file.starts_with("BM")) return open_bmp(std::move(file));
  if (file.starts_with("RIFF")) return open_webp(std::move(file));
  if (is_mat(file)) return open_mat(std::move(file));
  fail(path, expected, describe(file));
}

std::unique_ptr<LabelRows> open_label(const std::filesystem::path& path) {
  const char* const expected = "a label map (grey or palette PNG, TIFF of one channel, or MATLAB)";
  File file(path, expected);
  if (file.starts_with(kPngBeginning)) return open_png_indices(std::move(file));
  if (is_tiff(file)) return open_tiff_indices(std::move(file));
  if (is_mat(file)) return open_mat_indices(std::move(file));
  fail(path, expected,
       file.starts_with(kJpegBeginning) ? "a JPEG, whose compression changes the values" : describe(file));
}

std::unique_ptr<LabelRows> open_color_label(const std::filesystem::path& path) {
  const char* const expected = "a label map of colours (PNG or TIFF)";
  File file(path, expected);
  if (file.starts_with(kJpegBeginning)) fail(path, expected, "a JPEG, whose compression changes the values");
  if (!file.starts_with(kPngBeginning) && !is_tiff(file)) fail(path, expected, describe(file));
  return std::make_unique<PackedColors>(is_tiff(file) ? open_tiff(std::move(file)) : open_png(std::move(file)));
}

Tensor read_image(const std::filesystem::path& path, const RowChoice& choose_rows) {
  return tensor_of(path, *open_picture(path), choose_rows, torch::kUInt8);
}

Tensor read_label(const std::filesystem::path& path) {
  return tensor_of(path, *open_label(path), {}, torch::kInt64);
}

Tensor read_color_label(const std::filesystem::path& path) {
  return tensor_of(path, *open_color_label(path), {}, torch::kInt64);
}

}  // namespace smooseg::app
