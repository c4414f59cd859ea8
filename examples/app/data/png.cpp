// PNG through libpng. While reading, its errors arrive by longjmp, so it is only ever called inside `PngReader::run`,
// and what runs there holds nothing that has a destructor. Writing uses libpng's simplified interface, which returns
// errors.

#include <png.h>
#include <torch/types.h>

#include <algorithm>
#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <string>
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
  const uint8_t* next;
  size_t left;
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
  if (count > source->left) png_error(png, "the end of the file (truncated)");
  std::memcpy(target, source->next, count);
  source->next += count;
  source->left -= count;
}

class PngReader {
 public:
  explicit PngReader(const File& file) : file_(file) {}
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }

  /// Reads the header.
  void open() {
    source_.next = file_.bytes.data();
    source_.left = file_.bytes.size();
    run([this] {
      png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source_, on_error, on_warning);
      if (png_ == nullptr) return;
      png_set_read_fn(png_, &source_, on_read);
      info_ = png_create_info_struct(png_);
      if (info_ != nullptr) png_read_info(png_, info_);
    });
    if (info_ == nullptr) throw std::bad_alloc();
  }

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
  /// @return whether rows can be read one by one, as those of an interlaced picture cannot.
  bool start(int64_t pixel_bytes) {
    const auto row_bytes = static_cast<int64_t>(png_get_rowbytes(png_, info_));
    // Deflate shrinks its input to 1/1032 at best.
    check_size(file_, height(), width(), height() * row_bytes / 1032);
    stride_ = static_cast<size_t>(width() * pixel_bytes);
    run([this] {
      passes_ = png_set_interlace_handling(png_);
      png_read_update_info(png_, info_);
      if (png_get_rowbytes(png_, info_) != stride_) {
        png_error(png_, "rows of unexpected length");
      }
    });
    return passes_ == 1;
  }

  /// The next row.
  void read_row(uint8_t* values) {
    run([this, values] { png_read_row(png_, values, nullptr); });
  }

  /// A file cut off after its pixels is damaged too.
  void finish() {
    run([this] { png_read_end(png_, nullptr); });
  }

  /// All pixels, after `start`.
  std::vector<uint8_t> read_all() {
    std::vector<uint8_t> values(stride_ * static_cast<size_t>(height()));
    std::vector<png_bytep> rows(static_cast<size_t>(height()));
    for (size_t y = 0; y < rows.size(); ++y) rows[y] = values.data() + y * stride_;
    png_bytep* const first_row = rows.data();
    run([this, first_row] { png_read_image(png_, first_row); });
    finish();
    return values;
  }

 private:
  template <class Steps>
  void run(const Steps& steps) {
    if (setjmp(source_.target) != 0) fail(file_.path, "an intact PNG", std::string("an error: ") + source_.message);
    steps();
  }

  const File& file_;
  Source source_{};
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  size_t stride_ = 0;
  int passes_ = 0;
};

}  // namespace

Tensor decode_png(const File& file, const RowChoice& choose_rows) {
  PngReader reader(file);
  reader.open();
  reader.convert_to_rgb();
  const bool row_by_row = reader.start(3);
  const int64_t height = reader.height(), width = reader.width();
  const std::vector<int64_t> rows = choose_rows(height, width);
  const Tensor picture = torch::empty({static_cast<int64_t>(rows.size()), width, 3}, torch::kUInt8);
  auto* target = picture.data_ptr<uint8_t>();
  if (!row_by_row) {
    const std::vector<uint8_t> all = reader.read_all();
    for (const int64_t y : rows) target = std::copy_n(all.data() + 3 * y * width, 3 * width, target);
    return picture;
  }
  std::vector<uint8_t> spare(static_cast<size_t>(3 * width));
  auto next = rows.begin();
  for (int64_t y = 0; y < height; ++y) {
    const bool wanted = next != rows.end() && *next == y;
    reader.read_row(wanted ? target : spare.data());
    if (!wanted) continue;
    target += 3 * width;
    ++next;
  }
  reader.finish();
  return picture;
}

Tensor decode_png_indices(const File& file) {
  PngReader reader(file);
  reader.open();
  const int type = reader.color_type();
  if (type != PNG_COLOR_TYPE_PALETTE && (type & PNG_COLOR_MASK_COLOR) != 0) {
    const bool alpha = (type & PNG_COLOR_MASK_ALPHA) != 0;
    fail(file.path, "a label map of class indices (grey or palette PNG)",
         std::string("a PNG of ") + (alpha ? "RGBA" : "RGB") + " colours");
  }
  reader.convert_to_indices();
  const bool wide = reader.depth() == 16;
  reader.start(wide ? 2 : 1);
  const std::vector<uint8_t> bytes = reader.read_all();
  const Tensor indices = torch::empty({reader.height(), reader.width()}, torch::kInt64);
  auto* const values = indices.data_ptr<int64_t>();
  for (size_t p = 0; p < static_cast<size_t>(indices.numel()); ++p) {
    values[p] = wide ? bytes[2 * p] << 8 | bytes[2 * p + 1] : bytes[p];  // big-endian
  }
  return indices;
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
