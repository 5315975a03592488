// Plans as tensors: a plan is handed around as an int64 tensor of one element, its number in a registry.
//
// The tensor owns the plan: when its last copy goes (the module's, or the one autograd keeps for backward), the plan
// is freed. A number that is not in the registry is an error, so nothing here ever trusts a pointer from outside.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <memory>
#include <vector>

#include "dtype.h"
#include "kernels/kernels.h"

namespace regrow {

struct PlanRecord {
  PlanStorage storage;
  ScalarType type;  // of the layer
  const Plan& plan() const { return storage.plan(); }
};

struct PixelPlanRecord {
  PixelPlanStorage storage;
  const PixelPlan& plan() const { return storage.plan(); }
};

// The plan behind a handle; raises when there is none or when it is of another dtype.
std::shared_ptr<const PlanRecord> find_plan(const char* op, const torch::stable::Tensor& handle);
std::shared_ptr<const PixelPlanRecord> find_pixel_plan(const char* op, const torch::stable::Tensor& handle);

// Checks everything about the indices, then builds a plan for one image size.
// weight_shape (O, I, kH, kW); conv (stride, padding, dilation), each (h, w); image (H, W).
torch::stable::Tensor make_plan(const torch::stable::Tensor& indices, std::vector<int64_t> weight_shape,
                                std::vector<int64_t> stride, std::vector<int64_t> padding,
                                std::vector<int64_t> dilation, std::vector<int64_t> image, ScalarType dtype);

// The same for kernels whose lanes lie along pixels; for any dtype.
torch::stable::Tensor make_pixel_plan(const torch::stable::Tensor& indices, std::vector<int64_t> weight_shape,
                                      std::vector<int64_t> stride, std::vector<int64_t> padding,
                                      std::vector<int64_t> dilation, std::vector<int64_t> image);

// Memory that the plan's index arrays take.
int64_t plan_bytes(const torch::stable::Tensor& handle);

}  // namespace regrow
