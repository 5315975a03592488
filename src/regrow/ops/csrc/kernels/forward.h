// The inner loop of forward: one panel of active weights on one tile.
//
//   y[o, tile] += w * x[offset(w) + tile]      for every active weight w of output channel o
//
// A weight costs one broadcast and one index; its PH*PW multiply-adds take x straight from memory. Loads are the
// bound: PH*PW + 2 of them, two a cycle.
#pragma once

#include "prefetch.h"
#include "tiles.h"

namespace regrow {
namespace REGROW_ISA {

template <class T>
struct ForwardJob {  // what all tiles share; strides in elements
  ActiveList list;
  const T* values;  // in list order, or in parameter order if `gathered` is false
  bool gathered;
  const T* bias;    // [O] or null
  int64_t pixel;    // elements of a pixel: the unit of list.offset
  int64_t x_row, x_step;  // between rows and pixels of a tile (stride of the convolution included)
  int64_t y_plane, y_row;
  Ahead ahead_x = {};
};

template <class T>
struct ForwardTile {
  const T* x;   // what the kernel's first tap of channel 0 sees from the tile's first pixel
  T* y;         // the tile's first pixel in channel 0
  int64_t images;  // that exist among the lanes
  int64_t next_x = 0, next_y = 0;  // elements to the next tile; 0 = do not fetch it
};

template <class T>
using ForwardPanel = void (*)(const ForwardJob<T>&, const ForwardTile<T>&, int64_t panel);

// Step: pixels of x between neighbours of a tile; 0 = known at run time only.
template <class T, int PH, int PW, int Step>
void forward_panel(const ForwardJob<T>& job, const ForwardTile<T>& tile, int64_t panel) {
  constexpr int L = kLanes<T>;
  // Copies: vector stores may alias anything, so the compiler would load members again after each of them.
  const int64_t step = Step ? Step * L : job.x_step;
  const int64_t x_row = job.x_row, y_row = job.y_row, y_plane = job.y_plane, pixel = job.pixel;
  const T* const bias = job.bias;
  const T* const values = job.values;
  const int32_t* const offsets = job.list.offset;
  const T* const x_tile = tile.x;
  T* const y_tile = tile.y;
  const bool first = panel % job.list.blocks == 0, gathered = job.gathered;

  const Segment* segment = job.list.segments + job.list.panel[panel];
  const Segment* const end = job.list.segments + job.list.panel[panel + 1];
  Ahead ahead = job.ahead_x;
  ahead.shift = tile.next_x ? ahead.shift + tile.next_x : 0;
  BlockFetcher<T, PW * (Step ? Step : 1)> fetcher(job.list, panel, tile.x, ahead);
  for (; segment != end; ++segment) {
    fetcher.step();
    T* const y = y_tile + segment->channel * y_plane;
    Vec<T> acc[PH][PW];
    if (first) {
      if (tile.next_y) fetch_rectangle<T, PW, true>(y + tile.next_y, PH, y_row);
      const Vec<T> start = bias ? splat(bias[segment->channel]) * lane_mask<T>(tile.images) : Vec<T>{};
#pragma GCC unroll 16
      for (int r = 0; r < PH; ++r)
#pragma GCC unroll 16
        for (int c = 0; c < PW; ++c) acc[r][c] = start;
    } else {
#pragma GCC unroll 16
      for (int r = 0; r < PH; ++r) {
        const T* const row = pin_address(y + r * y_row);
#pragma GCC unroll 16
        for (int c = 0; c < PW; ++c) acc[r][c] = load(row + c * L);
      }
    }
    const int32_t* offset = offsets + segment->begin;
    const int32_t* const last = offsets + segment[1].begin;
    const T* value = values + (gathered ? segment->begin : segment->source);
    for (; offset != last; ++offset, ++value) {
      const Vec<T> w = splat(*value);
      const T* const x = x_tile + *offset * pixel;
#pragma GCC unroll 16
      for (int r = 0; r < PH; ++r) {
        const T* const row = pin_address(x + r * x_row);
#pragma GCC unroll 16
        for (int c = 0; c < PW; ++c) acc[r][c] += w * load(row + c * step);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < PH; ++r) {
      T* const row = pin_address(y + r * y_row);
#pragma GCC unroll 16
      for (int c = 0; c < PW; ++c) store(row + c * L, acc[r][c]);
    }
  }
}

template <class T, int Step>
struct ForwardKernels {
  template <int PH, int PW>
  struct Make {
    static constexpr ForwardPanel<T> get() { return &forward_panel<T, PH, PW, Step>; }
  };
  static constexpr int kRows = Step ? kTileRows<T> : 1;
  static constexpr TileTable<ForwardPanel<T>, Make, kRows, kMaxTile> table{};
};

template <class T>
inline ForwardPanel<T> forward_kernel(const Tile& tile, int64_t step) {
  if constexpr (kTileRows<T> > 1) {
    if (step == 1) return ForwardKernels<T, 1>::table(tile);
    if (step == 2) return ForwardKernels<T, 2>::table(tile);
  }
  return ForwardKernels<T, 0>::table(tile);
}

}  // namespace REGROW_ISA
}  // namespace regrow
