// The kernels of one instruction set, as a table. Compiled once for each (see kernels.h).
#include "kernels.h"

#include "conv.h"
#include "convert.h"
#include "dropout.h"
#include "linear.h"
#include "norm.h"

namespace regrow {
namespace REGROW_ISA {

template <class T>
constexpr Kernels<T> table() {
  Target target;
  target.lanes = kLanes<T>;
  target.element_size = sizeof(T);
  target.max_tile = kMaxTile;
  target.max_tile_rows = sizeof(T) == 4 ? kMaxTileRows : 1;
  return {kLanes<T>,
          target,
          to_blocked<T>,
          from_blocked<T>,
          conv_forward_scratch<T>,
          conv_forward<T>,
          conv_backward_scratch<T>,
          conv_backward<T>,
          linear_forward_scratch<T>,
          linear_forward<T>,
          linear_backward_scratch<T>,
          linear_backward<T>,
          affine<T>,
          relu_backward<T>,
          dropout<T>,
          max_pool<T>,
          max_pool_backward<T>,
          avg_pool<T>,
          avg_pool_backward<T>,
          moments<T>,
          norm_backward<T>};
}

}  // namespace REGROW_ISA

#define REGROW_JOIN(a, b) a##b
#define REGROW_ACCESSOR(isa) REGROW_JOIN(isa_, isa)
#define REGROW_QUOTE(a) #a
#define REGROW_NAME(a) REGROW_QUOTE(a)

const Isa& REGROW_ACCESSOR(REGROW_ISA)() {
  static constexpr Isa isa{REGROW_NAME(REGROW_ISA), REGROW_ISA::table<float>(), REGROW_ISA::table<double>()};
  return isa;
}

}  // namespace regrow
