// Linear layers on ordinary row-major tensors. Inside, the batch lies along lanes: [blocks][features][vectors][L];
// the `vectors` of a block take the place of a tile's pixels, so the inner loops of convolution serve unchanged.
#pragma once

#include "conv.h"

namespace regrow {
namespace REGROW_ISA {

// As few blocks as the accumulators allow, and as few lanes as hold the batch.
template <class T>
inline Layout linear_layout(int64_t batch, int64_t features) {
  constexpr int64_t L = kLanes<T>;
  const int64_t vectors = (batch + L - 1) / L;
  const int64_t blocks = vectors > kMaxTile ? (vectors + kMaxTile - 1) / kMaxTile : 1;
  const int64_t per_block = vectors > 0 ? (vectors + blocks - 1) / blocks : 1;
  return {batch, features, 1, 1, per_block * L, 0, 0};
}
template <class T>
inline Tile linear_tile(const Layout& layout) {
  return {0, 0, 1, layout.lanes / kLanes<T>};
}

// Work unit of a transpose: one vector of images, a run of features.
constexpr int64_t kTransposeRun = 256;

template <class T, class Body>
inline void each_transpose_run(const Layout& layout, Parallel parallel, const Body& body) {
  constexpr int64_t L = kLanes<T>;
  const int64_t vectors = layout.lanes / L, runs = (layout.channels + kTransposeRun - 1) / kTransposeRun;
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range range = share(layout.blocks() * runs * vectors, worker, parallel.workers);
    for (int64_t t = range.begin; t < range.end; ++t) {
      const int64_t v = t % vectors, f = t / vectors % runs * kTransposeRun, n = t / vectors / runs;
      const int64_t image = n * layout.lanes + v * L;
      const int64_t left = layout.batch - image, images = left < 0 ? 0 : left < L ? left : L;
      const int64_t count = layout.channels - f < kTransposeRun ? layout.channels - f : kTransposeRun;
      body(image, images, f, count, n * layout.block_size() + f * layout.lanes + v * L);
    }
  });
}

template <class T>
inline void to_lanes(const Layout& layout, const T* rows, int64_t stride, T* out, Parallel parallel) {
  each_transpose_run<T>(layout, parallel, [&](int64_t image, int64_t images, int64_t f, int64_t count, int64_t at) {
    interleave(images > 0 ? rows + image * stride + f : rows, stride, images, count, out + at, layout.lanes);
  });
}
template <class T>
inline void from_lanes(const Layout& layout, const T* in, T* rows, int64_t stride, Parallel parallel) {
  each_transpose_run<T>(layout, parallel, [&](int64_t image, int64_t images, int64_t f, int64_t count, int64_t at) {
    if (images > 0) deinterleave(in + at, layout.lanes, images, count, rows + image * stride + f, stride);
  });
}

template <class T>
struct LinearForwardScratch {
  T *x, *y;
  size_t bytes;
  LinearForwardScratch(const Plan& plan, int64_t batch, void* base) {
    Scratch scratch(base);
    x = scratch.take<T>(linear_layout<T>(batch, plan.shape.in_channels).size());
    y = scratch.take<T>(linear_layout<T>(batch, plan.shape.out_channels).size());
    bytes = scratch.used();
  }
};
template <class T>
size_t linear_forward_scratch(const Plan& plan, int64_t batch, int) {
  return LinearForwardScratch<T>(plan, batch, nullptr).bytes;
}

