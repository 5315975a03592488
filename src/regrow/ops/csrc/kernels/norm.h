// BatchNorm of batch-blocked activations: the moments of a channel, and the derivative.
//
// Workers own channels, so results do not depend on their number. A second pass finds most of its data in the cache.
#pragma once

#include <algorithm>

#include "pool.h"

namespace regrow {
namespace REGROW_ISA {

template <class Body>
inline void each_channel(const Layout& layout, const Parallel& parallel, const Body& body) {
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range channels = share(layout.channels, worker, parallel.workers);
    for (int64_t c = channels.begin; c < channels.end; ++c) body(c);
  });
}

// K sums over many pixels: along a row and over some rows in the element type, over the rest and over lanes in double,
// so that the error does not grow with the batch.
template <class T, int K>
class Sums {
 public:
  // Adds the terms that body(i, terms) gives for each i of a row.
  template <class Body>
  REGROW_INLINE void add_row(int64_t count, const Body& body) {
    Vec<T> even[K]{}, odd[K]{}, terms[K];
    for (int64_t i = 0; i + 1 < count; i += 2) {
      body(i, terms);
      for (int k = 0; k < K; ++k) even[k] += terms[k];
      body(i + 1, terms);
      for (int k = 0; k < K; ++k) odd[k] += terms[k];
    }
    if (count % 2) {
      body(count - 1, terms);
      for (int k = 0; k < K; ++k) even[k] += terms[k];
    }
    for (int k = 0; k < K; ++k) part_[k] += even[k] + odd[k];
    if (++rows_ == kRows) widen();
  }
  double total(int k) {
    widen();
    return wide_[k];
  }

 private:
  static constexpr int kRows = 32;

  void widen() {
    for (int k = 0; k < K; ++k) {
      for (int l = 0; l < kLanes<T>; ++l) wide_[k] += part_[k][l];
      part_[k] = Vec<T>{};
    }
    rows_ = 0;
  }

  Vec<T> part_[K]{};
  double wide_[K]{};
  int rows_ = 0;
};

// Mean and sum of squared deviations of the values seen so far; parts are joined as by Chan, Golub and LeVeque.
struct Moments {
  double count = 0, mean = 0, squares = 0;

  void join(double more, double its_mean, double its_squares) {
    const double all = count + more, apart = its_mean - mean;
    squares += its_squares + apart * apart * count * more / all;
    mean += apart * more / all;
    count = all;
  }
};

// A few planes at a time: their mean in the element type, then the deviations from it and their squares. The sum of the
// deviations, which rounding alone keeps from being 0, corrects both.
template <class T>
void moments(const T* x, Layout layout, double* mean, double* variance, Parallel parallel) {
  constexpr int L = kLanes<T>;
  const int64_t area = layout.height * layout.width, together = (256 + area - 1) / std::max<int64_t>(1, area);
  each_channel(layout, parallel, [&](int64_t c) {
    Moments all;
    for (int64_t first = 0; first < layout.blocks(); first += together) {
      const int64_t last = std::min(first + together, layout.blocks());
      const int64_t images = std::min(last * L, layout.batch) - first * L;
      Sums<T, 1> sum;
      Sums<T, 2> apart;
      for (int64_t n = first; n < last; ++n)
        for (int64_t h = 0; h < layout.height; ++h) {
          const T* row = row_of(x, layout, n, c, h);
          sum.add_row(layout.width, [&](int64_t i, Vec<T>* terms) { terms[0] = load(row + i * L); });
        }
      const double count = static_cast<double>(images * area);
      const T center = static_cast<T>(sum.total(0) / count);
      const Vec<T> middle = splat(center);
      for (int64_t n = first; n < last; ++n) {
        const auto alive = living<T>(layout, n);
        for (int64_t h = 0; h < layout.height; ++h) {
          const T* row = row_of(x, layout, n, c, h);
          apart.add_row(layout.width, [&](int64_t i, Vec<T>* terms) {
            terms[0] = alive ? load(row + i * L) - middle : Vec<T>{};
            terms[1] = terms[0] * terms[0];
          });
        }
      }
      const double off = apart.total(0) / count;
      all.join(count, center + off, apart.total(1) - count * off * off);
    }
    mean[c] = all.mean;
    variance[c] = all.squares / all.count;
  });
}

// Sums of g and g (x - mean) over a plane, g being what the ReLU of `map` lets through of dy.
template <class T>
inline void add_gradients(const T* dy, const T* x, const Layout& in, const AffineMap<T>& map, Vec<T> mean,
                          Sums<T, 2>& sums) {
  constexpr int L = kLanes<T>;
  for (int64_t h = 0; h < in.height; ++h) {
    const int64_t row = h * in.row() * L;
    sums.add_row(in.width, [&](int64_t i, Vec<T>* terms) {
      const Vec<T> v = load(x + row + i * L);
      terms[0] = map.gate(load(dy + row + i * L), v);
      terms[1] = terms[0] * (v - mean);
    });
  }
}

