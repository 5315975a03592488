// Dropout whose noise is never stored: each element's is a hash of the seed and of its place in the ordinary tensor, so
// backward draws it again, and it depends neither on threads nor on lanes.
#pragma once

#include "channel_affine.h"

namespace regrow {
namespace REGROW_ISA {

// A bijection of 32 bits that leaves no bias (C. Wellons, "Prospecting for hash functions", lowbias32).
template <class B>
REGROW_INLINE B scramble(B x) {
  x ^= x >> 16;
  x = (x * 0x7feb352du) & 0xffffffffu;
  x ^= x >> 15;
  x = (x * 0x846ca68bu) & 0xffffffffu;
  return x ^ (x >> 16);
}

// 32 random bits a lane.
template <class B>
REGROW_INLINE B noise_bits(B place, const Noise& noise) {
  const B first = scramble(place ^ noise.low);
  return scramble((first + place * 0x9e3779b9u + noise.high) & 0xffffffffu);
}

template <class T>
void dropout(const T* x, Layout layout, ChannelAffine<T> affine, Noise noise, T factor, T* y, Parallel parallel) {
  constexpr int L = kLanes<T>;
  const int64_t area = layout.height * layout.width, image = layout.channels * area;
  const bool far = is_far<T>(layout);
  each_plane(layout, parallel, [&](int64_t n, int64_t c) {
    const AffineMap<T> map(affine, c);
    const auto alive = living<T>(layout, n);
    const Vec<T> times = splat(factor);
    Bits<T> first{};
    for (int l = 0; l < L; ++l) first[l] = static_cast<uint32_t>((n * L + l) * image + c * area);
    clear_margin(layout, y, n, c);
    for (int64_t h = 0; h < layout.height; ++h) {
      const T* from = row_of(x, layout, n, c, h);
      T* to = row_of(y, layout, n, c, h);
      fill_row(to, layout.width, far, [&](int64_t i) {
        const Bits<T> place = (first + static_cast<uint32_t>(h * layout.width + i / L)) & 0xffffffffu;
        const auto kept = alive & (noise_bits(place, noise) >= noise.drop);
        return kept ? map(load_ahead(from + i)) * times : Vec<T>{};
      });
    }
    if (far) finish_stores();
  });
  zero_tail(layout, y);
}

}  // namespace REGROW_ISA
}  // namespace regrow
