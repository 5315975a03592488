// Convolution on batch-blocked activations: prepares what the inner loops need and shares the work.
#pragma once

#include "backward.h"
#include "forward.h"
#include "panels.h"

namespace regrow {
namespace REGROW_ISA {

template <class T>
inline Layout input_layout(const Plan& plan, int64_t batch) {
  return activation_layout(batch, plan.shape.in_channels, plan.height, plan.width, kLanes<T>);
}
template <class T>
inline Layout output_layout(const Plan& plan, int64_t batch) {
  return activation_layout(batch, plan.shape.out_channels, plan.out_height, plan.out_width, kLanes<T>);
}

inline bool same_margin(const Layout& a, const Layout& b) {
  return a.margin_h == b.margin_h && a.margin_w == b.margin_w;
}

// Worth fetching ahead: one block of images does not stay in the second-level cache.
template <class T>
inline bool exceeds_cache(const Layout& in, const Layout& out) {
  return (in.block_size() + out.block_size()) * static_cast<int64_t>(sizeof(T)) > 512 * 1024;
}

// First row or column of a tile's input that the tile before has not seen.
inline int64_t unseen(int64_t kernel, int64_t dilation, int64_t stride) {
  const int64_t first = (kernel - 1) * dilation + 1 - stride;
  return first > 0 ? first : 0;
}

// Element index of pixel (y, x) of channel 0 in a block of images.
inline int64_t pixel_at(const Layout& layout, int64_t block, int64_t y, int64_t x) {
  return block * layout.block_size() +
         ((layout.margin_h + y) * layout.row() + layout.margin_w + x) * layout.lanes;
}

template <class T>
struct ForwardScratch {
  T* values;  // list order
  T* x;       // copy with wider margins, or null
  size_t bytes;
  ForwardScratch(const Plan& plan, int64_t batch, void* base) {
    Scratch scratch(base);
    values = scratch.take<T>(plan.active);
    const Layout given = input_layout<T>(plan, batch);
    const Layout wide = with_margin(given, plan.forward_margin_h, plan.forward_margin_w);
    x = same_margin(given, wide) ? nullptr : scratch.take<T>(wide.size());
    bytes = scratch.used();
  }
};

template <class T>
size_t conv_forward_scratch(const Plan& plan, int64_t batch, int) {
  return ForwardScratch<T>(plan, batch, nullptr).bytes;
}

template <class T>
void conv_forward(const Plan& plan, int64_t batch, const T* values, const T* bias, const T* x, T* y, void* scratch,
                  Parallel parallel) {
  const ForwardScratch<T> own(plan, batch, scratch);
  const ConvShape& s = plan.shape;
  const Layout out = output_layout<T>(plan, batch);
  const Layout given = input_layout<T>(plan, batch);
  const Layout in = with_margin(given, plan.forward_margin_h, plan.forward_margin_w);
  if (!same_margin(given, in)) {
    copy_planes(given, x, in, own.x, parallel);
    x = own.x;
  }
  gather_forward(plan.forward, values, own.values, parallel);
  zero_margins(out, y, parallel);

  constexpr int L = kLanes<T>;
  const int64_t unseen_h = unseen(s.kernel_h, s.dilation_h, s.stride_h);
  const int64_t unseen_w = unseen(s.kernel_w, s.dilation_w, s.stride_w);
  const ForwardJob<T> job{.list = plan.forward,
                          .values = own.values,
                          .gathered = true,
                          .bias = bias,
                          .pixel = L,
                          .x_row = s.stride_h * in.row() * L,
                          .x_step = s.stride_w * L,
                          .y_plane = out.plane() * L,
                          .y_row = out.row() * L,
                          .ahead_x = {.shift = (unseen_h * in.row() + unseen_w) * L,
                                      .rows = plan.forward_tile.height * s.stride_h,
                                      .row = in.row() * L,
                                      .plane = in.plane() * L}};
  const TileGrid grid(plan.out_height, plan.out_width, plan.forward_tile);
  const bool fetch = exceeds_cache<T>(in, out);
  const int64_t tiles = out.blocks() * grid.count();
  const auto x_at = [&](int64_t t, const Tile& tile) {
    return pixel_at(in, t / grid.count(), tile.y * s.stride_h - s.padding_h, tile.x * s.stride_w - s.padding_w);
  };
  const auto y_at = [&](int64_t t, const Tile& tile) { return pixel_at(out, t / grid.count(), tile.y, tile.x); };
  each_worker(parallel, parallel.workers, [&](int worker) {
    each_panel(plan.forward, tiles, worker, parallel.workers, [&](int64_t t, int64_t panel) {
      const Tile tile = grid[t % grid.count()];
      ForwardTile<T> where{.x = x + x_at(t, tile), .y = y + y_at(t, tile), .images = images_in(out, t / grid.count())};
      if (fetch && t + 1 < tiles) {
        const Tile next = grid[(t + 1) % grid.count()];
        where.next_x = x_at(t + 1, next) - x_at(t, tile), where.next_y = y_at(t + 1, next) - y_at(t, tile);
      }
      forward_kernel<T>(tile, s.stride_w)(job, where, panel);
    });
  });
}

template <class T>
struct BackwardScratch {
  Scratch scratch;
  WeightScratch<T> weights;
  T* dy;  // copy with wider margins, or null
  BackwardScratch(const Plan& plan, int64_t batch, int workers, bool want_dx, void* base)
      : scratch(base), weights(plan, share_channels(plan.classes[0].list, tiles(plan, batch), workers), workers, want_dx, scratch) {
    const Layout given = output_layout<T>(plan, batch);
    const Layout wide = with_margin(given, plan.backward_margin_h, plan.backward_margin_w);
    dy = same_margin(given, wide) ? nullptr : scratch.take<T>(wide.size());
  }
  // Of the first residue class, the largest.
  static int64_t tiles(const Plan& plan, int64_t batch) {
    const ResidueClass& cls = plan.classes[0];
    return input_layout<T>(plan, batch).blocks() * TileGrid(cls.height, cls.width, plan.backward_tile).count();
  }
};
template <class T>
size_t conv_backward_scratch(const Plan& plan, int64_t batch, int workers, bool want_dx) {
  return BackwardScratch<T>(plan, batch, workers, want_dx, nullptr).scratch.used();
}

// dbias[o] = sum of dy over images and pixels; margins and missing images are zero.
template <class T>
inline void bias_gradient(const Layout& layout, const T* dy, T* dbias, Parallel parallel) {
  constexpr int L = kLanes<T>;
  const int64_t size = layout.plane() * layout.lanes;
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range channels = share(layout.channels, worker, parallel.workers);
    for (int64_t o = channels.begin; o < channels.end; ++o) {
      T total = 0;
      for (int64_t n = 0; n < layout.blocks(); ++n) {
        const T* plane = dy + n * layout.block_size() + o * size;
        Vec<T> even{}, odd{};
        int64_t k = 0;
        for (; k + 2 * L <= size; k += 2 * L) even += load(plane + k), odd += load(plane + k + L);
        if (k < size) even += load(plane + k);
        total += sum_lanes<T>(even + odd);
      }
      dbias[o] = total;
    }
  });
}

