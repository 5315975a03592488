#include "plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace regrow {
namespace {

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
int64_t clamp(int64_t value, int64_t low, int64_t high) { return std::max(low, std::min(value, high)); }

template <class Index>
IndexCheck first_fault(const Index* flat, int64_t count, int64_t positions) {
  int64_t previous = -1;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t value = flat[k];
    IndexFault fault = IndexFault::none;
    if (value < 0) fault = IndexFault::negative;
    else if (value >= positions) fault = IndexFault::too_large;
    else if (value == previous) fault = IndexFault::duplicate;
    else if (value < previous) fault = IndexFault::unsorted;
    if (fault != IndexFault::none) return {fault, k, value, previous, positions};
    previous = value;
  }
  return {};
}

// ---- how much of the input a tile sees, and how many channels of that fit the first-level cache ----

int64_t tile_bytes(int64_t rows, int64_t cols, const Target& target) {
  return rows * round_up(cols * target.lanes * target.element_size, 64);
}

// Blocks that fit the cache, but no more of them than leave `segment` weights to a channel: shorter segments pay more
// for loading and storing accumulators than they gain. Blocks of equal size.
int64_t choose_block(int64_t channels, int64_t cache_bytes, int64_t bytes_per_channel, double weights, double segment) {
  const int64_t fits = std::max<int64_t>(1, cache_bytes / bytes_per_channel);
  const int64_t most = std::max<int64_t>(1, std::llround(weights / segment));
  return ceil_div(channels, std::max<int64_t>(1, std::min(ceil_div(channels, fits), most)));
}

// ---- tiles ----

struct TileCosts {
  int64_t halo_h, halo_w;  // rows and columns of input beyond the tile's own
  double row;              // of one more row of pixels, in pixels
};

double tiling_cost(int64_t height, int64_t width, int64_t tile_h, int64_t tile_w, const TileCosts& costs) {
  const int64_t rows = ceil_div(height, tile_h), cols = ceil_div(width, tile_w);
  // Tiles of a row differ by at most one pixel. Fewer than 8 accumulators cannot hide the latency of an FMA.
  double cost = 0;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) {
      const int64_t h = height * (r + 1) / rows - height * r / rows, w = width * (c + 1) / cols - width * c / cols;
      cost += double(std::max<int64_t>(8, h * w)) + 2.0 + costs.row * double(h);
    }
  const double halo = double((tile_h + costs.halo_h) * (tile_w + costs.halo_w)) / double(tile_h * tile_w);
  return cost / double(height * width) + 0.05 * halo;
}

TileShape choose_tile(int64_t height, int64_t width, int64_t step, const TileCosts& costs, const Target& target) {
  const int32_t max_rows = step > 2 ? 1 : target.max_tile_rows;  // kernels of two dimensions exist for steps 1 and 2
  TileShape best;
  double best_cost = std::numeric_limits<double>::infinity();
  for (int32_t h = 1; h <= max_rows && h <= height; ++h)
    for (int32_t w = 1; h * w <= target.max_tile && w <= width; ++w) {
      const double cost = tiling_cost(height, width, h, w, costs);
      if (cost < best_cost) best = {h, w}, best_cost = cost;
    }
  return best;
}

// ---- lists ----

// Threads share the channels only where there are too few tiles to share.
int64_t choose_groups(int64_t channels, int64_t pixels) { return pixels > 16 ? 1 : clamp(channels / 64, 1, 16); }

struct ListShape {
  int64_t channels, block_count, groups;
  int64_t panels() const { return groups * block_count; }
  int64_t first_channel(int64_t group) const { return channels * group / groups; }
};

// Lays out the segments of one list. lengths[channel*blocks + block] is replaced by the place where the segment
// begins. Returns where the list ends.
int32_t lay_out(const ListShape& shape, int32_t begin, int32_t* lengths, int32_t* panel,
                std::vector<Segment>& segments) {
  const auto base = static_cast<int32_t>(segments.size());
  for (int64_t g = 0; g < shape.groups; ++g)
    for (int64_t b = 0; b < shape.block_count; ++b) {
      panel[g * shape.block_count + b] = static_cast<int32_t>(segments.size()) - base;
      for (int64_t c = shape.first_channel(g); c < shape.first_channel(g + 1); ++c) {
        int32_t& length = lengths[c * shape.block_count + b];
        if (b > 0 && length == 0) continue;  // the first block initialises
        segments.push_back({static_cast<int32_t>(c), begin, 0});
        begin += std::exchange(length, begin);
      }
    }
  panel[shape.panels()] = static_cast<int32_t>(segments.size()) - base;
  segments.push_back({-1, begin, 0});
  return begin;
}

