#include "pixel_plan.h"

#include <algorithm>

#include "plan.h"

namespace regrow {

int64_t PixelPlan::first_channel(int worker, int workers) const {
  const int32_t* const end = begin + shape.out_channels;
  if (worker == workers) return shape.out_channels;
  return std::lower_bound(begin, end, static_cast<int32_t>(active * worker / workers)) - begin;
}

PixelPlanStorage::PixelPlanStorage(const ConvShape& shape, const int64_t* flat, int64_t active, int64_t height,
                                   int64_t width) {
  plan_.shape = shape, plan_.active = active, plan_.height = height, plan_.width = width;
  build(flat);
}
PixelPlanStorage::PixelPlanStorage(const ConvShape& shape, const int32_t* flat, int64_t active, int64_t height,
                                   int64_t width) {
  plan_.shape = shape, plan_.active = active, plan_.height = height, plan_.width = width;
  build(flat);
}

template <class Index>
void PixelPlanStorage::build(const Index* flat) {
  const ConvShape& s = plan_.shape;
  plan_.out_height = conv_out_height(s, plan_.height), plan_.out_width = conv_out_width(s, plan_.width);
  check_fits(s, plan_.height, plan_.width);
  plan_.rows = plan_.out_height + (s.kernel_h - 1) * s.dilation_h / s.stride_h;
  plan_.row = plan_.out_width + (s.kernel_w - 1) * s.dilation_w / s.stride_w;
  check_sizes(plan_.image_size(), plan_.active);

  ints_.resize(plan_.active + s.out_channels + 1);
  int32_t* const offset = ints_.data();
  int32_t* const begin = offset + plan_.active;
  int64_t channel = 0;
  for (int64_t k = 0; k < plan_.active; ++k) {
    const Position p = position_of(flat[k], s);
    while (channel <= p.o) begin[channel++] = static_cast<int32_t>(k);
    const int64_t y = p.ky * s.dilation_h, x = p.kx * s.dilation_w;
    const int64_t phase = y % s.stride_h * s.stride_w + x % s.stride_w;
    offset[k] = static_cast<int32_t>((phase * s.in_channels + p.i) * plan_.plane() + y / s.stride_h * plan_.row +
                                     x / s.stride_w);
  }
  while (channel <= s.out_channels) begin[channel++] = static_cast<int32_t>(plan_.active);
  plan_.offset = offset, plan_.begin = begin;
  plan_.bytes = static_cast<int64_t>(ints_.size() * sizeof(int32_t));
}

}  // namespace regrow
