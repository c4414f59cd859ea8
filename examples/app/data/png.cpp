// PNG through libpng. While reading, its errors arrive by longjmp, so it is only ever called inside `PngReader::run`,
// and what runs there holds nothing that has a destructor. Writing uses libpng's simplified interface, which returns
// errors.

#include <png.h>
#include <torch/types.h>

#include <algorithm>
#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "data/codec.hpp"
#include "smooseg/detail/check.hpp"
#include "smooseg/io/atomic_file.hpp"

namespace smooseg::app {

using smooseg::detail::check_defined;
using smooseg::detail::shape_of;

namespace codec {
namespace {

struct Source {
  std::FILE* stream;
  std::jmp_buf target;
  char message[256];
};

[[noreturn]] void on_error(png_structp png, png_const_charp message) {
  auto* source = static_cast<Source*>(png_get_error_ptr(png));
  std::snprintf(source->message, sizeof source->message, "%s", message);
  std::longjmp(source->target, 1);
}

void on_warning(png_structp, png_const_charp) {}  // about chunks that do not matter for the pixels

void on_read(png_structp png, png_bytep target, size_t count) {
  auto* source = static_cast<Source*>(png_get_io_ptr(png));
  if (std::fread(target, 1, count, source->stream) != count) png_error(png, "the end of the file (truncated)");
}

class PngReader {
 public:
  explicit PngReader(File file) : file_(std::move(file)) {}
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }

  /// Reads the header.
  void open() {
    source_.stream = file_.stream();
    run([this] {
      png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source_, on_error, on_warning);
      if (png_ == nullptr) return;
      png_set_read_fn(png_, &source_, on_read);
      info_ = png_create_info_struct(png_);
      if (info_ != nullptr) png_read_info(png_, info_);
    });
    if (info_ == nullptr) throw std::bad_alloc();
  }

  const std::filesystem::path& path() const { return file_.path(); }
  int64_t height() const { return png_get_image_height(png_, info_); }
  int64_t width() const { return png_get_image_width(png_, info_); }
  int depth() const { return png_get_bit_depth(png_, info_); }
  int color_type() const { return png_get_color_type(png_, info_); }

  void convert_to_rgb() {
    run([this] {
      png_set_expand(png_);
      png_set_scale_16(png_);
      png_set_gray_to_rgb(png_);
      png_set_strip_alpha(png_);
    });
  }

  void convert_to_indices() {
    run([this] {
      png_set_packing(png_);
      png_set_strip_alpha(png_);
    });
  }

  /// Begins to decode. @param pixel_bytes of a pixel after the conversion chosen above.
  void start(int64_t pixel_bytes) {
    const auto row_bytes = static_cast<int64_t>(png_get_rowbytes(png_, info_));
    // Deflate shrinks its input to 1/1032 at best.
    check_bytes(file_, height(), width(), height() * row_bytes / 1032);
    stride_ = static_cast<size_t>(width() * pixel_bytes);
    int passes = 0;
    run([this, &passes] {
      passes = png_set_interlace_handling(png_);
      png_read_update_info(png_, info_);
      if (png_get_rowbytes(png_, info_) != stride_) {
        png_error(png_, "rows of unexpected length");
      }
    });
    spare_.resize(stride_);
    if (passes > 1) read_all();
  }

  /// Row y, which is not above those that were read.
  void read_row(int64_t y, uint8_t* values) {
    if (!all_.empty()) {
      std::copy_n(all_.data() + static_cast<size_t>(y) * stride_, stride_, values);
      return;
    }
    for (; next_ <= y; ++next_) {
      uint8_t* const target = next_ < y ? spare_.data() : values;
      run([this, target] { png_read_row(png_, target, nullptr); });
    }
  }

  /// A file cut off after its pixels is damaged too.
  void finish() {
    if (next_ < height()) read_row(height() - 1, spare_.data());
    run([this] { png_read_end(png_, nullptr); });
  }

 private:
  template <class Steps>
  void run(const Steps& steps) {
    if (setjmp(source_.target) != 0) fail(file_.path(), "an intact PNG", std::string("an error: ") + source_.message);
    steps();
  }

  /// Rows of an interlaced picture cannot be had one by one.
  void read_all() {
    check_whole(file_.path(), "an interlaced PNG", height(), width());
    all_.resize(stride_ * static_cast<size_t>(height()));
    std::vector<png_bytep> rows(static_cast<size_t>(height()));
    for (size_t y = 0; y < rows.size(); ++y) rows[y] = all_.data() + y * stride_;
    png_bytep* const first_row = rows.data();
    run([this, first_row] { png_read_image(png_, first_row); });
    next_ = height();
  }

