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
  return {.batch = batch, .channels = features, .height = 1, .width = 1, .lanes = per_block * L};
}
template <class T>
inline Tile linear_tile(const Layout& layout) {
  return {0, 0, 1, layout.lanes / kLanes<T>};
}

// Workers own blocks of images where these come out even, else groups of channels. A block passes through all its
// steps at once, so that what it needs of scratch stays in the second-level cache; but every block reads the whole
// list, so that long lists are better read once, panel by panel.
inline bool share_blocks(const ActiveList& list, const Layout& layout, int workers) {
  constexpr int64_t kLongList = 1 << 18;
  const bool even = layout.blocks() % workers == 0 && weights_before(list, list.groups) < kLongList;
  return even || !share_channels(list, layout.blocks(), workers);
}

// All panels of one block of images, those that read the same channels together: these then stay in the second-level
// cache, and what is accumulated passes by in order, which costs less than to fetch them again for each group.
template <class Run>
inline void each_panel_by_block(const ActiveList& list, const Run& run) {
  for (int64_t block = 0; block < list.blocks; ++block)
    for (int64_t group = 0; group < list.groups; ++group) run(group * list.blocks + block);
}

// Work unit of a transpose: what it writes (reads, on the way back) stays in the first-level cache.
constexpr int64_t kTransposeRun = 64;

// Calls body(row, images, feature, count, vector) for the rows and features of one block, a vector of rows at a time.
template <class T, class Body>
inline void each_transpose_run(const Layout& layout, int64_t block, Range features, const Body& body) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t f = features.begin; f < features.end; f += kTransposeRun)
    for (int64_t v = 0; v < layout.lanes / L; ++v) {
      const int64_t row = block * layout.lanes + v * L, left = layout.batch - row;
      const int64_t images = left < 0 ? 0 : left < L ? left : L;
      body(row, images, f, features.end - f < kTransposeRun ? features.end - f : kTransposeRun, v * L);
    }
}
template <class T>
inline void to_lanes(const Layout& layout, int64_t block, Range features, const T* rows, int64_t stride, T* out) {
  each_transpose_run<T>(layout, block, features, [&](int64_t row, int64_t images, int64_t f, int64_t count, int64_t v) {
    interleave(images > 0 ? rows + row * stride + f : rows, stride, images, count, out + f * layout.lanes + v,
               layout.lanes);
  });
}
template <class T>
inline void from_lanes(const Layout& layout, int64_t block, Range features, const T* in, T* rows, int64_t stride) {
  each_transpose_run<T>(layout, block, features, [&](int64_t row, int64_t images, int64_t f, int64_t count, int64_t v) {
    if (images > 0)
      deinterleave(in + f * layout.lanes + v, layout.lanes, images, count, rows + row * stride + f, stride);
  });
}
// All blocks, for workers that own channels.
template <class Body>
inline void each_block_share(const Layout& layout, Parallel parallel, const Body& body) {
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range features = share(layout.channels, worker, parallel.workers);
    for (int64_t n = 0; n < layout.blocks(); ++n) body(n, features);
  });
}

template <class T>
struct LinearForwardScratch {
  bool by_block;
  T *x, *y;  // one block for each worker, or all blocks
  size_t bytes;
  LinearForwardScratch(const Plan& plan, int64_t batch, int workers, void* base) {
    Scratch scratch(base);
    const Layout in = linear_layout<T>(batch, plan.shape.in_channels);
    const Layout out = linear_layout<T>(batch, plan.shape.out_channels);
    by_block = share_blocks(plan.forward, in, workers);
    const int64_t copies = by_block ? workers : in.blocks();
    x = scratch.take<T>(copies * in.block_size());
    y = scratch.take<T>(copies * out.block_size());
    bytes = scratch.used();
  }
};
template <class T>
size_t linear_forward_scratch(const Plan& plan, int64_t batch, int workers) {
  return LinearForwardScratch<T>(plan, batch, workers, nullptr).bytes;
}

