// Active weights of one convolution for kernels whose lanes lie along the pixels of a plane, for few images.
//
// An image is padded and cut into phases, one for each pair of residues of the stride; within a phase the convolution
// has stride 1. So a weight reads the whole output plane from consecutive places: `offset` and what follows it. Rows of
// the output are as far apart as those of a phase; the pixels between them are computed and dropped.
#pragma once

#include <cstdint>
#include <vector>

#include "geometry.h"

namespace regrow {

struct PixelPlan {
  ConvShape shape;
  int64_t active = 0;
  int64_t height = 0, width = 0;  // input
  int64_t out_height = 0, out_width = 0;
  int64_t rows = 0, row = 0;        // of a phase's plane: rows, pixels of a row
  const int32_t* offset = nullptr;  // [active] parameter order: pixels from the image's first
  const int32_t* begin = nullptr;   // [out_channels + 1] first weight of an output channel
  int64_t bytes = 0;                // memory of both arrays

  int64_t plane() const { return rows * row; }
  int64_t phases() const { return shape.stride_h * shape.stride_w; }
  int64_t image_size() const { return phases() * shape.in_channels * plane(); }  // pixels
  int64_t span() const { return (out_height - 1) * row + out_width; }            // pixels from the first to the last
  // The first output channel of a worker; all workers have as many weights.
  int64_t first_channel(int worker, int workers) const;
};

// Owns the arrays. `flat` must have passed check_indices. Throws std::invalid_argument where the geometry cannot be
// served (empty output, offsets beyond int32).
class PixelPlanStorage {
 public:
  PixelPlanStorage(const ConvShape& shape, const int64_t* flat, int64_t active, int64_t height, int64_t width);
  PixelPlanStorage(const ConvShape& shape, const int32_t* flat, int64_t active, int64_t height, int64_t width);
  PixelPlanStorage(PixelPlanStorage&&) = default;  // pointers into the vector survive a move, not a copy
  PixelPlanStorage(const PixelPlanStorage&) = delete;
  const PixelPlan& plan() const { return plan_; }

 private:
  template <class Index>
  void build(const Index* flat);
  PixelPlan plan_;
  std::vector<int32_t> ints_;
};

}  // namespace regrow
