// The inner loop of backward: one panel of active weights on one tile of the input.
//
//   dx[i, tile] += w * dy[offset(w) + tile]                for every active weight w of input channel i
//   dw          += sum over tile and lanes of x[i, tile] * dy[offset(w) + tile]
//
// Each dy vector is loaded once and used twice. The lanes of dw are summed for L weights together by a shuffle tree.
#pragma once

#include "prefetch.h"
#include "tiles.h"

namespace regrow {
namespace REGROW_ISA {

template <class T>
struct BackwardJob {  // what all tiles of a residue class share; strides in elements
  ActiveList list;
  const T* values;  // in list order, from `first_weight` on
  int64_t first_weight;
  int64_t pixel;    // elements of a pixel: the unit of list.offset
  int64_t x_plane, x_row, x_step;  // of x and dx (stride of the convolution included)
  int64_t dy_row;
  Ahead ahead_dy = {};
};

template <class T>
struct BackwardTile {
  const T* dy;  // the pixel at the tile's origin in channel 0
  const T* x;   // the tile's first pixel in channel 0
  T* dx;        // the same; null if not wanted
  T* dw;        // sums of this worker, in list order from `first_weight` on
  int64_t next_x = 0, next_dy = 0;  // elements to the next tile; 0 = do not fetch it
};

template <class T>
using BackwardPanel = void (*)(const BackwardJob<T>&, const BackwardTile<T>&, int64_t panel);

// Adds lane sums of partial products to dw, kLanes weights at a time.
template <class T>
class LaneSums {
 public:
  explicit LaneSums(T* dw) : dw_(dw) {}
  REGROW_INLINE void push(Vec<T> partial) {
    partial_[count_] = partial;
    if (++count_ == kLanes<T>) flush();
  }
  void finish() {
    for (int j = 0; j < count_; ++j) dw_[j] += sum_lanes<T>(partial_[j]);
  }

 private:
  REGROW_INLINE void flush() {
    store_unaligned(dw_, load_unaligned(dw_) + sum_lanes<T>(partial_));
    dw_ += kLanes<T>;
    count_ = 0;
  }
  Vec<T> partial_[kLanes<T>];
  T* dw_;
  int count_ = 0;
};

constexpr int kChain = 4;

// dw is always computed: it is seldom unwanted, and a kernel for that would cost a third of the compile time.
template <class T, int PH, int PW, int Step, bool WantInput>
void backward_panel(const BackwardJob<T>& job, const BackwardTile<T>& tile, int64_t panel) {
  constexpr int L = kLanes<T>;
  // Copies: vector stores may alias anything, so the compiler would load members again after each of them.
  const int64_t step = Step ? Step * L : job.x_step;
  const int64_t x_plane = job.x_plane, x_row = job.x_row, dy_row = job.dy_row, pixel = job.pixel;
  const int64_t first_weight = job.first_weight;
  const int32_t* const offsets = job.list.offset;
  const T* const values = job.values;
  const T* const x_tile = tile.x;
  const T* const dy_tile = tile.dy;
  T* const dx_tile = tile.dx;
  const bool first = panel % job.list.blocks == 0;

  const Segment* segment = job.list.segments + job.list.panel[panel];
  const Segment* const end = job.list.segments + job.list.panel[panel + 1];
  LaneSums<T> sums(tile.dw + (segment->begin - first_weight));
  Ahead ahead = job.ahead_dy;
  ahead.shift = tile.next_dy ? ahead.shift + tile.next_dy : 0;
  BlockFetcher<T, PW> fetcher(job.list, panel, tile.dy, ahead);
  for (; segment != end; ++segment) {
    fetcher.step();
    const T* const x = x_tile + segment->channel * x_plane;
    T* const dx = WantInput ? dx_tile + segment->channel * x_plane : nullptr;
    Vec<T> acc[PH][PW];
    if (first && tile.next_x) {
      fetch_rectangle<T, PW * (Step ? Step : 1), false>(x + tile.next_x, PH, x_row);
      if (WantInput) fetch_rectangle<T, PW * (Step ? Step : 1), true>(dx + tile.next_x, PH, x_row);
    }
#pragma GCC unroll 16
    for (int r = 0; r < PH; ++r) {
      const T* const row = pin_address(dx + r * x_row);
#pragma GCC unroll 16
      for (int c = 0; c < PW; ++c) acc[r][c] = WantInput && !first ? load(row + c * step) : Vec<T>{};
    }
    const int32_t* offset = offsets + segment->begin;
    const int32_t* const last = offsets + segment[1].begin;
    const T* value = WantInput ? values + (segment->begin - first_weight) : nullptr;
    for (; offset != last; ++offset) {
      Vec<T> w{};
      if (WantInput) w = splat(*value++);
      const T* const dy = dy_tile + *offset * pixel;
      Vec<T> chain{}, partial{};  // short chains of multiply-adds: their latency is what a weight waits for
#pragma GCC unroll 16
      for (int r = 0; r < PH; ++r) {
        const T* const dy_line = pin_address(dy + r * dy_row);
        const T* const x_line = pin_address(x + r * x_row);
#pragma GCC unroll 16
        for (int c = 0; c < PW; ++c) {
          Vec<T> g = load(dy_line + c * L);
          if (WantInput) {
            pin(g);
            acc[r][c] += w * g;
          }
          const int p = r * PW + c;
          const Vec<T> product = g * load(x_line + c * step);
          chain = p % kChain ? chain + product : product;
          if (p % kChain == kChain - 1 || p == PH * PW - 1) partial = p < kChain ? chain : partial + chain;
        }
      }
      sums.push(partial);
    }
    if (WantInput) {
#pragma GCC unroll 16
      for (int r = 0; r < PH; ++r) {
        T* const row = pin_address(dx + r * x_row);
#pragma GCC unroll 16
        for (int c = 0; c < PW; ++c) store(row + c * step, acc[r][c]);
      }
    }
  }
  sums.finish();
}

template <class T, int Step, bool WantInput>
struct BackwardKernels {
  template <int PH, int PW>
  struct Make {
    static constexpr BackwardPanel<T> get() { return &backward_panel<T, PH, PW, Step, WantInput>; }
  };
  static constexpr int kRows = Step ? kTileRows<T> : 1;
  static constexpr TileTable<BackwardPanel<T>, Make, kRows, kMaxTile> table{};
};

template <class T, bool WantInput>
inline BackwardPanel<T> backward_kernel(const Tile& tile, int64_t step) {
  if constexpr (kTileRows<T> > 1) {
    if (step == 1) return BackwardKernels<T, 1, WantInput>::table(tile);
    if (step == 2) return BackwardKernels<T, 2, WantInput>::table(tile);
  }
  return BackwardKernels<T, 0, WantInput>::table(tile);
}
template <class T>
inline BackwardPanel<T> backward_kernel(const Tile& tile, int64_t step, bool want_input) {
  return want_input ? backward_kernel<T, true>(tile, step) : backward_kernel<T, false>(tile, step);
}

}  // namespace REGROW_ISA
}  // namespace regrow