// The same behind a max pool: only the winner of a window counts.
template <class T>
inline void add_pooled_gradients(const T* dy, const T* x, const Layout& in, const AffineMap<T>& map, Vec<T> mean,
                                 const Layout& out, const Windows& windows, Sums<T, 2>& sums) {
  constexpr int L = kLanes<T>;
  for (int64_t i = 0; i < out.height; ++i)
    sums.add_row(out.width, [&](int64_t j, Vec<T>* terms) {
      Vec<T> best = splat(-std::numeric_limits<T>::infinity()), winner{};
      each_pixel<T>(in, windows.rows[i], windows.columns[j], [&](int64_t at) {
        const Vec<T> v = load_ahead(x + at), y = map(v);
        const auto better = beats<T>(y, best);
        best = better ? y : best;
        winner = better ? v : winner;
      });
      terms[0] = map.gate(load(dy + (i * out.row() + j) * L), winner);
      terms[1] = terms[0] * (winner - mean);
    });
}

// dx = gain * g + slope * (x - mean) + base.
template <class T>
struct Gradient {
  Vec<T> mean, gain, slope, base;
  Mask<T> alive;

  REGROW_INLINE Vec<T> operator()(Vec<T> g, Vec<T> x) const {
    return alive ? gain * g + (slope * (x - mean) + base) : Vec<T>{};
  }
};

// That for one plane; grad may be dx itself.
template <class T>
inline void apply_gradients(const T* grad, const T* x, const Layout& in, const AffineMap<T>& map, const Gradient<T>& of,
                            bool far, T* dx) {
  for (int64_t h = 0; h < in.height; ++h) {
    const int64_t row = h * in.row() * kLanes<T>;
    fill_row(dx + row, in.width, far, [&](int64_t i) {
      const Vec<T> v = load(x + row + i);
      return of(map.gate(load(grad + row + i), v), v);
    });
  }
}

// The same behind a max pool whose windows tile the plane: pixels that did not win have no gradient of their own.
template <class T>
inline void apply_pooled_gradients(const T* dy, const T* x, const Layout& in, const AffineMap<T>& map,
                                   const Gradient<T>& of, const Layout& out, const Windows& windows, bool far, T* dx) {
  constexpr int L = kLanes<T>;
  for (int64_t i = 0; i < out.height; ++i)
    for (int64_t j = 0; j < out.width; ++j) {
      const Window rows = windows.rows[i], columns = windows.columns[j];
      Vec<T> best = splat(-std::numeric_limits<T>::infinity()), value{};
      Mask<T> winner{}, pixel{};
      each_pixel<T>(in, rows, columns, [&](int64_t at) {
        const Vec<T> v = load(x + at), y = map(v);
        const Mask<T> better = beats<T>(y, best);
        best = better ? y : best;
        value = better ? v : value;
        winner = better ? pixel : winner;
        pixel += 1;
      });
      const Vec<T> grad = map.gate(load(dy + (i * out.row() + j) * L), value);
      pixel = Mask<T>{};
      each_pixel<T>(in, rows, columns, [&](int64_t at) {
        const Vec<T> result = of(winner == pixel ? grad : Vec<T>{}, load(x + at));
        if (far)
          store_far(dx + at, result);
        else
          store(dx + at, result);
        pixel += 1;
      });
    }
}

// dx = invstd * weight * (g - (sum g + (x - mean) * invstd^2 * sum g (x - mean)) / count); the last part in training.
template <class T>
void norm_backward(const T* dy, const T* x, Layout in, NormGradient<T> norm, ChannelAffine<T> affine, Layout out,
                   const Windows* windows, T* dx, T* dweight, T* dbias, Parallel parallel) {
  const bool tiled = windows && tiles(in, out, *windows), far = dx && is_far<T>(in);
  const double count = static_cast<double>(in.batch * in.height * in.width);
  each_channel(in, parallel, [&](int64_t c) {
    const AffineMap<T> map(affine, c);
    const Vec<T> mean = splat(norm.mean[c]);
    Sums<T, 2> sums;
    for (int64_t n = 0; n < in.blocks(); ++n) {
      const T *plane = row_of(x, in, n, c, 0), *grad = row_of(dy, windows ? out : in, n, c, 0);
      if (windows)
        add_pooled_gradients(grad, plane, in, map, mean, out, *windows, sums);
      else
        add_gradients(grad, plane, in, map, mean, sums);
    }
    const double invstd = norm.invstd[c], gain = norm.weight ? invstd * norm.weight[c] : invstd;
    const double back = norm.training ? -gain / count : 0;
    dbias[c] = static_cast<T>(sums.total(0));
    dweight[c] = static_cast<T>(sums.total(1) * invstd);
    if (!dx) return;
    Gradient<T> of{mean, splat(static_cast<T>(gain)), splat(static_cast<T>(back * sums.total(1) * invstd * invstd)),
                   splat(static_cast<T>(back * sums.total(0))), {}};
    for (int64_t i = 0; i < in.blocks(); ++i) {
      const int64_t n = far ? in.blocks() - 1 - i : i;  // of a large channel the cache holds what was read last
      const T *plane = row_of(x, in, n, c, 0), *grad = row_of(dy, windows ? out : in, n, c, 0);
      T* to = row_of(dx, in, n, c, 0);
      of.alive = living<T>(in, n);
      clear_margin(in, dx, n, c);
      if (tiled) {
        apply_pooled_gradients(grad, plane, in, map, of, out, *windows, far, to);
      } else {
        if (windows) route(grad, plane, in, map, out, *windows, false, to);
        apply_gradients(windows ? to : grad, plane, in, map, of, far && !windows, to);
      }
    }
    if (far) finish_stores();
  });
  if (dx) zero_tail(in, dx);
}

}  // namespace REGROW_ISA
}  // namespace regrow
