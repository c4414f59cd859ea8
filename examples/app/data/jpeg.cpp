// JPEG decoding through libjpeg. Its errors arrive by longjmp, so it is only ever called inside `JpegReader::run`, and
// what runs there holds nothing that has a destructor.

// clang-format off
#include <csetjmp>
#include <cstddef>
#include <cstdio>

#include <jpeglib.h>  // needs the two before it
#include <jerror.h>
// clang-format on

#include <memory>
#include <string>
#include <utility>
#include <vector>

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
  explicit JpegReader(File file) : file_(std::move(file)) {
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
  void open() {
    run([this] {
      jpeg_create_decompress(&info_);
      info_.progress = &progress_;
      jpeg_stdio_src(&info_, file_.stream());
      jpeg_read_header(&info_, TRUE);
      const bool cmyk = info_.jpeg_color_space == JCS_CMYK || info_.jpeg_color_space == JCS_YCCK;
      info_.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
      jpeg_calc_output_dimensions(&info_);
    });
  }

  int64_t height() const { return info_.output_height; }
  int64_t width() const { return info_.output_width; }
  bool is_cmyk() const { return info_.out_color_space == JCS_CMYK; }

  void start() {
    // Each block of 8 x 8 pixels takes at least one bit.
    check_bytes(file_, height(), width(), height() * width() / 512);
    if (jpeg_has_multiple_scans(&info_) != 0) check_whole(file_.path(), "a progressive JPEG", height(), width());
    run([this] { jpeg_start_decompress(&info_); });
  }

  int64_t next_row() const { return info_.output_scanline; }

  void read_row(uint8_t* values) {
    run([this, values] {
      JSAMPROW target = values;
      jpeg_read_scanlines(&info_, &target, 1);
    });
  }

  /// Passes over the rows before row `y`, which leaves the others as they are. `values` has space for a row.
  void skip_to(int64_t y, uint8_t* values) {
#ifdef LIBJPEG_TURBO_VERSION_NUMBER
    static_cast<void>(values);
    const auto count = static_cast<JDIMENSION>(y - next_row());
    if (count > 0) run([this, count] { jpeg_skip_scanlines(&info_, count); });
#else
    while (next_row() < y) read_row(values);
#endif
  }

  void finish() {
    run([this] { jpeg_finish_decompress(&info_); });
  }

 private:
  template <class Steps>
  void run(const Steps& steps) {
    if (setjmp(escape_.target) != 0) fail(file_.path(), "an intact JPEG", std::string("an error: ") + escape_.message);
    steps();
  }

  File file_;
  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  jpeg_progress_mgr progress_{};
  Escape escape_;
};

/// CMYK as Adobe's programs write it: 255 means no ink.
void cmyk_to_rgb(const std::vector<uint8_t>& cmyk, uint8_t* rgb) {
  for (size_t p = 0; p < cmyk.size() / 4; ++p) {
    const int black = cmyk[4 * p + 3];
    for (size_t c = 0; c < 3; ++c) *rgb++ = static_cast<uint8_t>((cmyk[4 * p + c] * black + 127) / 255);
  }
}

class JpegPicture : public PictureRows {
 public:
  explicit JpegPicture(File file) : reader_(std::move(file)) {
    reader_.open();
    reader_.start();
    spare_.resize(static_cast<size_t>(width() * (reader_.is_cmyk() ? 4 : 3)));
  }
  int64_t height() const override { return reader_.height(); }
  int64_t width() const override { return reader_.width(); }

  void read(int64_t y, uint8_t* values) override {
    reader_.skip_to(y, spare_.data());
    reader_.read_row(reader_.is_cmyk() ? spare_.data() : values);
    if (reader_.is_cmyk()) cmyk_to_rgb(spare_, values);
  }

  void finish() override {
    if (reader_.next_row() < height()) {
      // The last row is read in any case, for libjpeg does not look at what it skips at the end.
      reader_.skip_to(height() - 1, spare_.data());
      reader_.read_row(spare_.data());
    }
    reader_.finish();
  }

 private:
  JpegReader reader_;
  std::vector<uint8_t> spare_;  // for a row that nobody wants, and for CMYK
};

}  // namespace

std::unique_ptr<PictureRows> open_jpeg(File file) {
  return std::make_unique<JpegPicture>(std::move(file));
}

}  // namespace smooseg::app::codec
