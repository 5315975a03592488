// Fetching the next tile while this one is computed. On planes that do not fit the second-level cache the rows of a
// tile lie in as many places as there are channels, which hardware prefetchers do not follow.
#pragma once

#include "plan.h"
#include "simd.h"

namespace regrow {
namespace REGROW_ISA {

// The rectangle of a plane that the next tile sees first, relative to the current tile.
struct Ahead {
  int64_t shift = 0;  // elements to the rectangle's first pixel; 0 = fetch nothing
  int64_t rows = 0, row = 0;  // number of rows, elements between them
  int64_t plane = 0;          // elements between channels
};

template <class T, int Pixels, bool Write>
REGROW_INLINE void fetch_rectangle(const T* first, int64_t rows, int64_t row) {
  constexpr int kElements = 64 / static_cast<int>(sizeof(T)), L = kLanes<T>;
  for (int64_t r = 0; r < rows; ++r) {
#pragma GCC unroll 16
    for (int e = 0; e < Pixels * L; e += kElements) __builtin_prefetch(first + r * row + e, Write, 3);
    if (Pixels * L % kElements || kVectorBytes < 64) __builtin_prefetch(first + r * row + Pixels * L - 1, Write, 3);
  }
}

// Spreads fetching the channels of a block over the segments of a panel.
template <class T, int Pixels>
class BlockFetcher {
 public:
  BlockFetcher(const ActiveList& list, int64_t panel, const T* tile, const Ahead& ahead) : ahead_(ahead) {
    if (ahead.shift == 0) return;
    const int64_t block = panel % list.blocks, first = block * list.block_channels;
    const int64_t left = list.read_channels - first;
    const int64_t segments = list.panel[panel + 1] - list.panel[panel];
    left_ = left < list.block_channels ? left : list.block_channels;
    each_ = (left_ + segments - 1) / (segments > 0 ? segments : 1);
    next_ = tile + first * ahead.plane + ahead.shift;
  }
  REGROW_INLINE void step() {
    for (int64_t i = 0; i < each_ && left_ > 0; ++i, --left_, next_ += ahead_.plane)
      fetch_rectangle<T, Pixels, false>(next_, ahead_.rows, ahead_.row);
  }

 private:
  const Ahead& ahead_;
  const T* next_ = nullptr;
  int64_t left_ = 0, each_ = 0;
};

}  // namespace REGROW_ISA
}  // namespace regrow
