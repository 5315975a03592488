// The native kernels override the plain-torch ones on the CPU.
#include <torch/csrc/stable/library.h>

#include "ops.h"
#include "plans.h"

STABLE_TORCH_LIBRARY_IMPL(regrow, CPU, m) {
  m.impl("make_plan", TORCH_BOX(&regrow::make_plan));
  m.impl("plan_bytes", TORCH_BOX(&regrow::plan_bytes));
  m.impl("to_blocked", TORCH_BOX(&regrow::to_blocked));
  m.impl("from_blocked", TORCH_BOX(&regrow::from_blocked));
  m.impl("sparse_linear", TORCH_BOX(&regrow::sparse_linear));
  m.impl("sparse_linear_backward", TORCH_BOX(&regrow::sparse_linear_backward));
  m.impl("sparse_conv2d", TORCH_BOX(&regrow::sparse_conv2d));
  m.impl("make_pixel_plan", TORCH_BOX(&regrow::make_pixel_plan));
  m.impl("sparse_conv2d_pixels", TORCH_BOX(&regrow::sparse_conv2d_pixels));
  m.impl("sparse_conv2d_backward", TORCH_BOX(&regrow::sparse_conv2d_backward));
  m.impl("blocked_affine", TORCH_BOX(&regrow::blocked_affine));
  m.impl("blocked_relu_backward", TORCH_BOX(&regrow::blocked_relu_backward));
  m.impl("blocked_dropout", TORCH_BOX(&regrow::blocked_dropout));
  m.impl("blocked_max_pool", TORCH_BOX(&regrow::blocked_max_pool));
  m.impl("blocked_max_pool_backward", TORCH_BOX(&regrow::blocked_max_pool_backward));
  m.impl("blocked_avg_pool", TORCH_BOX(&regrow::blocked_avg_pool));
  m.impl("blocked_avg_pool_backward", TORCH_BOX(&regrow::blocked_avg_pool_backward));
  m.impl("blocked_norm", TORCH_BOX(&regrow::blocked_norm));
  m.impl("blocked_norm_backward", TORCH_BOX(&regrow::blocked_norm_backward));
}
