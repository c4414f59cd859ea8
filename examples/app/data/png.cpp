// PNG through libpng. In reading its errors arrive by longjmp: it is only ever called inside `PngReader::run`, and what
// runs there holds nothing that has a destructor. Writing uses libpng's simplified interface, which returns errors.

#include <png.h>

#include <algorithm>
#include <cerrno>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "data/codec.hpp"
#include "smooseg/io/atomic_file.hpp"

namespace smooseg::app {
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

/// libpng's state, freed however it ends.
struct Handles {
  Handles() = default;
  Handles(const Handles&) = delete;
  Handles& operator=(const Handles&) = delete;
  ~Handles() { png_destroy_read_struct(&png, &info, nullptr); }

  png_structp png = nullptr;
  png_infop info = nullptr;
};

class PngReader {
 public:
  /// Reads the header.
  explicit PngReader(const File& file) : file_(file) {
    source_.next = file.bytes.data();
    source_.left = file.bytes.size();
    run([this] {
      handles_.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source_, on_error, on_warning);
      if (handles_.png == nullptr) return;
      png_set_read_fn(handles_.png, &source_, on_read);
      handles_.info = png_create_info_struct(handles_.png);
      if (handles_.info != nullptr) png_read_info(handles_.png, handles_.info);
    });
    if (handles_.info == nullptr) throw std::bad_alloc();
  }

  int64_t height() const { return png_get_image_height(handles_.png, handles_.info); }
  int64_t width() const { return png_get_image_width(handles_.png, handles_.info); }
  int depth() const { return png_get_bit_depth(handles_.png, handles_.info); }
  int color_type() const { return png_get_color_type(handles_.png, handles_.info); }

  void convert_to_rgb() {
    run([this] {
      png_set_expand(handles_.png);
      png_set_scale_16(handles_.png);
      png_set_gray_to_rgb(handles_.png);
      png_set_strip_alpha(handles_.png);
    });
  }

  void convert_to_indices() {
    run([this] {
      png_set_packing(handles_.png);
      png_set_strip_alpha(handles_.png);
    });
  }

  /// Begins to decode; `pixel_bytes` is what a pixel has after the conversion chosen above. Returns whether rows can be
  /// read one by one: those of an interlaced picture cannot.
  bool start(int64_t pixel_bytes) {
    const auto row_bytes = static_cast<int64_t>(png_get_rowbytes(handles_.png, handles_.info));
    // Deflate shrinks its input to 1/1032 at best.
    check_size(file_, height(), width(), height() * row_bytes / 1032);
    stride_ = static_cast<size_t>(width() * pixel_bytes);
    run([this] {
      passes_ = png_set_interlace_handling(handles_.png);
      png_read_update_info(handles_.png, handles_.info);
      if (png_get_rowbytes(handles_.png, handles_.info) != stride_) {
        png_error(handles_.png, "rows of unexpected length");
      }
    });
    return passes_ == 1;
  }

  /// The next row.
  void read_row(uint8_t* values) {
    run([this, values] { png_read_row(handles_.png, values, nullptr); });
  }

  /// A file cut off after its pixels is damaged too.
  void finish() {
    run([this] { png_read_end(handles_.png, nullptr); });
  }

  /// All pixels, after `start`.
  std::vector<uint8_t> read_all() {
    std::vector<uint8_t> values(stride_ * static_cast<size_t>(height()));
    std::vector<png_bytep> rows(static_cast<size_t>(height()));
    for (size_t y = 0; y < rows.size(); ++y) rows[y] = values.data() + y * stride_;
    png_bytep* const first_row = rows.data();
    run([this, first_row] { png_read_image(handles_.png, first_row); });
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
  Handles handles_;
  size_t stride_ = 0;
  int passes_ = 0;
};

std::string name_of(int color_type) {
  return (color_type & PNG_COLOR_MASK_ALPHA) != 0 ? "RGBA colours" : "RGB colours";
}

}  // namespace

