// regrow::blocked_norm, which turns a BatchNorm into the affine map of each channel, scale * (x - mean) + shift, and
// its derivative. The mean is rounded to the element type; the shift makes good for that, and is else the bias.
#include <cmath>
#include <limits>
#include <memory>

#include "activation.h"
#include "layout.h"
#include "runtime.h"

namespace regrow {
namespace {

// running = (1 - momentum) * running + momentum * seen, as torch does it: the variance unbiased.
template <class T>
void follow(T* running, double momentum, double seen) {
  *running = static_cast<T>((1 - momentum) * static_cast<double>(*running) + momentum * seen);
}

template <class T>
T* running_data(const char* op, const char* name, std::optional<Tensor>& running, const Layout& layout) {
  channel_data<T>(op, name, running, layout);
  return running ? running->mutable_data_ptr<T>() : nullptr;
}

template <class T>
Norm norm(const Tensor& x, const Channel& weight, const Channel& bias, std::optional<Tensor>& running_mean,
          std::optional<Tensor>& running_var, bool training, double momentum, double eps, const Ints& shape,
          int64_t lanes) {
  const char* op = "blocked_norm";
  const Layout layout = blocked_layout<T>(op, shape, lanes);
  check_blocked(op, "input", x, layout, scalar_type<T>);
  const T *gain = channel_data<T>(op, "weight", weight, layout), *base = channel_data<T>(op, "bias", bias, layout);
  T* kept_mean = running_data<T>(op, "running_mean", running_mean, layout);
  T* kept_var = running_data<T>(op, "running_var", running_var, layout);
  if (!training && !(kept_mean && kept_var)) fail(op, ": running_mean and running_var are wanted when not training");
  const int64_t channels = layout.channels;
  Tensor scale = empty({channels}, scalar_type<T>), shift = empty({channels}, scalar_type<T>),
         mean = empty({channels}, scalar_type<T>), invstd = empty({channels}, scalar_type<T>);
  std::unique_ptr<double[]> seen(new double[2 * channels]);
  double *means = seen.get(), *variances = means + channels;
  const double count = static_cast<double>(layout.batch * layout.height * layout.width);
  if (training) kernels<T>().moments(x.const_data_ptr<T>(), layout, means, variances, threads_for(2.0 * layout.size()));
  for (int64_t c = 0; c < channels; ++c) {
    const double center = training ? means[c] : kept_mean[c], spread = training ? variances[c] : kept_var[c];
    const double inverse = 1 / std::sqrt(spread + eps), slope = gain ? inverse * gain[c] : inverse;
    const T rounded = static_cast<T>(center);
    mean.mutable_data_ptr<T>()[c] = rounded;
    invstd.mutable_data_ptr<T>()[c] = static_cast<T>(inverse);
    scale.mutable_data_ptr<T>()[c] = static_cast<T>(slope);
    shift.mutable_data_ptr<T>()[c] = static_cast<T>((base ? base[c] : T(0)) + (rounded - center) * slope);
    if (training && kept_mean) follow(kept_mean + c, momentum, center);
    if (training && kept_var) follow(kept_var + c, momentum, spread * count / (count - 1));
  }
  return {scale, shift, mean, invstd};
}

template <class T>
Gradients backward(const Tensor& dy, const Tensor& x, const Channel& weight, const Tensor& mean, const Tensor& invstd,
                   bool training, const Channel& scale, const Channel& center, const Channel& shift, bool relu,
                   const std::optional<Tensor>& windows, const Ints& out_size, const Ints& shape, int64_t lanes,
                   bool want_x) {
  const char* op = "blocked_norm_backward";
  const Layout in = blocked_layout<T>(op, shape, lanes);
  check_blocked(op, "input", x, in, scalar_type<T>);
  Windows over;
  Layout out = in;
  if (windows) {
    over = windows_of(op, *windows, out_size, in);
    out = pooled(in, out_size);
  }
  check_blocked(op, "grad_output", dy, out, scalar_type<T>);
  const NormGradient<T> norm{channel_data<T>(op, "mean", mean, in), channel_data<T>(op, "invstd", invstd, in),
                             channel_data<T>(op, "weight", weight, in), training};
  Tensor dx = empty({want_x ? in.size() : 0}, scalar_type<T>);
  Tensor dweight = empty({in.channels}, scalar_type<T>), dbias = empty({in.channels}, scalar_type<T>);
  kernels<T>().norm_backward(dy.const_data_ptr<T>(), x.const_data_ptr<T>(), in, norm,
                             channel_affine<T>(op, scale, center, shift, relu, in), out, windows ? &over : nullptr,
                             want_x ? dx.mutable_data_ptr<T>() : nullptr, dweight.mutable_data_ptr<T>(),
                             dbias.mutable_data_ptr<T>(), threads_for(4.0 * in.size()));
  return {dx, dweight, dbias};
}

}  // namespace

Norm blocked_norm(const Tensor& input, std::optional<Tensor> weight, std::optional<Tensor> bias,
                  std::optional<Tensor> running_mean, std::optional<Tensor> running_var, bool training,
                  double momentum, double eps, Ints shape, int64_t lanes) {
  return of_dtype("blocked_norm", input, [&](auto zero) {
    return norm<decltype(zero)>(input, weight, bias, running_mean, running_var, training, momentum, eps, shape, lanes);
  });
}

Gradients blocked_norm_backward(const Tensor& grad_output, const Tensor& input, std::optional<Tensor> weight,
                                const Tensor& mean, const Tensor& invstd, bool training, std::optional<Tensor> scale,
                                std::optional<Tensor> center, std::optional<Tensor> shift, bool relu,
                                std::optional<Tensor> windows, Ints out_size, Ints shape, int64_t lanes,
                                bool want_input) {
  return of_dtype("blocked_norm_backward", input, [&](auto zero) {
    return backward<decltype(zero)>(grad_output, input, weight, mean, invstd, training, scale, center, shift, relu,
                                    windows, out_size, shape, lanes, want_input);
  });
}

}  // namespace regrow
