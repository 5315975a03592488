// Tiles: small rectangles of pixels whose accumulators live in registers.
#pragma once

#include "plan.h"
#include "simd.h"

namespace regrow {
namespace REGROW_ISA {

struct Tile {
  int64_t y, x, height, width;
};

// A plane cut into tiles of at most `shape`; sizes differ by at most one.
struct TileGrid {
  int64_t height, width, rows, cols;
  TileGrid(int64_t plane_height, int64_t plane_width, TileShape shape)
      : height(plane_height), width(plane_width),
        rows((plane_height + shape.height - 1) / shape.height), cols((plane_width + shape.width - 1) / shape.width) {}
  int64_t count() const { return rows * cols; }
  Tile operator[](int64_t t) const {
    const int64_t r = t / cols, c = t % cols;
    const int64_t y = height * r / rows, x = width * c / cols;
    return {y, x, height * (r + 1) / rows - y, width * (c + 1) / cols - x};
  }
};

// Table of one kernel per tile shape. Make<PH, PW>::get() gives the function; shapes beyond the registers are null.
template <class Function, template <int, int> class Make, int Rows, int Size>
struct TileTable {
  Function at[Rows][Size];
  constexpr TileTable() : at{} { fill_rows(std::make_integer_sequence<int, Rows>{}); }
  Function operator()(const Tile& tile) const { return at[tile.height - 1][tile.width - 1]; }

 private:
  template <int... R>
  constexpr void fill_rows(std::integer_sequence<int, R...>) {
    (fill<R>(std::make_integer_sequence<int, Size>{}), ...);
  }
  template <int R, int... C>
  constexpr void fill(std::integer_sequence<int, C...>) {
    ((at[R][C] = entry<R + 1, C + 1>()), ...);
  }
  template <int PH, int PW>
  static constexpr Function entry() {
    if constexpr (PH * PW <= Size) return Make<PH, PW>::get();
    else return nullptr;
  }
};

}  // namespace REGROW_ISA
}  // namespace regrow