template <class T>
void linear_forward(const Plan& plan, int64_t batch, const T* values, const T* bias, const T* x, int64_t x_stride,
                    T* y, int64_t y_stride, void* scratch, Parallel parallel) {
  const LinearForwardScratch<T> own(plan, batch, parallel.workers, scratch);
  const Layout in = linear_layout<T>(batch, plan.shape.in_channels);
  const Layout out = linear_layout<T>(batch, plan.shape.out_channels);
  const ActiveList& list = plan.forward;
  // Segments are long here, so values are read where they are.
  const ForwardJob<T> job{.list = list,
                          .values = values,
                          .gathered = false,
                          .bias = bias,
                          .pixel = in.lanes,
                          .x_row = 0,
                          .x_step = kLanes<T>,
                          .y_plane = out.lanes,
                          .y_row = 0};
  const auto kernel = forward_kernel<T>(linear_tile<T>(in), 1);

  if (own.by_block) {
    each_worker(parallel, parallel.workers, [&](int worker) {
      const Range blocks = share(in.blocks(), worker, parallel.workers);
      T* const own_x = own.x + worker * in.block_size();
      T* const own_y = own.y + worker * out.block_size();
      for (int64_t n = blocks.begin; n < blocks.end; ++n) {
        to_lanes(in, n, {0, in.channels}, x, x_stride, own_x);
        each_panel_by_block(list, [&](int64_t panel) { kernel(job, {own_x, own_y, kLanes<T>}, panel); });
        from_lanes(out, n, {0, out.channels}, own_y, y, y_stride);
      }
    });
    return;
  }
  each_block_share(in, parallel, [&](int64_t n, Range features) {
    to_lanes(in, n, features, x, x_stride, own.x + n * in.block_size());
  });
  each_worker(parallel, parallel.workers, [&](int worker) {
    each_panel(list, in.blocks(), worker, parallel.workers, [&](int64_t n, int64_t panel) {
      kernel(job, {own.x + n * in.block_size(), own.y + n * out.block_size(), kLanes<T>}, panel);
    });
  });
  each_block_share(out, parallel, [&](int64_t n, Range features) {
    from_lanes(out, n, features, own.y + n * out.block_size(), y, y_stride);
  });
}

// sums[0..K) += sums of rows, K vectors of columns.
template <class T, int K>
inline void add_rows(const T* rows, int64_t count, int64_t stride, T* sums) {
  constexpr int64_t L = kLanes<T>;
  Vec<T> sum[K] = {};
  for (int64_t r = 0; r < count; ++r)
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) sum[k] += load_unaligned(rows + r * stride + k * L);
#pragma GCC unroll 8
  for (int k = 0; k < K; ++k) store_unaligned(sums + k * L, load_unaligned(sums + k * L) + sum[k]);
}

// dbias[o] = sum of rows, a block of rows at a time. Of a row several cache lines together: rows that are a power of two
// apart fall into one set of the cache, so a line would not be there any more for its second half.
template <class T>
inline void sum_rows(const Layout& layout, const T* rows, int64_t stride, T* sums, Parallel parallel) {
  constexpr int64_t L = kLanes<T>, K = 8;
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range range = share(layout.channels, worker, parallel.workers);
    for (int64_t o = range.begin; o < range.end; ++o) sums[o] = 0;
    for (int64_t n = 0; n < layout.batch; n += layout.lanes) {
      const int64_t count = layout.batch - n < layout.lanes ? layout.batch - n : layout.lanes;
      const T* const block = rows + n * stride;
      int64_t o = range.begin;
      for (; o + K * L <= range.end; o += K * L) add_rows<T, K>(block + o, count, stride, sums + o);
      for (; o + L <= range.end; o += L) add_rows<T, 1>(block + o, count, stride, sums + o);
      for (; o < range.end; ++o) {
        T sum = 0;
        for (int64_t r = 0; r < count; ++r) sum += block[r * stride + o];
        sums[o] += sum;
      }
    }
  });
}

