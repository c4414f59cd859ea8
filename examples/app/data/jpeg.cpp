// JPEG decoding through libjpeg. Its errors arrive by longjmp: it is only ever called inside `JpegReader::run`, and
// what runs there holds nothing that has a destructor.

// clang-format off
#include <csetjmp>
#include <cstddef>
#include <cstdio>

#include <jpeglib.h>  // needs the two before it
#include <jerror.h>
// clang-format on

#include <string>

#include "data/codec.hpp"

namespace smooseg::app::codec {
namespace {

constexpr int kMaxScans = 200;  // a progressive file has about ten; each costs a pass over the picture

struct Escape {
  std::jmp_buf target;
  char message[JMSG_LENGTH_MAX] = "";
};

[[noreturn]] void escape(j_common_ptr info) {
  auto* escape = static_cast<Escape*>(info->client_data);
  info->err->format_message(info, escape->message);
  std::longjmp(escape->target, 1);
}

/// libjpeg fills what is missing with grey and only warns; for us a damaged picture is an error. Harmless oddities
/// (stray bytes between segments, unknown revision numbers) pass.
void on_message(j_common_ptr info, int level) {
  if (level >= 0) return;  // a trace message
  const int code = info->err->msg_code;
  const bool damaged =
      code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE || code == JWRN_MUST_RESYNC;
  if (damaged) escape(info);
}

void on_progress(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number <= kMaxScans) return;
  auto* escape = static_cast<Escape*>(info->client_data);
  std::snprintf(escape->message, sizeof escape->message, "more than %d scans", kMaxScans);
  std::longjmp(escape->target, 1);
}

class JpegReader {
 public:
  explicit JpegReader(const File& file) : file_(file) {
    info_.err = jpeg_std_error(&errors_);
    errors_.error_exit = escape;
    errors_.emit_message = on_message;
    progress_.progress_monitor = on_progress;
    info_.client_data = &escape_;
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&info_); }

  /// Reads the header and chooses RGB, or CMYK for the two formats that libjpeg does not turn into RGB.
  Raster open() {
    run([this] {
      jpeg_create_decompress(&info_);
      info_.progress = &progress_;
      jpeg_mem_src(&info_, file_.bytes.data(), static_cast<unsigned long>(file_.bytes.size()));
      jpeg_read_header(&info_, TRUE);
      const bool cmyk = info_.jpeg_color_space == JCS_CMYK || info_.jpeg_color_space == JCS_YCCK;
      info_.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
      jpeg_calc_output_dimensions(&info_);
    });
    Raster raster;
    raster.height = info_.output_height;
    raster.width = info_.output_width;
    raster.channels = info_.out_color_space == JCS_CMYK ? 4 : 3;
    return raster;
  }

  void decode(Raster& raster) {
    uint8_t* const pixels = raster.values.data();
    const auto stride = static_cast<size_t>(raster.width * raster.channels);
    run([this, pixels, stride] {
      jpeg_start_decompress(&info_);
      while (info_.output_scanline < info_.output_height) {
        JSAMPROW row = pixels + info_.output_scanline * stride;
        jpeg_read_scanlines(&info_, &row, 1);
      }
      jpeg_finish_decompress(&info_);
    });
  }

 private:
  template <class Steps>
  void run(const Steps& steps) {
    if (setjmp(escape_.target) != 0) fail(file_.path, "an intact JPEG", std::string("an error: ") + escape_.message);
    steps();
  }

  const File& file_;
  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  jpeg_progress_mgr progress_{};
  Escape escape_;
};

/// CMYK as Adobe's programs write it, 255 meaning no ink.
Raster cmyk_to_rgb(const Raster& cmyk) {
  Raster rgb{cmyk.height, cmyk.width, 3, std::vector<uint8_t>(cmyk.values.size() / 4 * 3)};
  for (size_t p = 0; p < cmyk.values.size() / 4; ++p) {
    const int black = cmyk.values[4 * p + 3];
    for (size_t c = 0; c < 3; ++c) {
      rgb.values[3 * p + c] = static_cast<uint8_t>((cmyk.values[4 * p + c] * black + 127) / 255);
    }
  }
  return rgb;
}

}  // namespace

Raster decode_jpeg(const File& file) {
  JpegReader reader(file);
  Raster raster = reader.open();
  // Each block of 8 x 8 pixels takes at least one bit.
  check_size(file, raster.height, raster.width, raster.height * raster.width / 512);
  raster.values.resize(static_cast<size_t>(raster.height * raster.width * raster.channels));
  reader.decode(raster);
  return raster.channels == 4 ? cmyk_to_rgb(raster) : raster;
}

}  // namespace smooseg::app::codec
