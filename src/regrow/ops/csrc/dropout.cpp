// regrow::blocked_dropout, which is its own derivative.
#include <algorithm>
#include <cmath>

#include "activation.h"
#include "layout.h"
#include "runtime.h"

namespace regrow {
namespace {

Noise noise_of(const char* op, int64_t seed, double p) {
  if (!(p >= 0 && p <= 1)) fail(op, ": p is ", p, ", wanted 0 to 1");
  const auto bits = static_cast<uint64_t>(seed);
  const double drop = std::min(std::round(p * 4294967296.0), 4294967295.0);
  return {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32), static_cast<uint32_t>(drop)};
}

template <class T>
Tensor dropout(const Tensor& x, const Channel& scale, const Channel& center, const Channel& shift, bool relu,
               int64_t seed, double p, double factor, const Ints& shape, int64_t lanes) {
  const char* op = "blocked_dropout";
  const Layout layout = blocked_layout<T>(op, shape, lanes);
  check_blocked(op, "input", x, layout, scalar_type<T>);
  const Noise noise = noise_of(op, seed, p);
  Tensor y = empty({layout.size()}, scalar_type<T>);
  kernels<T>().dropout(x.const_data_ptr<T>(), layout, channel_affine<T>(op, scale, center, shift, relu, layout), noise,
                       static_cast<T>(factor), y.mutable_data_ptr<T>(), threads_for(2.0 * layout.size()));
  return y;
}

}  // namespace

Tensor blocked_dropout(const Tensor& input, std::optional<Tensor> scale, std::optional<Tensor> center,
                       std::optional<Tensor> shift, bool relu, int64_t seed, double p, double factor, Ints shape,
                       int64_t lanes) {
  return of_dtype("blocked_dropout", input, [&](auto zero) {
    return dropout<decltype(zero)>(input, scale, center, shift, relu, seed, p, factor, shape, lanes);
  });
}

}  // namespace regrow
