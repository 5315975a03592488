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
  const ForwardJob<T> job{plan.forward, own.values, true, bias, L, s.stride_h * in.row() * L, s.stride_w * L,
                            out.plane() * L, out.row() * L,
                            {(unseen(s.kernel_h, s.dilation_h, s.stride_h) * in.row() +
                              unseen(s.kernel_w, s.dilation_w, s.stride_w)) * L,
                             plan.forward_tile.height * s.stride_h, in.row() * L, in.plane() * L}};
  const TileGrid grid(plan.out_height, plan.out_width, plan.forward_tile);
  const bool fetch = exceeds_cache<T>(in, out);
  const auto x_at = [&](int64_t block, const Tile& tile) {
    return pixel_at(in, block, tile.y * s.stride_h - s.padding_h, tile.x * s.stride_w - s.padding_w);
  };
  const auto y_at = [&](int64_t block, const Tile& tile) { return pixel_at(out, block, tile.y, tile.x); };
  each_worker(parallel, parallel.workers, [&](int worker) {
    each_panel(plan.forward, out.blocks() * grid.count(), worker, parallel.workers, [&](int64_t t, int64_t panel) {
      const int64_t block = t / grid.count();
      const Tile tile = grid[t % grid.count()];
      ForwardTile<T> where{x + x_at(block, tile), y + y_at(block, tile), images_in(out, block)};
      if (fetch && t % grid.count() + 1 < grid.count()) {
        const Tile next = grid[t % grid.count() + 1];
        where.next_x = x_at(block, next) - x_at(block, tile), where.next_y = y_at(block, next) - y_at(block, tile);
      }
      forward_kernel<T>(tile, s.stride_w)(job, where, panel);
    });
  });
}

template <class T>
struct BackwardScratch {
  T* values;  // list order
  T* dw;      // [copies][active], list order
  T* dy;      // copy with wider margins, or null
  int64_t copies;
  size_t bytes;
  BackwardScratch(const Plan& plan, int64_t batch, int workers, bool want_dx, bool want_dw, void* base) {
    Scratch scratch(base);
    copies = workers;
    values = scratch.take<T>(want_dx ? plan.active : 0);
    dw = scratch.take<T>(want_dw ? copies * plan.active : 0);
    const Layout given = output_layout<T>(plan, batch);
    const Layout wide = with_margin(given, plan.backward_margin_h, plan.backward_margin_w);
    dy = same_margin(given, wide) || !(want_dx || want_dw) ? nullptr : scratch.take<T>(wide.size());
    bytes = scratch.used();
  }
};

template <class T>
size_t conv_backward_scratch(const Plan& plan, int64_t batch, int workers, bool want_dx, bool want_dvalues) {
  return BackwardScratch<T>(plan, batch, workers, want_dx, want_dvalues, nullptr).bytes;
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
  const bool want_dx = dx != nullptr, want_dw = dvalues != nullptr;
  if (!want_dx && !want_dw) return;

  const BackwardScratch<T> own(plan, batch, parallel.workers, want_dx, want_dw, scratch);
  const ConvShape& s = plan.shape;
  const Layout in = input_layout<T>(plan, batch);
  const Layout out = with_margin(given, plan.backward_margin_h, plan.backward_margin_w);
  if (!same_margin(given, out)) {
    copy_planes(given, dy, out, own.dy, parallel);
    dy = own.dy;
  }
  if (want_dx) {
    gather_backward(plan, values, own.values, parallel);
    zero_margins(in, dx, parallel);
  }

  const bool fetch = exceeds_cache<T>(in, out);
  const int64_t reach_h = plan.backward_margin_h, reach_w = plan.backward_margin_w;
  each_worker(parallel, parallel.workers, [&](int worker) {
    T* const dw = want_dw ? own.dw + worker * plan.active : nullptr;
    if (want_dw) zero(dw, plan.active);
    for (int64_t c = 0; c < plan.class_count; ++c) {
      const ResidueClass& cls = plan.classes[c];
      if (cls.height == 0 || cls.width == 0) continue;
      const BackwardJob<T> job{cls.list, own.values, 0, L, in.plane() * L, s.stride_h * in.row() * L, s.stride_w * L,
                               out.row() * L,
                               {(reach_h * out.row() + reach_w) * L, plan.backward_tile.height, out.row() * L,
                                out.plane() * L}};
      const TileGrid grid(cls.height, cls.width, plan.backward_tile);
      const auto x_at = [&](int64_t block, const Tile& tile) {
        return pixel_at(in, block, cls.residue_h + tile.y * s.stride_h, cls.residue_w + tile.x * s.stride_w);
      };
      const auto dy_at = [&](int64_t block, const Tile& tile) { return pixel_at(out, block, tile.y, tile.x); };
      each_panel(cls.list, in.blocks() * grid.count(), worker, parallel.workers, [&](int64_t t, int64_t panel) {
        const int64_t block = t / grid.count();
        const Tile tile = grid[t % grid.count()];
        const int64_t at = x_at(block, tile);
        BackwardTile<T> where{dy + dy_at(block, tile), want_dw ? x + at : nullptr, want_dx ? dx + at : nullptr, dw};
        if (fetch && t % grid.count() + 1 < grid.count()) {
          const Tile next = grid[t % grid.count() + 1];
          where.next_x = x_at(block, next) - at, where.next_dy = dy_at(block, next) - dy_at(block, tile);
        }
        backward_kernel<T>(tile, s.stride_w, want_dx, want_dw)(job, where, panel);
      });
    }
  });
  if (want_dw) scatter_weight_gradient(plan, own.dw, own.copies, dvalues, parallel);
}

}  // namespace REGROW_ISA
}  // namespace regrow
