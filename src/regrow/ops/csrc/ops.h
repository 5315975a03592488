// The operators; their schemas are in ops/_schemas.py.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "check.h"

namespace regrow {

using Ints = std::vector<int64_t>;
using Norm = std::tuple<Tensor, Tensor, Tensor, Tensor>;  // scale, shift, mean, inverse standard deviation
using Gradients = std::tuple<Tensor, Tensor, Tensor>;  // of input, weight, bias; empty where not wanted

inline void check_bias(const char* op, const std::optional<Tensor>& bias, int64_t channels, ScalarType type) {
  if (!bias) return;
  check_real(op, "bias", *bias, type);
  check_contiguous(op, "bias", *bias);
  check_length(op, "bias", *bias, channels);
}

Tensor sparse_linear(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                     const Tensor& indices, const Tensor& plan, int64_t out_features);
Gradients sparse_linear_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                                 const Tensor& indices, const Tensor& plan, bool want_x, bool want_weight,
                                 bool want_bias);

Tensor to_blocked(const Tensor& input, int64_t lanes);
Tensor from_blocked(const Tensor& blocked, Ints shape, int64_t lanes);

Tensor sparse_conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                     const Tensor& indices, const Tensor& plan, Ints shape, int64_t lanes, Ints weight_shape,
                     Ints stride, Ints padding, Ints dilation);
Tensor sparse_conv2d_pixels(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                            const Tensor& indices, const Tensor& plan, Ints weight_shape, Ints stride, Ints padding,
                            Ints dilation);
Gradients sparse_conv2d_backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                                 const Tensor& indices, const Tensor& plan, Ints shape, int64_t lanes,
                                 Ints weight_shape, Ints stride, Ints padding, Ints dilation, bool want_x,
                                 bool want_weight, bool want_bias);

Tensor blocked_affine(const Tensor& input, std::optional<Tensor> scale, std::optional<Tensor> center,
                      std::optional<Tensor> shift, std::optional<Tensor> residual, bool relu, Ints shape,
                      int64_t lanes);
Tensor blocked_relu_backward(const Tensor& grad_output, const Tensor& input, std::optional<Tensor> scale,
                             std::optional<Tensor> center, std::optional<Tensor> shift, Ints shape, int64_t lanes);

Tensor blocked_dropout(const Tensor& input, std::optional<Tensor> scale, std::optional<Tensor> center,
                       std::optional<Tensor> shift, bool relu, int64_t seed, double p, double factor, Ints shape,
                       int64_t lanes);

Tensor blocked_max_pool(const Tensor& input, std::optional<Tensor> scale, std::optional<Tensor> center,
                        std::optional<Tensor> shift, bool relu, const Tensor& windows, Ints out_size, Ints shape,
                        int64_t lanes);
Tensor blocked_max_pool_backward(const Tensor& grad_output, const Tensor& input, std::optional<Tensor> scale,
                                 std::optional<Tensor> center, std::optional<Tensor> shift, bool relu, bool gated,
                                 const Tensor& windows, Ints out_size, Ints shape, int64_t lanes);
Tensor blocked_avg_pool(const Tensor& input, const Tensor& windows, Ints out_size, Ints shape, int64_t lanes);
Tensor blocked_avg_pool_backward(const Tensor& grad_output, const Tensor& windows, Ints out_size, Ints shape,
                                 int64_t lanes);

Norm blocked_norm(const Tensor& input, std::optional<Tensor> weight, std::optional<Tensor> bias,
                  std::optional<Tensor> running_mean, std::optional<Tensor> running_var, bool training,
                  double momentum, double eps, Ints shape, int64_t lanes);
Gradients blocked_norm_backward(const Tensor& grad_output, const Tensor& input, std::optional<Tensor> weight,
                                const Tensor& mean, const Tensor& invstd, bool training, std::optional<Tensor> scale,
                                std::optional<Tensor> center, std::optional<Tensor> shift, bool relu,
                                std::optional<Tensor> windows, Ints out_size, Ints shape, int64_t lanes,
                                bool want_input);

}  // namespace regrow
