// Active weights of one layer, ordered for the kernels. Built once per topology (and image size); plain int32
// arrays. Independent of batch size and number of threads; the instruction set only chooses the block sizes.
//
// PARAMETER ORDER (canonical): the active values a user or an optimizer sees are ordered by flat index into the
// weight [O, I, kH, kW], ascending: the order of `mask.flatten().nonzero()`. Nothing else ever leaves a plan.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "geometry.h"

namespace regrow {

enum class IndexFault { none, negative, too_large, duplicate, unsorted };

struct IndexCheck {
  IndexFault fault = IndexFault::none;
  int64_t position = 0;  // of the first bad index
  int64_t value = 0;     // found there
  int64_t previous = 0;  // found before it (duplicate, unsorted)
  int64_t limit = 0;     // all indices must be below
  bool ok() const { return fault == IndexFault::none; }
  std::string message() const;  // one sentence: what was found where, what is wanted
};

// First fault of `flat`: every index must be in [0, positions), ascending, unique.
IndexCheck check_indices(const int32_t* flat, int64_t count, int64_t positions);
IndexCheck check_indices(const int64_t* flat, int64_t count, int64_t positions);

// Throw std::invalid_argument where the output is empty, or where int32 does not hold the sizes.
void check_fits(const ConvShape& shape, int64_t height, int64_t width);
void check_sizes(int64_t image, int64_t active);

// A run of active weights that share the channel that is accumulated.
struct Segment {
  int32_t channel;  // forward: output channel; backward: input channel
  int32_t begin;    // first weight in list order; the next segment's begin is the end
  int32_t source;   // forward: `begin` in parameter order
};

// Active weights in the order in which one pass meets them.
// Channels that are accumulated form groups (a unit of work for threads); the channels that are read form blocks
// small enough for the first-level cache; a panel is one block of one group.
struct ActiveList {
  int32_t groups = 0, blocks = 0;
  int32_t block_channels = 0, read_channels = 0;  // channels of a block, of all blocks together
  int32_t largest_panel = 0;                      // active weights
  const int32_t* panel = nullptr;     // [groups*blocks + 1] first segment
  const Segment* segments = nullptr;  // [panel[groups*blocks] + 1]
  const int32_t* offset = nullptr;    // [active] pixels from the tile's origin; indexed by list order
};

// Input positions s*a + (residue_h, residue_w) read and write only weights of their own residue class.
struct ResidueClass {
  int64_t residue_h = 0, residue_w = 0;
  int64_t height = 0, width = 0;  // of the sub-lattice a
  ActiveList list;
};

struct TileShape {
  int32_t height = 1, width = 1;
};

// What the plan must know of the machine that will run it.
struct Target {
  int32_t lanes = 8;          // images per vector
  int32_t element_size = 4;   // bytes
  int32_t max_tile = 12;      // accumulators
  int32_t max_tile_rows = 4;
  int32_t l1_bytes = 32 * 1024;
  int32_t l2_bytes = 512 * 1024;
  // Overrides for tuning; 0 = choose.
  int32_t forward_block = 0, backward_block = 0;  // channels
  int32_t tile_height = 0, tile_width = 0;        // of stride-1 tiles
};

// Read-only view; what kernels take.
struct Plan {
  ConvShape shape;
  int64_t active = 0;
  int64_t height = 0, width = 0;          // input
  int64_t out_height = 0, out_width = 0;
  // Margins that the pass needs in what it reads (x in forward, dy in backward). Where they exceed those of
  // activation_layout, the kernel first copies into scratch.
  int64_t forward_margin_h = 0, forward_margin_w = 0;
  int64_t backward_margin_h = 0, backward_margin_w = 0;
  TileShape forward_tile, backward_tile;
  ActiveList forward;
  const ResidueClass* classes = nullptr;  // [stride_h*stride_w]
  int64_t class_count = 0;
  const int32_t* to_parameter = nullptr;  // [active] backward list order -> parameter order
  int64_t bytes = 0;                      // memory of all arrays
};

// Owns the arrays.
class PlanStorage {
 public:
  // `flat` must have passed check_indices. Throws std::invalid_argument where the geometry cannot be served
  // (empty output, offsets beyond int32).
  PlanStorage(const ConvShape& shape, const int64_t* flat, int64_t active, int64_t height, int64_t width,
              const Target& target);
  PlanStorage(const ConvShape& shape, const int32_t* flat, int64_t active, int64_t height, int64_t width,
              const Target& target);
  PlanStorage(PlanStorage&&) = default;  // pointers into the vectors survive a move, not a copy
  PlanStorage(const PlanStorage&) = delete;
  const Plan& plan() const { return plan_; }

 private:
  template <class Index>
  void build(const Index* flat, const Target& target);
  Plan plan_;
  std::vector<int32_t> ints_;
  std::vector<Segment> segments_;
  std::vector<ResidueClass> classes_;
};

}  // namespace regrow
