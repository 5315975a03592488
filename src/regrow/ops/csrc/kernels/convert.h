// Ordinary tensors [N, C, H, W] <-> batch-blocked activations, and the zeros around planes.
#pragma once

#include "simd.h"
#include "work.h"

namespace regrow {
namespace REGROW_ISA {

template <class T>
inline void zero(T* p, int64_t count) {
  if (count > 0) std::memset(p, 0, static_cast<size_t>(count) * sizeof(T));  // p is null where nothing was taken
}

// Zeros the margin of one plane.
template <class T>
inline void zero_plane_margin(const Layout& layout, T* plane) {
  zero(plane, layout.margin_h * layout.row() * layout.lanes);
  if (layout.margin_w == 0) return;
  for (int64_t y = 0; y < layout.height; ++y)
    zero(plane + (layout.margin_h + y) * layout.row() * layout.lanes, layout.margin_w * layout.lanes);
}

template <class T>
inline void zero_tail(const Layout& layout, T* data) {
  zero(data + layout.blocks() * layout.block_size(), layout.tail() * layout.lanes);
}

template <class T>
inline void zero_margins(const Layout& layout, T* data, Parallel parallel) {
  if (layout.margin_h + layout.margin_w == 0) return;
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range planes = share(layout.blocks() * layout.channels, worker, parallel.workers);
    for (int64_t p = planes.begin; p < planes.end; ++p)
      zero_plane_margin(layout, data + p * layout.plane() * layout.lanes);
  });
  zero_tail(layout, data);
}

// The same planes with wider margins.
template <class T>
inline void copy_planes(const Layout& from, const T* src, const Layout& to, T* dst, Parallel parallel) {
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range planes = share(from.blocks() * from.channels, worker, parallel.workers);
    for (int64_t p = planes.begin; p < planes.end; ++p) {
      T* plane = dst + p * to.plane() * to.lanes;
      zero_plane_margin(to, plane);
      for (int64_t y = 0; y < from.height; ++y)
        std::memcpy(plane + ((to.margin_h + y) * to.row() + to.margin_w) * to.lanes,
                    src + ((p * (from.margin_h + from.height) + from.margin_h + y) * from.row() + from.margin_w) * from.lanes,
                    static_cast<size_t>(from.width * from.lanes) * sizeof(T));
    }
  });
  zero_tail(to, dst);
}

// Transposes of K vectors' width. A row is read or written one cache line at a time: rows that are a power of two
// apart fall into one set of the cache, so a line would not be there any more for its second half.
template <class T, int K>
REGROW_INLINE void interleave_strip(const T* rows, int64_t stride, int64_t images, T* out, int64_t out_stride) {
  constexpr int L = kLanes<T>;
  Vec<T> r[K][L];
#pragma GCC unroll 16
  for (int l = 0; l < L; ++l)
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) r[k][l] = l < images ? load_unaligned(rows + l * stride + k * L) : Vec<T>{};
#pragma GCC unroll 4
  for (int k = 0; k < K; ++k) {
    transpose<T>(r[k]);
#pragma GCC unroll 16
    for (int l = 0; l < L; ++l) store(out + (k * L + l) * out_stride, r[k][l]);
  }
}
template <class T, int K>
REGROW_INLINE void deinterleave_strip(const T* in, int64_t in_stride, int64_t images, T* rows, int64_t stride) {
  constexpr int L = kLanes<T>;
  Vec<T> r[K][L];
#pragma GCC unroll 4
  for (int k = 0; k < K; ++k) {
#pragma GCC unroll 16
    for (int l = 0; l < L; ++l) r[k][l] = load(in + (k * L + l) * in_stride);
    transpose<T>(r[k]);
  }
#pragma GCC unroll 16
  for (int l = 0; l < L; ++l)
    if (l < images) {
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) store_unaligned(rows + l * stride + k * L, r[k][l]);
    }
}

// rows[l][0..count) with distance `stride` -> out[i*out_stride + l]. Missing rows (l >= images) are zeros.
template <class T>
inline void interleave(const T* rows, int64_t stride, int64_t images, int64_t count, T* out, int64_t out_stride) {
  constexpr int L = kLanes<T>, K = kVectorBytes < 64 ? 64 / kVectorBytes : 1;
  int64_t i = 0;
  if (images == L)
    for (; i + K * L <= count; i += K * L)
      interleave_strip<T, K>(rows + i, stride, L, out + i * out_stride, out_stride);
  for (; i + L <= count; i += L) interleave_strip<T, 1>(rows + i, stride, images, out + i * out_stride, out_stride);
  for (; i < count; ++i)
    for (int l = 0; l < L; ++l) out[i * out_stride + l] = l < images ? rows[l * stride + i] : T(0);
}

