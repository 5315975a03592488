// regrow::sparse_conv2d_pixels: a convolution of few images, ordinary (N, C, H, W) tensors in and out. No derivative.
#include "dtype.h"
#include "isa.h"
#include "ops.h"
#include "plans.h"
#include "runtime.h"

namespace regrow {
namespace {

template <class T>
Tensor forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const PixelPlan& plan) {
  const int64_t batch = x.size(0);
  Tensor y = empty({batch, plan.shape.out_channels, plan.out_height, plan.out_width}, scalar_type<T>);
  const Parallel parallel = threads_for(static_cast<double>(plan.active) * batch * plan.span() / 8);
  void* space = scratch(kernels<T>().pixel_forward_scratch(plan, batch));
  kernels<T>().pixel_forward(plan, batch, weight.const_data_ptr<T>(), bias ? bias->const_data_ptr<T>() : nullptr,
                             x.const_data_ptr<T>(), y.mutable_data_ptr<T>(), space, parallel);
  return y;
}

}  // namespace

Tensor sparse_conv2d_pixels(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                            const Tensor&, const Tensor& handle, Ints, Ints, Ints, Ints) {
  const char* op = "sparse_conv2d_pixels";
  const auto record = find_pixel_plan(op, handle);
  const PixelPlan& plan = record->plan();
  return of_dtype(op, input, [&](auto zero) {
    constexpr ScalarType type = scalar_type<decltype(zero)>;
    check_dims(op, "input", input, 4);
    if (input.size(1) != plan.shape.in_channels || input.size(2) != plan.height || input.size(3) != plan.width)
      fail(op, ": input has shape ", shape_text(input), ", but the plan was made for (N, ", plan.shape.in_channels,
           ", ", plan.height, ", ", plan.width, "); make a plan for each image size");
    check_contiguous(op, "input", input);
    check_values(op, weight, plan.active, type);
    check_bias(op, bias, plan.shape.out_channels, type);
    return forward<decltype(zero)>(input, weight, bias, plan);
  });
}

}  // namespace regrow