int32_t largest_panel(const ActiveList& list) {
  int32_t largest = 0;
  for (int32_t p = 0; p < list.groups * list.blocks; ++p)
    largest = std::max(largest, list.segments[list.panel[p + 1]].begin - list.segments[list.panel[p]].begin);
  return largest;
}

int64_t mod(int64_t a, int64_t b) { return ((a % b) + b) % b; }

struct Tap {  // of the kernel, in one dimension
  int64_t residue, shift;  // input s*a + residue meets output a + shift
};
Tap tap_of(int64_t k, int64_t stride, int64_t padding, int64_t dilation) {
  const int64_t residue = mod(k * dilation - padding, stride);
  return {residue, (residue + padding - k * dilation) / stride};
}

// How far backward reads outside of dy in one dimension.
int64_t backward_margin(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  int64_t margin = 0;
  for (int64_t k = 0; k < kernel; ++k) {
    const Tap tap = tap_of(k, stride, padding, dilation);
    const int64_t last = (in - tap.residue + stride - 1) / stride - 1;
    if (last < 0) continue;
    margin = std::max({margin, -tap.shift, last + tap.shift - (out - 1)});
  }
  return margin;
}

int64_t forward_margin(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  return std::max<int64_t>(padding, (out - 1) * stride + (kernel - 1) * dilation - padding - (in - 1));
}

}  // namespace

IndexCheck check_indices(const int32_t* flat, int64_t count, int64_t positions) {
  return first_fault(flat, count, positions);
}
IndexCheck check_indices(const int64_t* flat, int64_t count, int64_t positions) {
  return first_fault(flat, count, positions);
}

void check_fits(const ConvShape& s, int64_t height, int64_t width) {
  if (conv_out_height(s, height) < 1 || conv_out_width(s, width) < 1)
    throw std::invalid_argument("a kernel of " + std::to_string(s.kernel_h) + "x" + std::to_string(s.kernel_w) +
                                " does not fit an input of " + std::to_string(height) + "x" + std::to_string(width) +
                                " with the given padding and dilation");
}

void check_sizes(int64_t image, int64_t active) {
  if (std::max(image, active) > std::numeric_limits<int32_t>::max())
    throw std::invalid_argument("one image of this layer has " + std::to_string(image) + " values and the layer " +
                                std::to_string(active) +
                                " active weights, of either at most 2^31 - 1; split it, or keep it dense");
}

std::string IndexCheck::message() const {
  const std::string at = "index " + std::to_string(value) + " at position " + std::to_string(position);
  switch (fault) {
    case IndexFault::none: return "indices are valid";
    case IndexFault::negative: return at + " is negative; indices must be in [0, " + std::to_string(limit) + ")";
    case IndexFault::too_large:
      return at + " is out of range; indices must be in [0, " + std::to_string(limit) + ")";
    case IndexFault::duplicate: return at + " occurs twice; indices must be unique";
    case IndexFault::unsorted:
      return at + " follows the larger " + std::to_string(previous) + "; indices must be sorted";
  }
  return {};
}

PlanStorage::PlanStorage(const ConvShape& shape, const int64_t* flat, int64_t active, int64_t height, int64_t width,
                         const Target& target) {
  plan_.shape = shape, plan_.active = active, plan_.height = height, plan_.width = width;
  build(flat, target);
}
PlanStorage::PlanStorage(const ConvShape& shape, const int32_t* flat, int64_t active, int64_t height, int64_t width,
                         const Target& target) {
  plan_.shape = shape, plan_.active = active, plan_.height = height, plan_.width = width;
  build(flat, target);
}

