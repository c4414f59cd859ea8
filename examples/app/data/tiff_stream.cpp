#include "data/codec.hpp"

#ifdef SMOOSEG_WITH_TIFF

#include <sys/types.h>

#include <array>
#include <cstdarg>
#include <cstdio>

#include "data/tiff_stream.hpp"

namespace smooseg::app::codec {
namespace {

TiffStream::State& state_of(thandle_t handle) {
  return *static_cast<TiffStream::State*>(handle);
}

tmsize_t read_tiff(thandle_t handle, void* target, tmsize_t count) {
  return static_cast<tmsize_t>(std::fread(target, 1, static_cast<size_t>(count), state_of(handle).stream));
}

tmsize_t write_tiff(thandle_t handle, void* source, tmsize_t count) {
  return static_cast<tmsize_t>(std::fwrite(source, 1, static_cast<size_t>(count), state_of(handle).stream));
}

toff_t seek_tiff(thandle_t handle, toff_t offset, int whence) {
  std::FILE* const stream = state_of(handle).stream;
  if (::fseeko(stream, static_cast<off_t>(offset), whence) != 0) return static_cast<toff_t>(-1);
  return static_cast<toff_t>(::ftello(stream));
}

int close_tiff(thandle_t) {
  return 0;  // the stream is its owner's
}

toff_t size_of_tiff(thandle_t handle) {
  std::FILE* const stream = state_of(handle).stream;
  const off_t before = ::ftello(stream);
  ::fseeko(stream, 0, SEEK_END);
  const off_t size = ::ftello(stream);
  ::fseeko(stream, before, SEEK_SET);
  return static_cast<toff_t>(size);
}

void note_tiff_error(thandle_t handle, const char*, const char* format, va_list arguments) {
  if (handle == nullptr || state_of(handle).message[0] != '\0') return;
  std::vsnprintf(state_of(handle).message, sizeof state_of(handle).message, format, arguments);
}

/// What libtiff must know of GeoTIFF's tags to read and write them.
void add_geo_tags(TIFF* tiff) {
  const auto field = [](uint32_t tag, TIFFDataType type, const char* name) {
    const bool counted = type != TIFF_ASCII;
    return TIFFFieldInfo{tag,
                         TIFF_VARIABLE,
                         TIFF_VARIABLE,
                         type,
                         FIELD_CUSTOM,
                         1,
                         static_cast<unsigned char>(counted),
                         const_cast<char*>(name)};
  };
  static const std::array<TIFFFieldInfo, 6> fields{field(kModelPixelScale, TIFF_DOUBLE, "ModelPixelScale"),
                                                   field(kModelTiepoint, TIFF_DOUBLE, "ModelTiepoint"),
                                                   field(kModelTransformation, TIFF_DOUBLE, "ModelTransformation"),
                                                   field(kGeoKeyDirectory, TIFF_SHORT, "GeoKeyDirectory"),
                                                   field(kGeoDoubleParams, TIFF_DOUBLE, "GeoDoubleParams"),
                                                   field(kGeoAsciiParams, TIFF_ASCII, "GeoAsciiParams")};
  TIFFMergeFieldInfo(tiff, fields.data(), static_cast<uint32_t>(fields.size()));
}

TIFFExtendProc parent_extender = nullptr;

void extend_tags(TIFF* tiff) {
  add_geo_tags(tiff);
  if (parent_extender != nullptr) parent_extender(tiff);
}

/// Silences what libtiff would print; errors go to the file's `State`.
void set_tiff_handlers() {
  static const bool done = [] {
    TIFFSetWarningHandler(nullptr);
    TIFFSetErrorHandler(nullptr);
    TIFFSetErrorHandlerExt(note_tiff_error);
    parent_extender = TIFFSetTagExtender(extend_tags);
    return true;
  }();
  static_cast<void>(done);
}

}  // namespace

TiffStream::TiffStream(std::FILE* stream, const char* mode) : state_{stream, ""}, tiff_(nullptr, TIFFClose) {
  set_tiff_handlers();
  const std::string without_map = std::string(mode) + "m";
  tiff_.reset(TIFFClientOpen("", without_map.c_str(), &state_, read_tiff, write_tiff, seek_tiff, close_tiff,
                             size_of_tiff, nullptr, nullptr));
}

bool TiffStream::close() {
  const bool written = tiff_ && TIFFFlush(tiff_.get()) == 1;
  tiff_.reset();
  return written && state_.message[0] == '\0';
}

}  // namespace smooseg::app::codec

#endif