template <class T>
void linear_forward(const Plan& plan, int64_t batch, const T* values, const T* bias, const T* x, int64_t x_stride,
                    T* y, int64_t y_stride, void* scratch, Parallel parallel) {
  const LinearForwardScratch<T> own(plan, batch, scratch);
  const Layout in = linear_layout<T>(batch, plan.shape.in_channels);
  const Layout out = linear_layout<T>(batch, plan.shape.out_channels);
  to_lanes(in, x, x_stride, own.x, parallel);

  // Segments are long here, so values are read where they are.
  const ForwardJob<T> job{plan.forward, values, false, bias, in.lanes, 0, kLanes<T>, out.lanes, 0};
  const Tile tile = linear_tile<T>(in);
  const auto kernel = forward_kernel<T>(tile, 1);
  each_worker(parallel, parallel.workers, [&](int worker) {
    each_panel(plan.forward, in.blocks(), worker, parallel.workers, [&](int64_t n, int64_t panel) {
      kernel(job, {own.x + n * in.block_size(), own.y + n * out.block_size(), kLanes<T>}, panel);
    });
  });
  from_lanes(out, own.y, y, y_stride, parallel);
}

template <class T>
struct LinearBackwardScratch {
  Scratch scratch;
  WeightScratch<T> weights;
  T *x, *dx, *dy;
  LinearBackwardScratch(const Plan& plan, int64_t batch, int workers, bool want_dx, bool want_dw, void* base)
      : scratch(base),
        weights(plan, linear_layout<T>(batch, 1).blocks(), workers, want_dx, want_dw, scratch) {
    const Layout in = linear_layout<T>(batch, plan.shape.in_channels);
    x = scratch.take<T>(want_dw ? in.size() : 0);
    dx = scratch.take<T>(want_dx ? in.size() : 0);
    dy = scratch.take<T>(linear_layout<T>(batch, plan.shape.out_channels).size());
  }
};
template <class T>
size_t linear_backward_scratch(const Plan& plan, int64_t batch, int workers, bool want_dx, bool want_dvalues) {
  return LinearBackwardScratch<T>(plan, batch, workers, want_dx, want_dvalues, nullptr).scratch.used();
}

template <class T>
void linear_backward(const Plan& plan, int64_t batch, const T* values, const T* x, int64_t x_stride, const T* dy,
                     int64_t dy_stride, T* dx, int64_t dx_stride, T* dvalues, T* dbias, void* scratch,
                     Parallel parallel) {
  const bool want_dx = dx != nullptr, want_dw = dvalues != nullptr;
  const LinearBackwardScratch<T> own(plan, batch, parallel.workers, want_dx, want_dw, scratch);
  const Layout in = linear_layout<T>(batch, plan.shape.in_channels);
  const Layout out = linear_layout<T>(batch, plan.shape.out_channels);
  to_lanes(out, dy, dy_stride, own.dy, parallel);
  if (dbias) bias_gradient(out, own.dy, dbias, parallel);
  if (!want_dx && !want_dw) return;
  if (want_dw) to_lanes(in, x, x_stride, own.x, parallel);

  const ActiveList& list = plan.classes[0].list;
  const WeightScratch<T>& weights = own.weights;
  const auto kernel = backward_kernel<T>(linear_tile<T>(in), 1, want_dx, want_dw);
  const auto run = [&](int64_t n, int64_t panel, int64_t first_weight, const T* gathered, T* dw) {
    const BackwardJob<T> job{list, gathered, first_weight, out.lanes, in.lanes, 0, kLanes<T>, 0};
    kernel(job,
           {own.dy + n * out.block_size(), want_dw ? own.x + n * in.block_size() : nullptr,
            want_dx ? own.dx + n * in.block_size() : nullptr, dw},
           panel);
  };
  if (!weights.by_channel) begin_by_tile(plan, weights, values, parallel);
  each_worker(parallel, parallel.workers, [&](int worker) {
    if (weights.by_channel)
      backward_by_channel(plan, list, in.blocks(), worker, parallel.workers, weights, values, dvalues, run);
    else
      backward_by_tile(list, in.blocks(), worker, parallel.workers, weights, run);
  });
  if (!weights.by_channel) finish_by_tile(plan, weights, dvalues, parallel);
  if (want_dx) from_lanes(in, own.dx, dx, dx_stride, parallel);
}

}  // namespace REGROW_ISA
}  // namespace regrow
