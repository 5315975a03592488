// Convolution of few images, whose lanes lie along the pixels of a plane (see pixel_plan.h): one image fills them.
#pragma once

#include "convert.h"
#include "pixel_plan.h"

namespace regrow {
namespace REGROW_ISA {

// Accumulators for each vector of a tile: where there are few vectors, the latency of a multiply-add is hidden by
// weights in turn.
template <int Vectors>
constexpr int chains() {
  int chains = 1;
  while (chains < 8 && 2 * chains * Vectors <= kMaxTile) chains *= 2;
  return chains;
}

// out[tile] = start + the sum of value[k] * x[offset[k] + tile].
template <class T, int Vectors>
void pixel_tile(const int32_t* offset, int64_t count, const T* value, const T* x, T start, T* out) {
  constexpr int L = kLanes<T>, Chains = chains<Vectors>();
  Vec<T> sum[Chains][Vectors];
#pragma GCC unroll 8
  for (int c = 0; c < Chains; ++c)
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) sum[c][v] = c ? Vec<T>{} : splat(start);
  const auto add = [&](Vec<T>* to, int64_t k) __attribute__((always_inline)) {
    const Vec<T> w = splat(value[k]);
    const T* const from = pin_address(x + offset[k]);
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) to[v] += w * load_unaligned(from + v * L);
  };
  int64_t k = 0;
  for (; k + Chains <= count; k += Chains)
#pragma GCC unroll 8
    for (int c = 0; c < Chains; ++c) add(sum[c], k + c);
  for (; k < count; ++k) add(sum[0], k);
#pragma GCC unroll 16
  for (int v = 0; v < Vectors; ++v) {
#pragma GCC unroll 8
    for (int c = 1; c < Chains; ++c) sum[0][v] += sum[c][v];
    store(out + v * L, sum[0][v]);
  }
}

template <class T>
using PixelTile = void (*)(const int32_t* offset, int64_t count, const T* value, const T* x, T start, T* out);
template <class T, class Sizes>
struct PixelTiles;
template <class T, int... Vectors>
struct PixelTiles<T, std::integer_sequence<int, Vectors...>> {
  static constexpr PixelTile<T> at[] = {&pixel_tile<T, Vectors + 1>...};
};

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T>
REGROW_INLINE void copy(const T* from, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];  // short: a call of memcpy costs more
}

// Copies channel i of an image into its planes of all phases, with zeros around it.
template <class T>
void pad(const PixelPlan& plan, const T* x, int64_t i, T* image) {
  const ConvShape& s = plan.shape;
  for (int64_t phase = 0; phase < plan.phases(); ++phase) {
    const int64_t top = phase / s.stride_w - s.padding_h, left = phase % s.stride_w - s.padding_w;
    // Columns c of the plane that are inside the image: 0 <= left + c * stride_w < width.
    const int64_t first = left < 0 ? smaller(plan.row, (-left + s.stride_w - 1) / s.stride_w) : 0;
    const int64_t end = plan.width > left ? smaller(plan.row, (plan.width - left + s.stride_w - 1) / s.stride_w) : 0;
    const int64_t last = end > first ? end : first;
    T* to = image + (phase * s.in_channels + i) * plan.plane();
    for (int64_t r = 0; r < plan.rows; ++r, to += plan.row) {
      const int64_t y = top + r * s.stride_h;
      if (y < 0 || y >= plan.height) {
        zero(to, plan.row);
        continue;
      }
      const T* from = x + y * plan.width + left;
      zero(to, first);
      if (s.stride_w == 1)
        copy(from + first, last - first, to + first);
      else
        for (int64_t c = first; c < last; ++c) to[c] = from[c * s.stride_w];
      zero(to + last, plan.row - last);
    }
  }
}

template <class T>
struct alignas(64) TileOfPixels {
  T at[kMaxTile * kLanes<T>];
};

// Part of a tile that lies in one row of the output.
struct Stretch {
  int64_t from, to, count;  // pixel of the tile, pixel of the output plane, pixels
};

template <class T>
struct PixelScratch {
  T* x;  // padded images; the last tile reads beyond them
  size_t bytes;
  PixelScratch(const PixelPlan& plan, int64_t batch, void* base) {
    Scratch scratch(base);
    x = scratch.take<T>(batch * plan.image_size() + 2 * kMaxTile * kLanes<T>);
    bytes = scratch.used();
  }
};
template <class T>
size_t pixel_forward_scratch(const PixelPlan& plan, int64_t batch) {
  return PixelScratch<T>(plan, batch, nullptr).bytes;
}

template <class T>
void pixel_forward(const PixelPlan& plan, int64_t batch, const T* values, const T* bias, const T* x, T* y,
                   void* scratch, Parallel parallel) {
  constexpr int64_t L = kLanes<T>;
  const PixelScratch<T> own(plan, batch, scratch);
  const int64_t in_channels = plan.shape.in_channels, out_channels = plan.shape.out_channels;
  const int64_t in_plane = plan.height * plan.width, out_plane = plan.out_height * plan.out_width;
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range range = share(batch * in_channels, worker, parallel.workers);
    for (int64_t c = range.begin; c < range.end; ++c)
      pad(plan, x + c * in_plane, c % in_channels, own.x + c / in_channels * plan.image_size());
  });

  const int64_t vectors = (plan.span() + L - 1) / L, tiles = (vectors + kMaxTile - 1) / kMaxTile;
  const int64_t size = (vectors + tiles - 1) / tiles * L;
  const PixelTile<T> kernel = PixelTiles<T, std::make_integer_sequence<int, kMaxTile>>::at[size / L - 1];
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range channels{plan.first_channel(worker, parallel.workers), plan.first_channel(worker + 1, parallel.workers)};
    TileOfPixels<T> tile;
    Stretch stretches[kMaxTile * kLanes<T>];
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = t * size, last = smaller(first + size, plan.span());
      int count = 0;
      for (int64_t p = first; p < last;) {
        const int64_t row = p / plan.row, column = p % plan.row, left = smaller(plan.out_width - column, last - p);
        if (left > 0) stretches[count++] = {p - first, row * plan.out_width + column, left};
        p += plan.row - column;
      }
      for (int64_t n = 0; n < batch; ++n) {
        const T* const from = own.x + n * plan.image_size() + first;
        for (int64_t o = channels.begin; o < channels.end; ++o) {
          const int32_t begin = plan.begin[o];
          kernel(plan.offset + begin, plan.begin[o + 1] - begin, values + begin, from, bias ? bias[o] : T(0),
                 tile.at);
          T* const to = y + (n * out_channels + o) * out_plane;
          for (int s = 0; s < count; ++s)
            copy(tile.at + stretches[s].from, stretches[s].count, to + stretches[s].to);
        }
      }
    }
  });
}

}  // namespace REGROW_ISA
}  // namespace regrow
