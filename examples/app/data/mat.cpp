// MATLAB files through libmatio, where the program is built with it; tried with those of level 5, which MATLAB up to 7.2
// and SciPy write. MATLAB stores columns one after the other.

#include "data/codec.hpp"

#ifdef SMOOSEG_WITH_MATIO

#include <matio.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace smooseg::app {

bool reads_mat() {
  return true;
}

namespace codec {
namespace {

constexpr int64_t kLargestLabel = 65535;

/// Refuses a file of level 5 that ends within one of its elements, which libmatio would read as zeros.
void check_elements(const File& file) {
  constexpr size_t kHeader = 128, kTag = 8;
  const std::vector<uint8_t> bytes = file.contents();
  if (bytes.size() < kHeader) fail(file.path(), "an intact MATLAB file", "an error: the end of the file (truncated)");
  if (bytes[7] != '5') return;  // HDF5 looks after itself
  const bool little = bytes[126] == 'I';
  const auto word = [&](size_t at) {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; ++i) value |= uint32_t{bytes[at + i]} << 8 * (little ? i : 3 - i);
    return value;
  };
  for (size_t at = kHeader; at < bytes.size();) {
    const size_t left = bytes.size() - at;
    if (left < kTag || word(at + 4) > left - kTag) {
      fail(file.path(), "an intact MATLAB file", "an error: the end of the file (truncated)");
    }
    at += kTag + word(at + 4);
  }
}

/// libmatio is not meant for several threads, nor is HDF5 under it.
std::mutex& mat_mutex() {
  static std::mutex mutex;
  return mutex;
}

void say_nothing(int, char*) {}

/// A variable of a MATLAB file, with its data.
class MatVariable {
 public:
  /// The first variable of these names that the file has.
  MatVariable(const File& file, const std::vector<const char*>& names)
      : file_(file), mat_(nullptr, Mat_Close), variable_(nullptr, Mat_VarFree) {
    check_elements(file);
    Mat_LogInitFunc("smooseg", say_nothing);
    mat_.reset(Mat_Open(file.path().c_str(), MAT_ACC_RDONLY));
    if (!mat_) fail(file.path(), "an intact MATLAB file", "one that cannot be opened (truncated or damaged)");
    for (const char* name : names) {
      variable_.reset(Mat_VarReadInfo(mat_.get(), name));
      if (variable_) break;
    }
    if (variable_) return;
    std::string wanted;
    for (const char* name : names) wanted += (wanted.empty() ? "the variable " : " or ") + std::string(name);
    fail(file.path(), wanted, contents());
  }

  int rank() const { return variable_->rank; }
  int64_t size(int dim) const { return static_cast<int64_t>(variable_->dims[dim]); }
  bool is_bytes() const { return variable_->class_type == MAT_C_UINT8 && variable_->isComplex == 0; }
  bool is_real() const {
    return variable_->class_type >= MAT_C_DOUBLE && variable_->class_type <= MAT_C_UINT64 && variable_->isComplex == 0;
  }

  /// Such as "gt: 200 x 200 x 4 of class 9".
  std::string description() const {
    std::string sizes;
    for (int dim = 0; dim < rank(); ++dim) sizes += (dim > 0 ? " x " : "") + std::to_string(size(dim));
    return std::string(variable_->name) + ": " + sizes +
           (is_bytes()  ? " of uint8"
            : is_real() ? " of other numbers"
                        : "") +
           (variable_->isComplex != 0 ? " of complex numbers" : "");
  }

  /// Reads the data. @param channels of each pixel.
  void read(int64_t channels) {
    const auto width = static_cast<int64_t>(Mat_SizeOfClass(variable_->class_type));
    if (size(0) < 1 || size(1) < 1) fail(file_.path(), "an array with pixels", description());
    if (size(0) > INT32_MAX || size(1) > INT32_MAX) fail(file_.path(), "an array of fewer pixels", description());
    check_bytes(file_, size(0), size(1), size(0) * size(1) / 1032);
    check_whole(file_.path(), "an array", size(0), size(1));
    if (channels > kMaxPixels / (size(0) * size(1))) fail(file_.path(), "a picture of fewer channels", description());
    const auto bytes = static_cast<size_t>(size(0) * size(1) * channels * width);
    if (Mat_VarReadDataAll(mat_.get(), variable_.get()) != 0 || variable_->data == nullptr ||
        variable_->nbytes != bytes) {
      fail(file_.path(), "an intact MATLAB file", "data of " + description() + " that cannot be read (damaged)");
    }
  }