void decode_png(const File& file, RowSink& sink) {
  PngReader reader(file);
  reader.convert_to_rgb();
  const bool by_rows = reader.start(3);
  const int64_t height = reader.height(), values = reader.width() * 3;
  sink.begin(height, reader.width());
  if (by_rows) {
    std::vector<uint8_t> row(static_cast<size_t>(values));
    for (int64_t y = 0; y < height; ++y) {
      reader.read_row(row.data());
      if (sink.next_row(y) == y) sink.take(y, row.data());
    }
    reader.finish();
  } else {
    const std::vector<uint8_t> all = reader.read_all();
    for (int64_t y = sink.next_row(0); y < height; y = sink.next_row(y + 1)) sink.take(y, all.data() + y * values);
  }
}

IndexRaster decode_png_indices(const File& file) {
  PngReader reader(file);
  const int type = reader.color_type();
  if (type != PNG_COLOR_TYPE_PALETTE && (type & PNG_COLOR_MASK_COLOR) != 0) {
    fail(file.path, "a label map of class indices (grey or palette PNG)", "a PNG of " + name_of(type));
  }
  reader.convert_to_indices();
  const bool wide = reader.depth() == 16;
  reader.start(wide ? 2 : 1);
  const std::vector<uint8_t> bytes = reader.read_all();
  if (!wide) return {reader.height(), reader.width(), {bytes.begin(), bytes.end()}};

  IndexRaster indices{reader.height(), reader.width(), std::vector<uint16_t>(bytes.size() / 2)};
  for (size_t p = 0; p < indices.values.size(); ++p) {  // big-endian
    indices.values[p] = static_cast<uint16_t>(bytes[2 * p] << 8 | bytes[2 * p + 1]);
  }
  return indices;
}

}  // namespace codec

namespace {

void check_raster(const Raster& raster, const std::vector<Color>& palette) {
  const bool right_shape = raster.height > 0 && raster.width > 0 && (raster.channels == 3 || raster.channels == 1) &&
                           raster.values.size() == static_cast<size_t>(raster.height * raster.width * raster.channels);
  if (!right_shape) throw std::invalid_argument("write_png: expected values for (H,W,3) or (H,W) pixels, H and W > 0");
  if (palette.empty()) return;
  if (raster.channels != 1 || palette.size() > 256) {
    throw std::invalid_argument("write_png: expected one channel and at most 256 colours for a palette picture, got " +
                                std::to_string(raster.channels) + " channels and " + std::to_string(palette.size()) +
                                " colours");
  }
  const int highest = *std::max_element(raster.values.begin(), raster.values.end());
  if (static_cast<size_t>(highest) >= palette.size()) {
    throw std::invalid_argument("write_png: expected indices below the " + std::to_string(palette.size()) +
                                " colours of the palette, got " + std::to_string(highest));
  }
}

struct Closer {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

}  // namespace

void write_png(const std::filesystem::path& path, const Raster& raster, const std::vector<Color>& palette) {
  check_raster(raster, palette);
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.height = static_cast<png_uint_32>(raster.height);
  image.width = static_cast<png_uint_32>(raster.width);
  image.format = raster.channels == 3 ? PNG_FORMAT_RGB : palette.empty() ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB_COLORMAP;
  image.colormap_entries = static_cast<png_uint_32>(palette.size());

  io::AtomicFile target(path);
  std::unique_ptr<std::FILE, Closer> file(std::fopen(target.temporary_path().c_str(), "wb"));
  if (!file) io::AtomicFile::fail(path, io::AtomicFile::system_reason(errno));
  errno = 0;
  if (png_image_write_to_stdio(&image, file.get(), 0, raster.values.data(), 0, palette.data()) == 0) {
    io::AtomicFile::fail(path, errno != 0 ? io::AtomicFile::system_reason(errno) : image.message);
  }
  if (std::fclose(file.release()) != 0) io::AtomicFile::fail(path, io::AtomicFile::system_reason(errno));
  target.commit();
}

}  // namespace smooseg::app
