// What a BatchNorm and a ReLU make of a channel, max(scale * (x - center) + shift, floor), and what goes with it element
// by element: the residual sum, the derivative of the ReLU. The subtraction comes first, so that a mean that is large
// beside the deviation costs no digits.
#pragma once

#include <limits>

#include "convert.h"

namespace regrow {
namespace REGROW_ISA {

// All bits set in the lanes of images that exist.
template <class T>
REGROW_INLINE Mask<T> living(const Layout& layout, int64_t block) {
  return lane_mask<T>(images_in(layout, block)) > T(0);
}

// One channel's affine map, as vectors. NaN stays NaN.
template <class T>
struct AffineMap {
  Vec<T> scale, center, shift, floor;

  AffineMap(const ChannelAffine<T>& affine, int64_t channel)
      : scale(splat(affine.scale ? affine.scale[channel] : T(1))),
        center(splat(affine.center ? affine.center[channel] : T(0))),
        shift(splat(affine.shift ? affine.shift[channel] : T(0))),
        floor(splat(affine.relu ? T(0) : -std::numeric_limits<T>::infinity())) {}

  REGROW_INLINE Vec<T> above(Vec<T> v) const { return v < floor ? floor : v; }
  REGROW_INLINE Vec<T> unbounded(Vec<T> x) const { return scale * (x - center) + shift; }
  REGROW_INLINE Vec<T> operator()(Vec<T> x) const { return above(unbounded(x)); }
  // The gradient, stopped where the ReLU is at its floor.
  REGROW_INLINE Vec<T> gate(Vec<T> grad, Vec<T> x) const { return unbounded(x) <= floor ? Vec<T>{} : grad; }
};

// First pixel of row y of the plane of (block, channel).
template <class T>
REGROW_INLINE T* row_of(T* data, const Layout& layout, int64_t block, int64_t channel, int64_t y) {
  return data + block * layout.block_size() +
         (channel * layout.plane() + (layout.margin_h + y) * layout.row() + layout.margin_w) * layout.lanes;
}

// Zeros the margin of one plane. (As vectors: planes are small, and a call to memset for each row costs more.)
template <class T>
REGROW_INLINE void clear_margin(const Layout& layout, T* data, int64_t block, int64_t channel) {
  constexpr int L = kLanes<T>;
  T* plane = data + block * layout.block_size() + channel * layout.plane() * L;
  const int64_t row = layout.row() * L;
  for (int64_t i = 0; i < layout.margin_h * row; i += L) store(plane + i, Vec<T>{});
  for (int64_t h = layout.margin_h; h < layout.margin_h + layout.height; ++h)
    for (int64_t i = 0; i < layout.margin_w * L; i += L) store(plane + h * row + i, Vec<T>{});
}

// Whether a result is so large that nobody will find it in a cache.
template <class T>
inline bool is_far(const Layout& layout) {
  return layout.size() * static_cast<int64_t>(sizeof(T)) > (24 << 20);
}

// Stores body(i) at each vector of a row.
template <class T, class Body>
REGROW_INLINE void fill_row(T* to, int64_t count, bool far, const Body& body) {
  constexpr int L = kLanes<T>;
  if (far)
    for (int64_t i = 0; i < count * L; i += L) store_far(to + i, body(i));
  else
    for (int64_t i = 0; i < count * L; i += L) store(to + i, body(i));
}

template <class T>
void affine(const T* x, Layout layout, ChannelAffine<T> affine, const T* residual, T* y, Parallel parallel) {
  const bool far = is_far<T>(layout);
  each_plane(layout, parallel, [&](int64_t n, int64_t c) {
    const AffineMap<T> map(affine, c);
    const auto alive = living<T>(layout, n);
    clear_margin(layout, y, n, c);
    for (int64_t h = 0; h < layout.height; ++h) {
      const T* from = row_of(x, layout, n, c, h);
      T* to = row_of(y, layout, n, c, h);
      if (residual) {
        const T* more = row_of(residual, layout, n, c, h);
        fill_row(to, layout.width, far, [&](int64_t i) {
          const Vec<T> v = map.above(map.unbounded(load_ahead(from + i)) + load_ahead(more + i));
          return alive ? v : Vec<T>{};
        });
      } else {
        fill_row(to, layout.width, far, [&](int64_t i) { return alive ? map(load_ahead(from + i)) : Vec<T>{}; });
      }
    }
    if (far) finish_stores();
  });
  zero_tail(layout, y);
}

template <class T>
void relu_backward(const T* dy, const T* x, Layout layout, ChannelAffine<T> affine, T* dx, Parallel parallel) {
  constexpr int L = kLanes<T>;
  each_plane(layout, parallel, [&](int64_t n, int64_t c) {
    const AffineMap<T> map(affine, c);
    clear_margin(layout, dx, n, c);
    for (int64_t h = 0; h < layout.height; ++h) {
      const T *grad = row_of(dy, layout, n, c, h), *from = row_of(x, layout, n, c, h);
      T* to = row_of(dx, layout, n, c, h);
      for (int64_t i = 0; i < layout.width * L; i += L) store(to + i, map.gate(load(grad + i), load(from + i)));
    }
  });
  zero_tail(layout, dx);
}

}  // namespace REGROW_ISA
}  // namespace regrow
