// The kernels of one instruction set, as a table. Compiled once for each (see kernels.h).
#include "kernels.h"

#include "conv.h"
#include "convert.h"
#include "dropout.h"
#include "linear.h"
#include "norm.h"
#include "pixels.h"

namespace regrow {
namespace REGROW_ISA {

template <class T>
constexpr Kernels<T> table() {
  Target target;
  target.lanes = kLanes<T>;
  target.element_size = sizeof(T);
  target.max_tile = kMaxTile;
  target.max_tile_rows = kTileRows<T>;
  if (kVectorBytes == 64) target.l2_bytes = 1024 * 1024;  // as servers with AVX-512 have at least
  Kernels<T> kernels{};
  kernels.lanes = kLanes<T>;
  kernels.target = target;
  kernels.to_blocked = to_blocked<T>;
  kernels.from_blocked = from_blocked<T>;
  kernels.conv_forward_scratch = conv_forward_scratch<T>;
  kernels.conv_forward = conv_forward<T>;
  kernels.pixel_forward_scratch = pixel_forward_scratch<T>;
  kernels.pixel_forward = pixel_forward<T>;
  kernels.conv_backward_scratch = conv_backward_scratch<T>;
  kernels.conv_backward = conv_backward<T>;
  kernels.linear_forward_scratch = linear_forward_scratch<T>;
  kernels.linear_forward = linear_forward<T>;
  kernels.linear_backward_scratch = linear_backward_scratch<T>;
  kernels.linear_backward = linear_backward<T>;
  kernels.affine = affine<T>;
  kernels.relu_backward = relu_backward<T>;
  kernels.dropout = dropout<T>;
  kernels.max_pool = max_pool<T>;
  kernels.max_pool_backward = max_pool_backward<T>;
  kernels.avg_pool = avg_pool<T>;
  kernels.avg_pool_backward = avg_pool_backward<T>;
  kernels.moments = moments<T>;
  kernels.norm_backward = norm_backward<T>;
  return kernels;
}

template <class... T>
constexpr Isa isa(const char* name, Types<T...>) {
  return {{table<T>()...}, name};
}

}  // namespace REGROW_ISA

#define REGROW_JOIN(a, b) a##b
#define REGROW_ACCESSOR(isa) REGROW_JOIN(isa_, isa)
#define REGROW_QUOTE(a) #a
#define REGROW_NAME(a) REGROW_QUOTE(a)

const Isa& REGROW_ACCESSOR(REGROW_ISA)() {
  static constexpr Isa isa = REGROW_ISA::isa(REGROW_NAME(REGROW_ISA), Dtypes{});
  return isa;
}

}  // namespace regrow
