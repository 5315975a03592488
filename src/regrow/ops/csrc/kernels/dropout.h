// Dropout whose noise is never stored: each element's is a hash of the seed and of its place in the ordinary tensor, so
// backward draws it again, and it depends neither on threads nor on lanes.
#pragma once

#include "lines.h"

namespace regrow {
namespace REGROW_ISA {

// 32 random bits a lane, in an unsigned integer of the element's size.
template <class T>
struct BitsOf;
template <>
struct BitsOf<float> {
  typedef uint32_t type __attribute__((vector_size(REGROW_VECTOR_BYTES)));
};
template <>
struct BitsOf<double> {
  typedef uint64_t type __attribute__((vector_size(REGROW_VECTOR_BYTES)));
};

// A bijection of 32 bits that leaves no bias (C. Wellons, "Prospecting for hash functions", lowbias32).
template <class Bits>
REGROW_INLINE Bits scramble(Bits x) {
  x ^= x >> 16;
  x = (x * 0x7feb352du) & 0xffffffffu;
  x ^= x >> 15;
  x = (x * 0x846ca68bu) & 0xffffffffu;
  return x ^ (x >> 16);
}

template <class Bits>
REGROW_INLINE Bits noise_bits(Bits place, const Noise& noise) {
  const Bits first = scramble(place ^ noise.low);
  return scramble((first + place * 0x9e3779b9u + noise.high) & 0xffffffffu);
}

template <class T>
void dropout(const T* x, Layout layout, Lines<T> lines, Noise noise, T factor, T* y, Parallel parallel) {
  constexpr int L = kLanes<T>;
  using Bits = typename BitsOf<T>::type;
  const int64_t area = layout.height * layout.width, image = layout.channels * area;
  const bool far = is_far<T>(layout);
  each_plane(layout, parallel, [&](int64_t n, int64_t c) {
    const Line<T> line(lines, c);
    const auto alive = living<T>(layout, n);
    const Vec<T> times = splat(factor);
    Bits first{};
    for (int l = 0; l < L; ++l) first[l] = static_cast<uint32_t>((n * L + l) * image + c * area);
    clear_margin(layout, y, n, c);
    for (int64_t h = 0; h < layout.height; ++h) {
      const T* from = row_of(x, layout, n, c, h);
      T* to = row_of(y, layout, n, c, h);
      fill_row(to, layout.width, far, [&](int64_t i) {
        const Bits place = (first + static_cast<uint32_t>(h * layout.width + i / L)) & 0xffffffffu;
        const auto kept = alive & (noise_bits(place, noise) >= noise.drop);
        return kept ? line(load_ahead(from + i)) * times : Vec<T>{};
      });
    }
    if (far) finish_stores();
  });
  zero_tail(layout, y);
}

}  // namespace REGROW_ISA
}  // namespace regrow
