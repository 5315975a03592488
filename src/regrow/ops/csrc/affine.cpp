// regrow::blocked_affine and regrow::blocked_relu_backward: what happens element by element between convolutions.
#include "activation.h"
#include "layout.h"
#include "runtime.h"

namespace regrow {
namespace {

template <class T>
Tensor affine(const Tensor& x, const Channel& scale, const Channel& center, const Channel& shift,
              const std::optional<Tensor>& residual, bool relu, const Ints& shape, int64_t lanes) {
  const char* op = "blocked_affine";
  const Layout layout = blocked_layout<T>(op, shape, lanes);
  check_blocked(op, "input", x, layout, scalar_type<T>);
  if (residual) check_blocked(op, "residual", *residual, layout, scalar_type<T>);
  const ChannelAffine<T> affine = channel_affine<T>(op, scale, center, shift, relu, layout);
  Tensor y = empty({layout.size()}, scalar_type<T>);
  kernels<T>().affine(x.const_data_ptr<T>(), layout, affine, residual ? residual->const_data_ptr<T>() : nullptr,
                      y.mutable_data_ptr<T>(), threads_for(layout.size()));
  return y;
}

template <class T>
Tensor relu_backward(const Tensor& dy, const Tensor& x, const Channel& scale, const Channel& center,
                     const Channel& shift, const Ints& shape, int64_t lanes) {
  const char* op = "blocked_relu_backward";
  const Layout layout = blocked_layout<T>(op, shape, lanes);
  check_blocked(op, "grad_output", dy, layout, scalar_type<T>);
  check_blocked(op, "input", x, layout, scalar_type<T>);
  const ChannelAffine<T> affine = channel_affine<T>(op, scale, center, shift, true, layout);
  Tensor dx = empty({layout.size()}, scalar_type<T>);
  kernels<T>().relu_backward(dy.const_data_ptr<T>(), x.const_data_ptr<T>(), layout, affine, dx.mutable_data_ptr<T>(),
                             threads_for(layout.size()));
  return dx;
}

}  // namespace

Tensor blocked_affine(const Tensor& input, std::optional<Tensor> scale, std::optional<Tensor> center,
                      std::optional<Tensor> shift, std::optional<Tensor> residual, bool relu, Ints shape,
                      int64_t lanes) {
  return of_dtype("blocked_affine", input, [&](auto zero) {
    return affine<decltype(zero)>(input, scale, center, shift, residual, relu, shape, lanes);
  });
}

Tensor blocked_relu_backward(const Tensor& grad_output, const Tensor& input, std::optional<Tensor> scale,
                             std::optional<Tensor> center, std::optional<Tensor> shift, Ints shape, int64_t lanes) {
  return of_dtype("blocked_relu_backward", input, [&](auto zero) {
    return relu_backward<decltype(zero)>(grad_output, input, scale, center, shift, shape, lanes);
  });
}

}  // namespace regrow
