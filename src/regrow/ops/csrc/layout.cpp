// regrow::to_blocked and regrow::from_blocked.
#include "dtype.h"
#include "isa.h"
#include "layout.h"
#include "ops.h"
#include "runtime.h"

namespace regrow {
namespace {

template <class T>
Tensor to(const Tensor& input, int64_t lanes) {
  const Layout layout = blocked_layout<T>("to_blocked", {input.size(0), input.size(1), input.size(2), input.size(3)},
                                          lanes);
  Tensor blocked = empty({layout.size()}, scalar_type<T>);
  const Strides strides{input.stride(0), input.stride(1), input.stride(2), input.stride(3)};
  kernels<T>().to_blocked(input.const_data_ptr<T>(), strides, layout, blocked.mutable_data_ptr<T>(),
                          threads_for(4.0 * layout.size()));
  return blocked;
}

template <class T>
Tensor from(const Tensor& blocked, const Ints& shape, int64_t lanes) {
  const Layout layout = blocked_layout<T>("from_blocked", shape, lanes);
  check_blocked("from_blocked", "blocked", blocked, layout, scalar_type<T>);
  Tensor out = empty({shape[0], shape[1], shape[2], shape[3]}, scalar_type<T>);
  const Strides strides{out.stride(0), out.stride(1), out.stride(2), out.stride(3)};
  kernels<T>().from_blocked(blocked.const_data_ptr<T>(), layout, out.mutable_data_ptr<T>(), strides,
                            threads_for(4.0 * layout.size()));
  return out;
}

}  // namespace

Tensor to_blocked(const Tensor& input, int64_t lanes) {
  return of_dtype("to_blocked", input, [&](auto zero) {
    check_dims("to_blocked", "input", input, 4);
    return to<decltype(zero)>(input, lanes);
  });
}

Tensor from_blocked(const Tensor& blocked, Ints shape, int64_t lanes) {
  return of_dtype("from_blocked", blocked, [&](auto zero) { return from<decltype(zero)>(blocked, shape, lanes); });
}

}  // namespace regrow
