// regrow::blocked_max_pool, regrow::blocked_avg_pool and their backwards.
#include "activation.h"
#include "layout.h"
#include "runtime.h"

namespace regrow {
namespace {

template <class T>
Tensor max_forward(const Tensor& x, const Channel& scale, const Channel& center, const Channel& shift, bool relu,
                   const Tensor& windows, const Ints& out_size, const Ints& shape, int64_t lanes) {
  const char* op = "blocked_max_pool";
  const Layout in = blocked_layout<T>(op, shape, lanes);
  check_blocked(op, "input", x, in, scalar_type<T>);
  const Windows over = windows_of(op, windows, out_size, in);
  const Layout out = pooled(in, out_size);
  Tensor y = empty({out.size()}, scalar_type<T>);
  kernels<T>().max_pool(x.const_data_ptr<T>(), in, channel_affine<T>(op, scale, center, shift, relu, in), out, over,
                        y.mutable_data_ptr<T>(), threads_for(in.size()));
  return y;
}

template <class T>
Tensor max_backward(const Tensor& dy, const Tensor& x, const Channel& scale, const Channel& center,
                    const Channel& shift, bool relu, bool gated, const Tensor& windows, const Ints& out_size,
                    const Ints& shape, int64_t lanes) {
  const char* op = "blocked_max_pool_backward";
  const Layout in = blocked_layout<T>(op, shape, lanes);
  check_blocked(op, "input", x, in, scalar_type<T>);
  const Windows over = windows_of(op, windows, out_size, in);
  const Layout out = pooled(in, out_size);
  check_blocked(op, "grad_output", dy, out, scalar_type<T>);
  Tensor dx = empty({in.size()}, scalar_type<T>);
  kernels<T>().max_pool_backward(dy.const_data_ptr<T>(), x.const_data_ptr<T>(), in,
                                 channel_affine<T>(op, scale, center, shift, relu, in), gated, out, over,
                                 dx.mutable_data_ptr<T>(), threads_for(2.0 * in.size()));
  return dx;
}

template <class T>
Tensor avg_forward(const Tensor& x, const Tensor& windows, const Ints& out_size, const Ints& shape, int64_t lanes) {
  const char* op = "blocked_avg_pool";
  const Layout in = blocked_layout<T>(op, shape, lanes);
  check_blocked(op, "input", x, in, scalar_type<T>);
  const Windows over = windows_of(op, windows, out_size, in);
  const Layout out = pooled(in, out_size);
  Tensor y = empty({out.size()}, scalar_type<T>);
  kernels<T>().avg_pool(x.const_data_ptr<T>(), in, out, over, y.mutable_data_ptr<T>(), threads_for(in.size()));
  return y;
}

template <class T>
Tensor avg_backward(const Tensor& dy, const Tensor& windows, const Ints& out_size, const Ints& shape, int64_t lanes) {
  const char* op = "blocked_avg_pool_backward";
  const Layout in = blocked_layout<T>(op, shape, lanes);
  const Windows over = windows_of(op, windows, out_size, in);
  const Layout out = pooled(in, out_size);
  check_blocked(op, "grad_output", dy, out, scalar_type<T>);
  Tensor dx = empty({in.size()}, scalar_type<T>);
  kernels<T>().avg_pool_backward(dy.const_data_ptr<T>(), in, out, over, dx.mutable_data_ptr<T>(),
                                 threads_for(in.size()));
  return dx;
}

}  // namespace

Tensor blocked_max_pool(const Tensor& input, std::optional<Tensor> scale, std::optional<Tensor> center,
                        std::optional<Tensor> shift, bool relu, const Tensor& windows, Ints out_size, Ints shape,
                        int64_t lanes) {
  return of_dtype("blocked_max_pool", input, [&](auto zero) {
    return max_forward<decltype(zero)>(input, scale, center, shift, relu, windows, out_size, shape, lanes);
  });
}

Tensor blocked_max_pool_backward(const Tensor& grad_output, const Tensor& input, std::optional<Tensor> scale,
                                 std::optional<Tensor> center, std::optional<Tensor> shift, bool relu, bool gated,
                                 const Tensor& windows, Ints out_size, Ints shape, int64_t lanes) {
  return of_dtype("blocked_max_pool_backward", input, [&](auto zero) {
    return max_backward<decltype(zero)>(grad_output, input, scale, center, shift, relu, gated, windows, out_size,
                                        shape, lanes);
  });
}

Tensor blocked_avg_pool(const Tensor& input, const Tensor& windows, Ints out_size, Ints shape, int64_t lanes) {
  return of_dtype("blocked_avg_pool", input, [&](auto zero) {
    return avg_forward<decltype(zero)>(input, windows, out_size, shape, lanes);
  });
}

Tensor blocked_avg_pool_backward(const Tensor& grad_output, const Tensor& windows, Ints out_size, Ints shape,
                                 int64_t lanes) {
  return of_dtype("blocked_avg_pool_backward", grad_output, [&](auto zero) {
    return avg_backward<decltype(zero)>(grad_output, windows, out_size, shape, lanes);
  });
}

}  // namespace regrow
