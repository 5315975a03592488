// BatchNorm of batch-blocked activations: the moments of a channel, and the derivative.
//
// Sums run over a row, then over rows, in the element type, and over planes in double, so that the error does not grow
// with the batch. Workers own channels: results do not depend on their number.
#pragma once

#include "pool.h"

namespace regrow {
namespace REGROW_ISA {

// Sum of body(pixel vector, x offset) over the pixels of a plane; lanes apart.
template <class T, class Body>
REGROW_INLINE Vec<T> sum_plane(const Layout& layout, const Body& body) {
  constexpr int L = kLanes<T>;
  Vec<T> total{};
  for (int64_t h = 0; h < layout.height; ++h) {
    const int64_t row = h * layout.row() * L, end = row + layout.width * L;
    Vec<T> even{}, odd{};
    int64_t at = row;
    for (; at + L < end; at += 2 * L) {
      even += body(at);
      odd += body(at + L);
    }
    if (at < end) even += body(at);
    total += even + odd;
  }
  return total;
}

template <class T>
REGROW_INLINE double sum_wide(Vec<T> v) {
  double sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += v[i];
  return sum;
}

template <class Body>
inline void each_channel(const Layout& layout, const Parallel& parallel, const Body& body) {
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range channels = share(layout.channels, worker, parallel.workers);
    for (int64_t c = channels.begin; c < channels.end; ++c) body(c, worker);
  });
}

// Mean and sum of squared deviations of values seen so far; parts are joined as by Chan, Golub and LeVeque.
struct Moments {
  double count = 0, mean = 0, squares = 0;

  void join(double other_count, double other_mean, double other_squares) {
    const double all = count + other_count, apart = other_mean - mean;
    squares += other_squares + apart * apart * count * other_count / all;
    mean += apart * other_count / all;
    count = all;
  }
};

// The second pass over a plane finds it in the cache.
template <class T>
void moments(const T* x, Layout layout, double* mean, double* variance, Parallel parallel) {
  each_channel(layout, parallel, [&](int64_t c, int) {
    Moments all;
    for (int64_t n = 0; n < layout.blocks(); ++n) {
      const T* plane = row_of(x, layout, n, c, 0);
      const auto alive = living<T>(layout, n);
      const double count = static_cast<double>(images_in(layout, n) * layout.height * layout.width);
      const double center = sum_wide<T>(sum_plane<T>(layout, [&](int64_t at) { return load(plane + at); })) / count;
      const Vec<T> middle = splat(static_cast<T>(center));
      const Vec<T> squares = sum_plane<T>(layout, [&](int64_t at) {
        const Vec<T> apart = alive ? load(plane + at) - middle : Vec<T>{};
        return apart * apart;
      });
      all.join(count, center, sum_wide<T>(squares));
    }
    mean[c] = all.mean;
    variance[c] = all.squares / all.count;
  });
}

// The gradient with respect to a BatchNorm's output, plane by plane: as given, or through a max pool behind it.
template <class T>
struct Upstream {
  const T* dy;
  Layout in, out;
  const Windows* windows;  // null: as given
  bool tiled;

  // Pixel (0, 0) of the plane, which is put into `space` (plane-sized) if it has to be made.
  const T* plane(const T* x, const Line<T>& line, int64_t n, int64_t c, T* space) const {
    if (!windows) return row_of(dy, in, n, c, 0);
    route(row_of(dy, out, n, c, 0), x, in, line, out, *windows, tiled, space);
    return space;
  }
};

template <class T>
size_t norm_backward_scratch(Layout in, int workers) {
  return static_cast<size_t>(workers * in.plane() * in.lanes) * sizeof(T);
}

// dx = scale * (g - training * (sum g + (x - mean) * invstd^2 * sum g (x - mean)) / count), g gated by the ReLU.
template <class T>
void norm_backward(const T* dy, const T* x, Layout in, NormGradient<T> norm, Lines<T> lines, Layout out,
                   const Windows* windows, T* dx, T* dweight, T* dbias, void* scratch, Parallel parallel) {
  constexpr int L = kLanes<T>;
  const Upstream<T> upstream{dy, in, out, windows, windows && tiles(in, out, *windows)};
  const double count = static_cast<double>(in.batch * in.height * in.width);
  T* space = static_cast<T*>(scratch);
  each_channel(in, parallel, [&](int64_t c, int worker) {
    const Line<T> line(lines, c);
    T* own = space ? space + worker * in.plane() * L : nullptr;
    const Vec<T> mean = splat(norm.mean[c]);
    double sum = 0, product = 0;
    for (int64_t n = 0; n < in.blocks(); ++n) {
      const T* from = row_of(x, in, n, c, 0);
      const T* grad = upstream.plane(from, line, n, c, own);
      Vec<T> dot{};
      sum += sum_wide<T>(sum_plane<T>(in, [&](int64_t at) {
        const Vec<T> v = load(from + at), g = line.gate(load(grad + at), v);
        dot += g * (v - mean);
        return g;
      }));
      product += sum_wide<T>(dot);
    }
    const double invstd = norm.invstd[c], gain = invstd * (norm.weight ? norm.weight[c] : T(1));
    dbias[c] = static_cast<T>(sum);
    dweight[c] = static_cast<T>(product * invstd);
    if (!dx) return;
    const double back = norm.training ? gain / count : 0;
    const Vec<T> a = splat(static_cast<T>(gain)), b = splat(static_cast<T>(-back * product * invstd * invstd)),
                 d = splat(static_cast<T>(-back * sum));
    for (int64_t n = 0; n < in.blocks(); ++n) {
      const T* from = row_of(x, in, n, c, 0);
      const T* grad = upstream.plane(from, line, n, c, own);
      const auto alive = living<T>(in, n);
      T* to = row_of(dx, in, n, c, 0);
      zero_plane_margin(in, dx + n * in.block_size() + c * in.plane() * L);
      for (int64_t h = 0; h < in.height; ++h) {
        const int64_t row = h * in.row() * L;
        for (int64_t at = row; at < row + in.width * L; at += L) {
          const Vec<T> v = load(from + at), g = line.gate(load(grad + at), v);
          store(to + at, alive ? a * g + (b * (v - mean) + d) : Vec<T>{});
        }
      }
    }
  });
  if (dx) zero_tail(in, dx);
}

}  // namespace REGROW_ISA
}  // namespace regrow
