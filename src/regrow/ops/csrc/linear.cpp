// regrow::sparse_linear and its backward: ordinary (batch, features) tensors in and out.
#include "dtype.h"
#include "isa.h"
#include "ops.h"
#include "plans.h"
#include "runtime.h"

namespace regrow {
namespace {

// A matrix whose rows are contiguous; the distance between rows may be anything.
void check_rows(const char* op, const char* name, const Tensor& x, int64_t columns, ScalarType type) {
  check_real(op, name, x, type);
  check_dims(op, name, x, 2);
  if (x.size(1) != columns)
    fail(op, ": ", name, " has shape ", shape_text(x), ", wanted (batch, ", columns, ")");
  if (columns > 1 && x.stride(1) != 1) fail(op, ": the rows of ", name, " are not contiguous; call .contiguous()");
}

void check_linear(const char* op, const Plan& plan) {
  const ConvShape& s = plan.shape;
  if (s.kernel_h * s.kernel_w * plan.height * plan.width != 1)
    fail(op, ": the plan is that of a ", s.kernel_h, "x", s.kernel_w, " convolution on ", plan.height, "x", plan.width,
         " images, wanted that of a linear layer (1x1 on 1x1)");
}

double work(const Plan& plan, int64_t batch) { return static_cast<double>(plan.active) * batch; }

template <class T>
Tensor forward(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Plan& plan) {
  const int64_t batch = x.size(0);
  Tensor y = empty({batch, plan.shape.out_channels}, scalar_type<T>);
  const Parallel parallel = threads_for(work(plan, batch));
  void* space = scratch(kernels<T>().linear_forward_scratch(plan, batch, parallel.workers));
  kernels<T>().linear_forward(plan, batch, weight.const_data_ptr<T>(), bias ? bias->const_data_ptr<T>() : nullptr,
                              x.const_data_ptr<T>(), x.stride(0), y.mutable_data_ptr<T>(), y.stride(0), space,
                              parallel);
  return y;
}

template <class T>
Gradients backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Plan& plan, bool want_x,
                   bool want_weight, bool want_bias) {
  const int64_t batch = x.size(0), none = 0;
  Tensor dx = want_x ? empty({batch, plan.shape.in_channels}, scalar_type<T>) : empty({none}, scalar_type<T>);
  Tensor dw = want_weight ? empty({plan.active, 1}, scalar_type<T>) : empty({none}, scalar_type<T>);
  Tensor db = empty({want_bias ? plan.shape.out_channels : 0}, scalar_type<T>);
  const Parallel parallel = threads_for(2 * work(plan, batch));
  void* space = scratch(kernels<T>().linear_backward_scratch(plan, batch, parallel.workers, want_x));
  kernels<T>().linear_backward(plan, batch, weight.const_data_ptr<T>(), x.const_data_ptr<T>(), x.stride(0),
                               dy.const_data_ptr<T>(), dy.stride(0), want_x ? dx.mutable_data_ptr<T>() : nullptr,
                               plan.shape.in_channels, want_weight ? dw.mutable_data_ptr<T>() : nullptr,
                               want_bias ? db.mutable_data_ptr<T>() : nullptr, space, parallel);
  return {dx, dw, db};
}

}  // namespace

Tensor sparse_linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor&,
                     const Tensor& handle, int64_t) {
  const char* op = "sparse_linear";
  const auto record = find_plan(op, handle);
  const Plan& plan = record->plan();
  check_linear(op, plan);
  check_values(op, weight, plan.active, record->type);
  check_rows(op, "input", input, plan.shape.in_channels, record->type);
  check_bias(op, bias, plan.shape.out_channels, record->type);
  return of_dtype(op, "plan", record->type,
                  [&](auto zero) { return forward<decltype(zero)>(input, weight, bias, plan); });
}

Gradients sparse_linear_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight, const Tensor&,
                                 const Tensor& handle, bool want_x, bool want_weight, bool want_bias) {
  const char* op = "sparse_linear_backward";
  const auto record = find_plan(op, handle);
  const Plan& plan = record->plan();
  check_linear(op, plan);
  check_values(op, weight, plan.active, record->type);
  check_rows(op, "input", input, plan.shape.in_channels, record->type);
  check_rows(op, "grad_output", grad_output, plan.shape.out_channels, record->type);
  if (grad_output.size(0) != input.size(0))
    fail(op, ": grad_output has ", grad_output.size(0), " rows, input has ", input.size(0));
  return of_dtype(op, "plan", record->type, [&](auto zero) {
    return backward<decltype(zero)>(grad_output, input, weight, plan, want_x, want_weight, want_bias);
  });
}

}  // namespace regrow