template <class T>
struct LinearBackwardScratch {
  Scratch scratch;
  bool by_block;
  WeightScratch<T> weights;
  T *x, *dx, *dy;  // one block for each worker, or all blocks
  LinearBackwardScratch(const Plan& plan, int64_t batch, int workers, bool want_dx, void* base)
      : scratch(base),
        by_block(share_blocks(plan.classes[0].list, linear_layout<T>(batch, 1), workers)),
        weights(plan, !by_block, workers, want_dx, scratch) {
    const Layout in = linear_layout<T>(batch, plan.shape.in_channels);
    const int64_t copies = by_block ? workers : in.blocks();
    x = scratch.take<T>(copies * in.block_size());
    dx = scratch.take<T>(want_dx ? copies * in.block_size() : 0);
    dy = scratch.take<T>(copies * linear_layout<T>(batch, plan.shape.out_channels).block_size());
  }
};
template <class T>
size_t linear_backward_scratch(const Plan& plan, int64_t batch, int workers, bool want_dx) {
  return LinearBackwardScratch<T>(plan, batch, workers, want_dx, nullptr).scratch.used();
}

template <class T>
void linear_backward(const Plan& plan, int64_t batch, const T* values, const T* x, int64_t x_stride, const T* dy,
                     int64_t dy_stride, T* dx, int64_t dx_stride, T* dvalues, T* dbias, void* scratch,
                     Parallel parallel) {
  const bool want_dx = dx != nullptr;
  const LinearBackwardScratch<T> own(plan, batch, parallel.workers, want_dx, scratch);
  const Layout in = linear_layout<T>(batch, plan.shape.in_channels);
  const Layout out = linear_layout<T>(batch, plan.shape.out_channels);
  if (dbias) sum_rows(out, dy, dy_stride, dbias, parallel);
  if (!want_dx && dvalues == nullptr) return;

  const ActiveList& list = plan.classes[0].list;
  const WeightScratch<T>& weights = own.weights;
  const auto kernel = backward_kernel<T>(linear_tile<T>(in), 1, want_dx);
  // `copy`: which of the scratch blocks.
  const auto run = [&](int64_t copy, int64_t panel, int64_t first_weight, const T* gathered, T* dw) {
    const BackwardJob<T> job{.list = list,
                             .values = gathered,
                             .first_weight = first_weight,
                             .pixel = out.lanes,
                             .x_plane = in.lanes,
                             .x_row = 0,
                             .x_step = kLanes<T>,
                             .dy_row = 0};
    const BackwardTile<T> tile{.dy = own.dy + copy * out.block_size(),
                               .x = own.x + copy * in.block_size(),
                               .dx = want_dx ? own.dx + copy * in.block_size() : nullptr,
                               .dw = dw};
    kernel(job, tile, panel);
  };

  if (own.by_block) {
    begin_by_tile(plan, weights, values, parallel);
    each_worker(parallel, parallel.workers, [&](int worker) {
      const Range blocks = share(in.blocks(), worker, parallel.workers);
      T* const dw = weights.dw + worker * weights.size;
      for (int64_t n = blocks.begin; n < blocks.end; ++n) {
        to_lanes(out, n, {0, out.channels}, dy, dy_stride, own.dy + worker * out.block_size());
        to_lanes(in, n, {0, in.channels}, x, x_stride, own.x + worker * in.block_size());
        each_panel_by_block(list, [&](int64_t panel) { run(worker, panel, 0, weights.values, dw); });
        if (want_dx) from_lanes(in, n, {0, in.channels}, own.dx + worker * in.block_size(), dx, dx_stride);
      }
    });
    finish_by_tile(plan, weights, dvalues, parallel);
    return;
  }
  each_block_share(out, parallel, [&](int64_t n, Range features) {
    to_lanes(out, n, features, dy, dy_stride, own.dy + n * out.block_size());
  });
  each_block_share(in, parallel, [&](int64_t n, Range features) {
    to_lanes(in, n, features, x, x_stride, own.x + n * in.block_size());
  });
  each_worker(parallel, parallel.workers, [&](int worker) {
    backward_by_channel(plan, list, in.blocks(), worker, parallel.workers, weights, values, dvalues, run);
  });
  if (want_dx)
    each_block_share(in, parallel, [&](int64_t n, Range features) {
      from_lanes(in, n, features, own.dx + n * in.block_size(), dx, dx_stride);
    });
}

}  // namespace REGROW_ISA
}  // namespace regrow
