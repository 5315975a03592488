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
  const T* x;   // the tile's first pixel in channel 0; null if dw is not wanted
  T* dx;        // the same; null if not wanted
  T* dw;        // sums of this worker, in list order from `first_weight` on; null if not wanted
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

template <class T, int PH, int PW, int Step, bool WantInput, bool WantWeight>
void backward_panel(const BackwardJob<T>& job, const BackwardTile<T>& tile, int64_t panel) {
  constexpr int L = kLanes<T>;
  const int64_t step = Step ? Step * L : job.x_step;
  const int64_t x_row = job.x_row, dy_row = job.dy_row, pixel = job.pixel;
  const bool first = panel % job.list.blocks == 0;

  const Segment* segment = job.list.segments + job.list.panel[panel];
  const Segment* const end = job.list.segments + job.list.panel[panel + 1];
  LaneSums<T> sums(WantWeight ? tile.dw + (segment->begin - job.first_weight) : nullptr);
  Ahead ahead = job.ahead_dy;
  ahead.shift = tile.next_dy ? ahead.shift + tile.next_dy : 0;
  BlockFetcher<T, PW> fetcher(job.list, panel, tile.dy, ahead);
  for (; segment != end; ++segment) {
    fetcher.step();
    const T* const x = WantWeight ? tile.x + segment->channel * job.x_plane : nullptr;
    T* const dx = WantInput ? tile.dx + segment->channel * job.x_plane : nullptr;
    Vec<T> acc[PH][PW];
#pragma GCC unroll 16
    for (int r = 0; r < PH; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < PW; ++c) acc[r][c] = Vec<T>{};
    if (first && tile.next_x) {
      if (WantWeight) fetch_rectangle<T, PW * (Step ? Step : 1), false>(x + tile.next_x, PH, x_row);
      if (WantInput) fetch_rectangle<T, PW * (Step ? Step : 1), true>(dx + tile.next_x, PH, x_row);
    }
    if (WantInput && !first) {
#pragma GCC unroll 16
      for (int r = 0; r < PH; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < PW; ++c) acc[r][c] = load(dx + r * x_row + c * step);
    }
    const int32_t* const offset = job.list.offset + segment->begin;
    const T* const values = WantInput ? job.values + (segment->begin - job.first_weight) : nullptr;
    const int32_t count = segment[1].begin - segment->begin;
    for (int32_t k = 0; k < count; ++k) {
      Vec<T> w{};
      if (WantInput) w = splat(values[k]);
      const T* const dy = tile.dy + offset[k] * pixel;
      Vec<T> partial[2] = {};  // two chains, for latency
#pragma GCC unroll 16
      for (int r = 0; r < PH; ++r) {
        const T* const row = pin_address(dy + r * dy_row);
#pragma GCC unroll 16
        for (int c = 0; c < PW; ++c) {
          Vec<T> g = load(row + c * L);
          if (WantInput && WantWeight) pin(g);
          if (WantInput) acc[r][c] += w * g;
          if (WantWeight) partial[(r * PW + c) % 2] += g * load(x + r * x_row + c * step);
        }
      }
      if (WantWeight) sums.push(partial[0] + partial[1]);
    }
    if (WantInput) {
#pragma GCC unroll 16
      for (int r = 0; r < PH; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < PW; ++c) store(dx + r * x_row + c * step, acc[r][c]);
    }
  }
  if (WantWeight) sums.finish();
}

template <class T, int Step, bool WantInput, bool WantWeight>
struct BackwardKernels {
  template <int PH, int PW>
  struct Make {
    static constexpr BackwardPanel<T> get() { return &backward_panel<T, PH, PW, Step, WantInput, WantWeight>; }
  };
  static constexpr int kRows = Step ? kMaxTileRows : 1;
  static constexpr TileTable<BackwardPanel<T>, Make, kRows, kMaxTile> table{};
};

template <class T, bool WantInput, bool WantWeight>
inline BackwardPanel<T> backward_kernel(const Tile& tile, int64_t step) {
  if constexpr (sizeof(T) == 4) {
    if (step == 1) return BackwardKernels<T, 1, WantInput, WantWeight>::table(tile);
    if (step == 2) return BackwardKernels<T, 2, WantInput, WantWeight>::table(tile);
  }
  return BackwardKernels<T, 0, WantInput, WantWeight>::table(tile);
}
template <class T>
inline BackwardPanel<T> backward_kernel(const Tile& tile, int64_t step, bool want_input, bool want_weight) {
  if (!want_weight) return backward_kernel<T, true, false>(tile, step);
  if (!want_input) return backward_kernel<T, false, true>(tile, step);
  return backward_kernel<T, true, true>(tile, step);
}

}  // namespace REGROW_ISA
}  // namespace regrow