template <class T>
void conv_backward(const Plan& plan, int64_t batch, const T* values, const T* x, const T* dy, T* dx, T* dvalues,
                   T* dbias, void* scratch, Parallel parallel) {
  constexpr int L = kLanes<T>;
  const Layout given = output_layout<T>(plan, batch);
  if (dbias) bias_gradient(given, dy, dbias, parallel);
  const bool want_dx = dx != nullptr;
  if (!want_dx && dvalues == nullptr) return;

  const BackwardScratch<T> own(plan, batch, parallel.workers, want_dx, scratch);
  const ConvShape& s = plan.shape;
  const Layout in = input_layout<T>(plan, batch);
  const Layout out = with_margin(given, plan.backward_margin_h, plan.backward_margin_w);
  if (!same_margin(given, out)) {
    copy_planes(given, dy, out, own.dy, parallel);
    dy = own.dy;
  }
  if (want_dx) zero_margins(in, dx, parallel);

  const WeightScratch<T>& weights = own.weights;
  const bool fetch = exceeds_cache<T>(in, out);
  const auto backward_class = [&](const ResidueClass& cls, int worker) {
    const TileGrid grid(cls.height, cls.width, plan.backward_tile);
    const int64_t tiles = in.blocks() * grid.count();
    const int64_t margin = plan.backward_margin_h * out.row() + plan.backward_margin_w;
    BackwardJob<T> job{.list = cls.list,
                       .values = nullptr,
                       .first_weight = 0,
                       .pixel = L,
                       .x_plane = in.plane() * L,
                       .x_row = s.stride_h * in.row() * L,
                       .x_step = s.stride_w * L,
                       .dy_row = out.row() * L,
                       .ahead_dy = {.shift = margin * L,
                                    .rows = plan.backward_tile.height,
                                    .row = out.row() * L,
                                    .plane = out.plane() * L}};
    const auto x_at = [&](int64_t t, const Tile& tile) {
      return pixel_at(in, t / grid.count(), cls.residue_h + tile.y * s.stride_h, cls.residue_w + tile.x * s.stride_w);
    };
    const auto dy_at = [&](int64_t t, const Tile& tile) { return pixel_at(out, t / grid.count(), tile.y, tile.x); };
    const auto run = [&](int64_t t, int64_t panel, int64_t first_weight, const T* gathered, T* dw) {
      const Tile tile = grid[t % grid.count()];
      const int64_t at = x_at(t, tile);
      BackwardTile<T> where{.dy = dy + dy_at(t, tile), .x = x + at, .dx = want_dx ? dx + at : nullptr, .dw = dw};
      if (fetch && t + 1 < tiles) {
        const Tile next = grid[(t + 1) % grid.count()];
        where.next_x = x_at(t + 1, next) - at, where.next_dy = dy_at(t + 1, next) - dy_at(t, tile);
      }
      job.values = gathered, job.first_weight = first_weight;
      backward_kernel<T>(tile, s.stride_w, want_dx)(job, where, panel);
    };
    if (weights.by_channel)
      backward_by_channel(plan, cls.list, tiles, worker, parallel.workers, weights, values, dvalues, run);
    else
      backward_by_tile(cls.list, tiles, worker, parallel.workers, weights, run);
  };
  if (!weights.by_channel) begin_by_tile(plan, weights, values, parallel);
  each_worker(parallel, parallel.workers, [&](int worker) {
    for (int64_t c = 0; c < plan.class_count; ++c) backward_class(plan.classes[c], worker);
  });
  if (!weights.by_channel) finish_by_tile(plan, weights, dvalues, parallel);
}

}  // namespace REGROW_ISA
}  // namespace regrow
