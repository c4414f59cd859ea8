#include "data/windows.hpp"

#include <c10/util/Exception.h>
#include <torch/types.h>

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

namespace smooseg::app {

template <class Value>
Windows<Value>::Windows(std::unique_ptr<Rows<Value>> source, const Transform& transform)
    : source_(std::move(source)),
      grid_(grid_of(transform, source_->height(), source_->width(), std::numeric_limits<int64_t>::max())),
      row_(static_cast<std::size_t>(source_->width() * Rows<Value>::kChannels)) {}

template <class Value>
Tensor Windows<Value>::read(int64_t top, int64_t left, int64_t height, int64_t width) {
  TORCH_CHECK(top >= first_ && top + height <= this->height() && left >= 0 && left + width <= this->width(),
              "Windows: expected a window not above row ", first_, " of ", this->height(), " x ", this->width(),
              " pixels, got ", height, " x ", width, " at ", top, ", ", left);
  constexpr int64_t kChannels = Rows<Value>::kChannels;
  constexpr auto kType = std::is_same_v<Value, uint8_t> ? torch::kUInt8 : torch::kInt64;
  const int64_t row = this->width() * kChannels;
  const int64_t end = std::max(next_, top + height);
  if (top > first_ || !held_.defined() || held_.size(0) < end - top) {
    const Tensor room = torch::empty({end - top, row}, kType);
    if (next_ > top) room.narrow(0, 0, next_ - top).copy_(held_.narrow(0, top - first_, next_ - top));
    next_ = std::max(next_, top);
    held_ = room;
    first_ = top;
  }
  for (; next_ < top + height; ++next_) {
    const int64_t y = grid_.rows[static_cast<std::size_t>(next_)];
    if (y != decoded_) source_->read(y, row_.data());
    decoded_ = y;
    Value* target = held_.data_ptr<Value>() + (next_ - first_) * row;
    for (const int64_t x : grid_.columns) target = std::copy_n(row_.data() + kChannels * x, kChannels, target);
  }
  const Tensor window = held_.narrow(0, 0, height).view({height, this->width(), kChannels}).narrow(1, left, width);
  return kChannels == 1 ? window.squeeze(2) : window;
}

template class Windows<uint8_t>;
template class Windows<int64_t>;

}  // namespace smooseg::app