template <class Index>
void PlanStorage::build(const Index* flat, const Target& target) {
  const ConvShape& s = plan_.shape;
  const int64_t active = plan_.active, H = plan_.height, W = plan_.width;
  const int64_t OH = plan_.out_height = conv_out_height(s, H), OW = plan_.out_width = conv_out_width(s, W);
  check_fits(s, H, W);

  plan_.forward_margin_h = forward_margin(H, OH, s.kernel_h, s.stride_h, s.padding_h, s.dilation_h);
  plan_.forward_margin_w = forward_margin(W, OW, s.kernel_w, s.stride_w, s.padding_w, s.dilation_w);
  plan_.backward_margin_h = backward_margin(H, OH, s.kernel_h, s.stride_h, s.padding_h, s.dilation_h);
  plan_.backward_margin_w = backward_margin(W, OW, s.kernel_w, s.stride_w, s.padding_w, s.dilation_w);
  const Layout in = with_margin(activation_layout(1, s.in_channels, H, W, 1), plan_.forward_margin_h,
                                plan_.forward_margin_w);
  const Layout out = with_margin(activation_layout(1, s.out_channels, OH, OW, 1), plan_.backward_margin_h,
                                 plan_.backward_margin_w);
  check_sizes(std::max(in.size(), out.size()), active);

  const int64_t lattice_h = ceil_div(H, s.stride_h), lattice_w = ceil_div(W, s.stride_w);
  const int64_t reach_h = (s.kernel_h - 1) * s.dilation_h, reach_w = (s.kernel_w - 1) * s.dilation_w;
  // Backward moves three tiles for each segment, forward one: rows cost it more (measured).
  plan_.forward_tile = choose_tile(OH, OW, s.stride_w, {reach_h, reach_w, 0.3}, target);
  plan_.backward_tile = choose_tile(lattice_h, lattice_w, s.stride_w,
                                    {ceil_div(reach_h, s.stride_h), ceil_div(reach_w, s.stride_w), 2.0}, target);
  if (target.tile_height > 0) {
    plan_.forward_tile = plan_.backward_tile = {target.tile_height, target.tile_width};
  }

  // Linear: the batch, 8 vectors of it, takes the place of a tile's pixels.
  const bool linear = H * W == 1;
  const auto footprint = [&](const TileShape& tile, int64_t stride_h, int64_t stride_w) {
    if (linear) return tile_bytes(1, 8, target);
    return tile_bytes((tile.height - 1) * stride_h + reach_h + 1, (tile.width - 1) * stride_w + reach_w + 1, target);
  };
  const double density = double(active) / double(std::max<int64_t>(1, s.positions()));
  const double per_pair = density * double(s.kernel_h * s.kernel_w);  // of channels
  const int64_t cache = target.l1_bytes * 3 / 4;
  const double segment = linear ? 48 : 14;
  int64_t in_block = choose_block(s.in_channels, cache, footprint(plan_.forward_tile, s.stride_h, s.stride_w),
                                  per_pair * double(s.in_channels), segment);
  const int64_t class_count = s.stride_h * s.stride_w;
  int64_t out_block = choose_block(s.out_channels, cache, footprint(plan_.backward_tile, 1, 1),
                                   per_pair * double(s.out_channels) / double(class_count), segment);
  // Forward takes blocks that fill a quarter of the second-level cache, where ten weights of a segment remain; the rest
  // is for what passes by. Its bits do not depend on blocks. Those of backward do: by which weights' lanes are summed
  // together.
  if (linear)
    in_block = std::min(in_block, choose_block(s.in_channels, target.l2_bytes / 4, tile_bytes(1, 8, target),
                                               per_pair * double(s.in_channels), 10));
  if (target.forward_block > 0) in_block = clamp(target.forward_block, 1, s.in_channels);
  if (target.backward_block > 0) out_block = clamp(target.backward_block, 1, s.out_channels);

  const ListShape fwd{s.out_channels, ceil_div(s.in_channels, in_block), choose_groups(s.out_channels, OH * OW)};
  const ListShape bwd{s.in_channels, ceil_div(s.out_channels, out_block), choose_groups(s.in_channels, H * W)};

  // Lengths of all segments. Key of a weight in backward: (class, channel, block).
  std::vector<int32_t> fwd_place(fwd.channels * fwd.block_count, 0);
  std::vector<int32_t> bwd_place(class_count * bwd.channels * bwd.block_count, 0);
  std::vector<Tap> taps_h, taps_w;
  for (int64_t k = 0; k < s.kernel_h; ++k) taps_h.push_back(tap_of(k, s.stride_h, s.padding_h, s.dilation_h));
  for (int64_t k = 0; k < s.kernel_w; ++k) taps_w.push_back(tap_of(k, s.stride_w, s.padding_w, s.dilation_w));
  const auto fwd_key = [&](const Position& p) { return p.o * fwd.block_count + p.i / in_block; };
  const auto bwd_key = [&](const Position& p) {
    const int64_t cls = taps_h[p.ky].residue * s.stride_w + taps_w[p.kx].residue;
    return (cls * bwd.channels + p.i) * bwd.block_count + p.o / out_block;
  };
  for (int64_t k = 0; k < active; ++k) {
    const Position p = position_of(flat[k], s);
    ++fwd_place[fwd_key(p)];
    ++bwd_place[bwd_key(p)];
  }

  ints_.resize(3 * active + (fwd.panels() + 1) + class_count * (bwd.panels() + 1));
  int32_t* const fwd_offset = ints_.data();
  int32_t* const bwd_offset = fwd_offset + active;
  int32_t* const to_parameter = bwd_offset + active;
  int32_t* panel = to_parameter + active;

  plan_.forward.groups = static_cast<int32_t>(fwd.groups);
  plan_.forward.blocks = static_cast<int32_t>(fwd.block_count);
  plan_.forward.block_channels = static_cast<int32_t>(in_block);
  plan_.forward.read_channels = static_cast<int32_t>(s.in_channels);
  plan_.forward.panel = panel;
  plan_.forward.offset = fwd_offset;
  lay_out(fwd, 0, fwd_place.data(), panel, segments_);
  panel += fwd.panels() + 1;
  const size_t fwd_segments = segments_.size();

  std::vector<size_t> first_segment;
  int32_t begin = 0;
  for (int64_t c = 0; c < class_count; ++c) {
    const int64_t rh = c / s.stride_w, rw = c % s.stride_w;
    ResidueClass cls;
    cls.residue_h = rh, cls.residue_w = rw;
    cls.height = rh < H ? ceil_div(H - rh, s.stride_h) : 0, cls.width = rw < W ? ceil_div(W - rw, s.stride_w) : 0;
    cls.list.groups = static_cast<int32_t>(bwd.groups), cls.list.blocks = static_cast<int32_t>(bwd.block_count);
    cls.list.block_channels = static_cast<int32_t>(out_block);
    cls.list.read_channels = static_cast<int32_t>(s.out_channels);
    cls.list.panel = panel;
    cls.list.offset = bwd_offset;
    first_segment.push_back(segments_.size());
    begin = lay_out(bwd, begin, bwd_place.data() + c * bwd.channels * bwd.block_count, panel, segments_);
    panel += bwd.panels() + 1;
    classes_.push_back(cls);
  }
  plan_.forward.segments = segments_.data();
  plan_.forward.largest_panel = largest_panel(plan_.forward);
  for (int64_t c = 0; c < class_count; ++c) {
    classes_[c].list.segments = segments_.data() + first_segment[c];
    classes_[c].list.largest_panel = largest_panel(classes_[c].list);
  }

  // Place every weight.
  for (int64_t k = 0; k < active; ++k) {
    const Position p = position_of(flat[k], s);
    const int32_t f = fwd_place[fwd_key(p)]++;
    fwd_offset[f] = static_cast<int32_t>(p.i * in.plane() + p.ky * s.dilation_h * in.row() + p.kx * s.dilation_w);
    const int32_t b = bwd_place[bwd_key(p)]++;
    bwd_offset[b] = static_cast<int32_t>(p.o * out.plane() + taps_h[p.ky].shift * out.row() + taps_w[p.kx].shift);
    to_parameter[b] = static_cast<int32_t>(k);
  }

  // A forward segment is a contiguous run in parameter order: find where it starts there.
  std::vector<int32_t> row_begin(s.out_channels + 1, 0);
  std::vector<int32_t> taken(s.out_channels, 0);
  for (int64_t k = 0; k < active; ++k) ++row_begin[position_of(flat[k], s).o + 1];
  for (int64_t o = 0; o < s.out_channels; ++o) row_begin[o + 1] += row_begin[o];
  for (size_t n = 0; n + 1 < fwd_segments; ++n) {  // within a row, blocks come in ascending order
    Segment& segment = segments_[n];
    segment.source = row_begin[segment.channel] + taken[segment.channel];
    taken[segment.channel] += segments_[n + 1].begin - segment.begin;
  }

  plan_.classes = classes_.data();
  plan_.class_count = class_count;
  plan_.to_parameter = to_parameter;
  plan_.bytes = static_cast<int64_t>(ints_.size() * sizeof(int32_t) + segments_.size() * sizeof(Segment));
}

}  // namespace regrow
