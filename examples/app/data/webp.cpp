// WebP through libwebp, where the program is built with it.

#include "data/codec.hpp"

#ifdef SMOOSEG_WITH_WEBP

#include <webp/decode.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace smooseg::app {

bool reads_webp() {
  return true;
}

std::unique_ptr<PictureRows> codec::open_webp(File file) {
  const std::vector<uint8_t> bytes = file.contents();
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(bytes.data(), bytes.size(), &features) != VP8_STATUS_OK) {
    fail(file.path(), "an intact WebP", "a damaged or truncated one, or another RIFF file");
  }
  if (features.has_animation != 0) fail(file.path(), "a WebP of one picture", "an animation");
  const int64_t height = features.height, width = features.width;
  check_whole(file.path(), "a WebP", height, width);
  std::vector<uint8_t> pixels(static_cast<size_t>(height * width * 3));
  if (WebPDecodeRGBInto(bytes.data(), bytes.size(), pixels.data(), pixels.size(), features.width * 3) == nullptr) {
    fail(file.path(), "an intact WebP", "an error while decoding (truncated or damaged)");
  }
  return std::make_unique<WholeRows<uint8_t>>(height, width, std::move(pixels));
}

}  // namespace smooseg::app

#else

namespace smooseg::app {

bool reads_webp() {
  return false;
}

std::unique_ptr<PictureRows> codec::open_webp(File file) {
  fail_unbuilt(file, "a WebP file", "libwebp-dev");
}

}  // namespace smooseg::app

#endif