  File file_;
  Source source_{};
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  size_t stride_ = 0;
  int64_t next_ = 0;            // the next row to decode
  std::vector<uint8_t> spare_;  // for a row that nobody wants
  std::vector<uint8_t> all_;    // of an interlaced picture
};

class PngPicture : public PictureRows {
 public:
  explicit PngPicture(File file) : reader_(std::move(file)) {
    reader_.open();
    reader_.convert_to_rgb();
    reader_.start(3);
  }
  int64_t height() const override { return reader_.height(); }
  int64_t width() const override { return reader_.width(); }
  void read(int64_t y, uint8_t* values) override { reader_.read_row(y, values); }
  void finish() override { reader_.finish(); }

 private:
  PngReader reader_;
};

class PngIndices : public LabelRows {
 public:
  explicit PngIndices(File file) : reader_(std::move(file)) {
    reader_.open();
    const int type = reader_.color_type();
    if (type != PNG_COLOR_TYPE_PALETTE && (type & PNG_COLOR_MASK_COLOR) != 0) {
      const bool alpha = (type & PNG_COLOR_MASK_ALPHA) != 0;
      fail(reader_.path(), "a label map of class indices (grey or palette PNG)",
           std::string("a PNG of ") + (alpha ? "RGBA" : "RGB") + " colours");
    }
    reader_.convert_to_indices();
    wide_ = reader_.depth() == 16;
    reader_.start(wide_ ? 2 : 1);
    bytes_.resize(static_cast<size_t>(width() * (wide_ ? 2 : 1)));
  }
  int64_t height() const override { return reader_.height(); }
  int64_t width() const override { return reader_.width(); }
  void read(int64_t y, int64_t* values) override {
    reader_.read_row(y, bytes_.data());
    for (size_t x = 0; x < static_cast<size_t>(width()); ++x) {
      values[x] = wide_ ? bytes_[2 * x] << 8 | bytes_[2 * x + 1] : bytes_[x];  // big-endian
    }
  }
  void finish() override { reader_.finish(); }

 private:
  PngReader reader_;
  bool wide_ = false;
  std::vector<uint8_t> bytes_;
};

}  // namespace

std::unique_ptr<PictureRows> open_png(File file) {
  return std::make_unique<PngPicture>(std::move(file));
}

std::unique_ptr<LabelRows> open_png_indices(File file) {
  return std::make_unique<PngIndices>(std::move(file));
}

}  // namespace codec

namespace {

/// @param picture contiguous. @param palette none for RGB and grey.
void write(const std::filesystem::path& path, const Tensor& picture, const std::vector<Color>& palette) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.height = static_cast<png_uint_32>(picture.size(0));
  image.width = static_cast<png_uint_32>(picture.size(1));
  image.format = picture.dim() == 3 ? PNG_FORMAT_RGB : palette.empty() ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB_COLORMAP;
  image.colormap_entries = static_cast<png_uint_32>(palette.size());

  io::AtomicFile target(path);
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(target.temporary_path().c_str(), "wb"), std::fclose);
  if (!file) io::AtomicFile::fail(path, io::AtomicFile::system_reason(errno));
  errno = 0;
  if (png_image_write_to_stdio(&image, file.get(), 0, picture.data_ptr<uint8_t>(), 0, palette.data()) == 0) {
    io::AtomicFile::fail(path, errno != 0 ? io::AtomicFile::system_reason(errno) : image.message);
  }
  if (std::fclose(file.release()) != 0) io::AtomicFile::fail(path, io::AtomicFile::system_reason(errno));
  target.commit();
}

}  // namespace

void write_png(const std::filesystem::path& path, const Tensor& picture) {
  check_defined(picture, "write_png", "picture");
  const bool right_shape = picture.dim() == 2 || (picture.dim() == 3 && picture.size(2) == 3);
  TORCH_CHECK(right_shape && picture.numel() > 0 && picture.scalar_type() == torch::kUInt8 && picture.is_cpu(),
              "write_png: expected a picture of shape (H,W,3) or (H,W), uint8, on the CPU, got ", shape_of(picture),
              ", ", picture.scalar_type(), ", on ", picture.device());
  write(path, picture.contiguous(), {});
}

void write_palette_png(const std::filesystem::path& path, const Tensor& indices, const std::vector<Color>& colors) {
  check_defined(indices, "write_palette_png", "indices");
  TORCH_CHECK(indices.dim() == 2 && indices.numel() > 0 && at::isIntegralType(indices.scalar_type(), false),
              "write_palette_png: expected indices of shape (H,W) and an integral dtype, got ", shape_of(indices), ", ",
              indices.scalar_type());
  TORCH_CHECK(!colors.empty() && colors.size() <= 256, "write_palette_png: expected 1 to 256 colours, got ",
              colors.size());
  const auto lowest = indices.min().item<int64_t>();
  const auto highest = indices.max().item<int64_t>();
  TORCH_CHECK(lowest >= 0 && highest < static_cast<int64_t>(colors.size()), "write_palette_png: expected indices 0..",
              colors.size() - 1, ", got ", lowest, "..", highest);
  write(path, indices.to(torch::kCPU, torch::kUInt8).contiguous(), colors);
}

}  // namespace smooseg::app