  /// The data's element i in the order of the file, which must have been read.
  double operator[](int64_t i) const {
    const auto as = [&](auto type) {
      return static_cast<double>(static_cast<const decltype(type)*>(variable_->data)[i]);
    };
    switch (variable_->class_type) {
      case MAT_C_DOUBLE:
        return as(double{});
      case MAT_C_SINGLE:
        return as(float{});
      case MAT_C_INT8:
        return as(int8_t{});
      case MAT_C_UINT8:
        return as(uint8_t{});
      case MAT_C_INT16:
        return as(int16_t{});
      case MAT_C_UINT16:
        return as(uint16_t{});
      case MAT_C_INT32:
        return as(int32_t{});
      case MAT_C_UINT32:
        return as(uint32_t{});
      case MAT_C_INT64:
        return as(int64_t{});
      default:
        return as(uint64_t{});
    }
  }

  const uint8_t* bytes() const { return static_cast<const uint8_t*>(variable_->data); }

 private:
  /// "img, gt", the variables in the file.
  std::string contents() const {
    std::string names;
    Mat_Rewind(mat_.get());
    while (matvar_t* next = Mat_VarReadNextInfo(mat_.get())) {
      const std::unique_ptr<matvar_t, void (*)(matvar_t*)> owned(next, Mat_VarFree);
      names += (names.empty() ? "" : ", ") + std::string(next->name != nullptr ? next->name : "?");
    }
    return names.empty() ? "none (truncated, damaged or empty)" : names;
  }

  const File& file_;
  std::unique_ptr<mat_t, int (*)(mat_t*)> mat_;
  std::unique_ptr<matvar_t, void (*)(matvar_t*)> variable_;
};

}  // namespace

std::unique_ptr<PictureRows> open_mat(File file) {
  const std::lock_guard<std::mutex> lock(mat_mutex());
  MatVariable image(file, {"img"});
  if (image.rank() != 3 || image.size(2) < 3 || !image.is_bytes()) {
    fail(file.path(), "a picture, height x width x 3 or more channels of uint8", image.description());
  }
  image.read(image.size(2));
  const int64_t height = image.size(0), width = image.size(1);
  std::vector<uint8_t> picture(static_cast<size_t>(height * width * 3));
  auto target = picture.begin();
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      for (int64_t c = 0; c < 3; ++c) *target++ = image.bytes()[y + height * (x + width * c)];
    }
  }
  return std::make_unique<WholeRows<uint8_t>>(height, width, std::move(picture));
}

std::unique_ptr<LabelRows> open_mat_indices(File file) {
  const std::lock_guard<std::mutex> lock(mat_mutex());
  MatVariable labels(file, {"gt", "S"});
  if (labels.rank() != 2 || !labels.is_real()) {
    fail(file.path(), "a label map, height x width of numbers", labels.description());
  }
  labels.read(1);
  const int64_t height = labels.size(0), width = labels.size(1);
  std::vector<int64_t> indices(static_cast<size_t>(height * width));
  auto target = indices.begin();
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const double value = labels[y + height * x];
      if (!(value >= 0 && value <= kLargestLabel) || value != std::floor(value)) {
        fail(file.path(), "label values that are whole numbers of 0 to " + std::to_string(kLargestLabel),
             std::to_string(value));
      }
      *target++ = static_cast<int64_t>(value);
    }
  }
  return std::make_unique<WholeRows<int64_t>>(height, width, std::move(indices));
}

}  // namespace codec
}  // namespace smooseg::app

#else

namespace smooseg::app {

bool reads_mat() {
  return false;
}

std::unique_ptr<PictureRows> codec::open_mat(File file) {
  fail_unbuilt(file, "a MATLAB file", "libmatio-dev");
}

std::unique_ptr<LabelRows> codec::open_mat_indices(File file) {
  fail_unbuilt(file, "a MATLAB file", "libmatio-dev");
}

}  // namespace smooseg::app

#endif
