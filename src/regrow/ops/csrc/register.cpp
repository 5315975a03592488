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
  m.impl("sparse_conv2d_backward", TORCH_BOX(&regrow::sparse_conv2d_backward));
}
