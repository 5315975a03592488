// Pooling of batch-blocked activations: any windows (see Windows in kernels.h), overlapping or not.
#pragma once

#include "channel_affine.h"

namespace regrow {
namespace REGROW_ISA {

// Torch's rule: the first of equal maxima wins, and the last NaN beats everything.
template <class T>
REGROW_INLINE Mask<T> beats(Vec<T> v, Vec<T> best) {
  return (v > best) | (v != v);
}

inline bool is_pair(const Window& w) { return w.end - w.begin == 2 && w.step == 1; }

// Calls body(offset) for every pixel of a window, in row-major order; offsets count elements from the plane's pixel (0, 0).
// The 2x2 window that nearly every pool has is unrolled.
template <class T, class Body>
REGROW_INLINE void each_pixel(const Layout& layout, const Window& rows, const Window& columns, const Body& body) {
  const int64_t pixel = kLanes<T>, row = layout.row() * kLanes<T>;
  if (is_pair(rows) && is_pair(columns)) {
    const int64_t first = rows.begin * row + columns.begin * pixel;
    body(first);
    body(first + pixel);
    body(first + row);
    body(first + row + pixel);
    return;
  }
  for (int64_t h = rows.begin; h < rows.end; h += rows.step)
    for (int64_t w = columns.begin; w < columns.end; w += columns.step) body(h * row + w * pixel);
}

template <class T>
void max_pool(const T* x, Layout in, ChannelAffine<T> affine, Layout out, Windows windows, T* y, Parallel parallel) {
  constexpr int L = kLanes<T>;
  each_plane(out, parallel, [&](int64_t n, int64_t c) {
    const AffineMap<T> map(affine, c);
    const auto alive = living<T>(out, n);
    const T* plane = row_of(x, in, n, c, 0);
    clear_margin(out, y, n, c);
    for (int64_t i = 0; i < out.height; ++i) {
      T* to = row_of(y, out, n, c, i);
      const Window rows = windows.rows[i];
      for (int64_t j = 0; j < out.width; ++j) {
        const Window columns = windows.columns[j];
        Vec<T> best = splat(-std::numeric_limits<T>::infinity());
        each_pixel<T>(in, rows, columns, [&](int64_t at) {
          const Vec<T> v = map(load_ahead(plane + at));
          best = beats<T>(v, best) ? v : best;
        });
        store(to + j * L, alive ? best : Vec<T>{});
      }
    }
  });
  zero_tail(out, y);
}

// Whether every pixel of the plane is in exactly one window.
inline bool tiles(const Layout& in, const Layout& out, const Windows& windows) {
  const auto cover = [](const Window* w, int64_t count, int64_t size) {
    int64_t next = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (w[i].begin != next || w[i].step != 1) return false;
      next = w[i].end;
    }
    return next == size;
  };
  return cover(windows.rows, out.height, in.height) && cover(windows.columns, out.width, in.width);
}

template <class T>
inline void zero_rows(const Layout& layout, T* plane) {  // plane: pixel (0, 0)
  for (int64_t h = 0; h < layout.height; ++h) zero(plane + h * layout.row() * layout.lanes, layout.width * layout.lanes);
}

// Gives each window's gradient to the pixel that won it. x, dx: pixel (0, 0) of planes of `in`; dy: of a plane of `out`.
template <class T>
inline void route(const T* dy, const T* x, const Layout& in, const AffineMap<T>& map, const Layout& out,
                  const Windows& windows, bool tiled, T* dx) {
  constexpr int L = kLanes<T>;
  if (!tiled) zero_rows(in, dx);
  for (int64_t i = 0; i < out.height; ++i) {
    const Window rows = windows.rows[i];
    for (int64_t j = 0; j < out.width; ++j) {
      const Window columns = windows.columns[j];
      const Vec<T> grad = load(dy + (i * out.row() + j) * L);
      Vec<T> best = splat(-std::numeric_limits<T>::infinity());
      Mask<T> winner{}, pixel{};
      each_pixel<T>(in, rows, columns, [&](int64_t at) {
        const Vec<T> v = map(load(x + at));
        const Mask<T> better = beats<T>(v, best);
        best = better ? v : best;
        winner = better ? pixel : winner;
        pixel += 1;
      });
      pixel = Mask<T>{};
      each_pixel<T>(in, rows, columns, [&](int64_t at) {
        const Vec<T> share = winner == pixel ? grad : Vec<T>{};
        store(dx + at, tiled ? share : load(dx + at) + share);
        pixel += 1;
      });
    }
  }
}

template <class T>
inline void gate_plane(const T* x, const Layout& layout, const AffineMap<T>& map, T* grad) {
  constexpr int L = kLanes<T>;
  for (int64_t h = 0; h < layout.height; ++h) {
    const int64_t at = h * layout.row() * L;
    for (int64_t i = at; i < at + layout.width * L; i += L) store(grad + i, map.gate(load(grad + i), load(x + i)));
  }
}

template <class T>
void max_pool_backward(const T* dy, const T* x, Layout in, ChannelAffine<T> affine, bool gated, Layout out,
                       Windows windows, T* dx, Parallel parallel) {
  const bool tiled = tiles(in, out, windows);
  each_plane(in, parallel, [&](int64_t n, int64_t c) {
    const AffineMap<T> map(affine, c);
    const T* plane = row_of(x, in, n, c, 0);
    T* to = row_of(dx, in, n, c, 0);
    clear_margin(in, dx, n, c);
    route(row_of(dy, out, n, c, 0), plane, in, map, out, windows, tiled, to);
    if (gated) gate_plane(plane, in, map, to);
  });
  zero_tail(in, dx);
}

template <class T>
void avg_pool(const T* x, Layout in, Layout out, Windows windows, T* y, Parallel parallel) {
  constexpr int L = kLanes<T>;
  each_plane(out, parallel, [&](int64_t n, int64_t c) {
    const T* plane = row_of(x, in, n, c, 0);
    clear_margin(out, y, n, c);
    for (int64_t i = 0; i < out.height; ++i) {
      T* to = row_of(y, out, n, c, i);
      for (int64_t j = 0; j < out.width; ++j) {
        Vec<T> sum{};
        each_pixel<T>(in, windows.rows[i], windows.columns[j], [&](int64_t at) { sum += load(plane + at); });
        store(to + j * L, sum / splat(T(windows.rows[i].extent * windows.columns[j].extent)));
      }
    }
  });
  zero_tail(out, y);
}

template <class T>
void avg_pool_backward(const T* dy, Layout in, Layout out, Windows windows, T* dx, Parallel parallel) {
  constexpr int L = kLanes<T>;
  const bool tiled = tiles(in, out, windows);
  each_plane(in, parallel, [&](int64_t n, int64_t c) {
    T* to = row_of(dx, in, n, c, 0);
    clear_margin(in, dx, n, c);
    if (!tiled) zero_rows(in, to);
    for (int64_t i = 0; i < out.height; ++i) {
      const T* grad = row_of(dy, out, n, c, i);
      for (int64_t j = 0; j < out.width; ++j) {
        const Vec<T> share = load(grad + j * L) / splat(T(windows.rows[i].extent * windows.columns[j].extent));
        each_pixel<T>(in, windows.rows[i], windows.columns[j],
                      [&](int64_t at) { store(to + at, tiled ? share : load(to + at) + share); });
      }
    }
  });
  zero_tail(in, dx);
}

}  // namespace REGROW_ISA
}  // namespace regrow