// The reverse.
template <class T>
inline void deinterleave(const T* in, int64_t in_stride, int64_t images, int64_t count, T* rows, int64_t stride) {
  constexpr int L = kLanes<T>, K = kVectorBytes < 64 ? 64 / kVectorBytes : 1;
  int64_t i = 0;
  if (images == L)
    for (; i + K * L <= count; i += K * L) deinterleave_strip<T, K>(in + i * in_stride, in_stride, L, rows + i, stride);
  for (; i + L <= count; i += L) deinterleave_strip<T, 1>(in + i * in_stride, in_stride, images, rows + i, stride);
  for (; i < count; ++i)
    for (int l = 0; l < L && l < images; ++l) rows[l * stride + i] = in[i * in_stride + l];
}

inline int64_t images_in(const Layout& layout, int64_t block) {
  const int64_t left = layout.batch - block * layout.lanes;
  return left < layout.lanes ? left : layout.lanes;
}

// Visits (block, row y) of an activation, in shares of workers.
template <class Body>
inline void each_row(const Layout& layout, Parallel parallel, const Body& body) {
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range range = share(layout.blocks() * layout.height, worker, parallel.workers);
    for (int64_t t = range.begin; t < range.end; ++t) body(t / layout.height, t % layout.height);
  });
}
template <class Body>
inline void each_plane(const Layout& layout, Parallel parallel, const Body& body) {
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range range = share(layout.blocks() * layout.channels, worker, parallel.workers);
    for (int64_t t = range.begin; t < range.end; ++t) body(t / layout.channels, t % layout.channels);
  });
}

template <class T>
void to_blocked(const T* src, Strides strides, Layout layout, T* dst, Parallel parallel) {
  constexpr int L = kLanes<T>;
  const auto at = [&](int64_t n, int64_t c, int64_t y) {
    return dst + n * layout.block_size() +
           (c * layout.plane() + (layout.margin_h + y) * layout.row() + layout.margin_w) * L;
  };
  zero_margins(layout, dst, parallel);
  if (strides.c == 1 && layout.channels > 1) {  // channels_last: runs of channels
    each_row(layout, parallel, [&](int64_t n, int64_t y) {
      for (int64_t x = 0; x < layout.width; ++x)
        interleave(src + n * L * strides.n + y * strides.h + x * strides.w, strides.n, images_in(layout, n),
                   layout.channels, at(n, 0, y) + x * L, layout.plane() * L);
    });
    return;
  }
  each_plane(layout, parallel, [&](int64_t n, int64_t c) {
    const int64_t images = images_in(layout, n);
    for (int64_t y = 0; y < layout.height; ++y) {
      const T* from = src + n * L * strides.n + c * strides.c + y * strides.h;
      T* to = at(n, c, y);
      if (strides.w == 1) {
        interleave(from, strides.n, images, layout.width, to, L);
      } else {
        for (int64_t x = 0; x < layout.width; ++x)
          for (int l = 0; l < L; ++l) to[x * L + l] = l < images ? from[l * strides.n + x * strides.w] : T(0);
      }
    }
  });
}

template <class T>
void from_blocked(const T* src, Layout layout, T* dst, Strides strides, Parallel parallel) {
  constexpr int L = kLanes<T>;
  const auto at = [&](int64_t n, int64_t c, int64_t y) {
    return src + n * layout.block_size() +
           (c * layout.plane() + (layout.margin_h + y) * layout.row() + layout.margin_w) * L;
  };
  if (strides.c == 1 && layout.channels > 1) {
    each_row(layout, parallel, [&](int64_t n, int64_t y) {
      for (int64_t x = 0; x < layout.width; ++x)
        deinterleave(at(n, 0, y) + x * L, layout.plane() * L, images_in(layout, n), layout.channels,
                     dst + n * L * strides.n + y * strides.h + x * strides.w, strides.n);
    });
    return;
  }
  each_plane(layout, parallel, [&](int64_t n, int64_t c) {
    const int64_t images = images_in(layout, n);
    for (int64_t y = 0; y < layout.height; ++y) {
      const T* from = at(n, c, y);
      T* to = dst + n * L * strides.n + c * strides.c + y * strides.h;
      if (strides.w == 1) {
        deinterleave(from, L, images, layout.width, to, strides.n);
      } else {
        for (int64_t x = 0; x < layout.width; ++x)
          for (int64_t l = 0; l < images; ++l) to[l * strides.n + x * strides.w] = from[x * L + l];
      }
    }
  });
}

}  // namespace REGROW_ISA
}  // namespace regrow
