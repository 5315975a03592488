// regrow::sparse_conv2d and its backward: blocked activations in and out.
#include "dtype.h"
#include "isa.h"
#include "layout.h"
#include "ops.h"
#include "plans.h"
#include "runtime.h"

namespace regrow {
namespace {

double work(const Plan& plan, int64_t batch) {
  return static_cast<double>(plan.active) * batch * plan.out_height * plan.out_width;
}

void check_geometry(const char* op, const Plan& plan, const Ints& shape) {
  if (shape.size() != 4 || shape[1] != plan.shape.in_channels || shape[2] != plan.height || shape[3] != plan.width)
    fail(op, ": shape does not fit the plan, which was made for (N, ", plan.shape.in_channels, ", ", plan.height, ", ",
         plan.width, "); make a plan for each image size");
}

template <class T>
Layout out_layout(const Plan& plan, int64_t batch, int64_t lanes) {
  return activation_layout(batch, plan.shape.out_channels, plan.out_height, plan.out_width, lanes);
}

template <class T>
Tensor forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Plan& plan,
               const Ints& shape, int64_t lanes) {
  const Layout in = blocked_layout<T>("sparse_conv2d", shape, lanes);
  check_blocked("sparse_conv2d", "input", x, in, scalar_type<T>);
  Tensor y = empty({out_layout<T>(plan, in.batch, lanes).size()}, scalar_type<T>);
  const Parallel parallel = threads_for(work(plan, in.batch));
  void* space = scratch(kernels<T>().conv_forward_scratch(plan, in.batch, parallel.workers));
  kernels<T>().conv_forward(plan, in.batch, weight.const_data_ptr<T>(), bias ? bias->const_data_ptr<T>() : nullptr,
                            x.const_data_ptr<T>(), y.mutable_data_ptr<T>(), space, parallel);
  return y;
}

template <class T>
Gradients backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Plan& plan, const Ints& shape,
                   int64_t lanes, bool want_x, bool want_weight, bool want_bias) {
  const char* op = "sparse_conv2d_backward";
  const Layout in = blocked_layout<T>(op, shape, lanes);
  check_blocked(op, "input", x, in, scalar_type<T>);
  check_blocked(op, "grad_output", dy, out_layout<T>(plan, in.batch, lanes), scalar_type<T>);
  const int64_t none = 0;
  Tensor dx = empty({want_x ? in.size() : 0}, scalar_type<T>);
  Tensor dw = want_weight ? empty({plan.active, 1}, scalar_type<T>) : empty({none}, scalar_type<T>);
  Tensor db = empty({want_bias ? plan.shape.out_channels : 0}, scalar_type<T>);
  const Parallel parallel = threads_for(2 * work(plan, in.batch));
  void* space = scratch(kernels<T>().conv_backward_scratch(plan, in.batch, parallel.workers, want_x));
  kernels<T>().conv_backward(plan, in.batch, weight.const_data_ptr<T>(), x.const_data_ptr<T>(),
                             dy.const_data_ptr<T>(), want_x ? dx.mutable_data_ptr<T>() : nullptr,
                             want_weight ? dw.mutable_data_ptr<T>() : nullptr,
                             want_bias ? db.mutable_data_ptr<T>() : nullptr, space, parallel);
  return {dx, dw, db};
}

}  // namespace

Tensor sparse_conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor&,
                     const Tensor& handle, Ints shape, int64_t lanes, Ints, Ints, Ints, Ints) {
  const char* op = "sparse_conv2d";
  const auto record = find_plan(op, handle);
  const Plan& plan = record->plan();
  check_geometry(op, plan, shape);
  check_values(op, weight, plan.active, record->type);
  check_bias(op, bias, plan.shape.out_channels, record->type);
  return of_dtype(op, "plan", record->type, [&](auto zero) {
    return forward<decltype(zero)>(input, weight, bias, plan, shape, lanes);
  });
}

Gradients sparse_conv2d_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight, const Tensor&,
                                 const Tensor& handle, Ints shape, int64_t lanes, Ints, Ints, Ints, Ints, bool want_x,
                                 bool want_weight, bool want_bias) {
  const char* op = "sparse_conv2d_backward";
  const auto record = find_plan(op, handle);
  const Plan& plan = record->plan();
  check_geometry(op, plan, shape);
  check_values(op, weight, plan.active, record->type);
  return of_dtype(op, "plan", record->type, [&](auto zero) {
    return backward<decltype(zero)>(grad_output, input, weight, plan, shape, lanes, want_x, want_weight, want_bias);
  });
}

}  // namespace regrow
