// The contract between the kernels and whoever binds them. No torch, no standard containers, raw pointers only.
//
// Build: compile kernels.cpp once per instruction set, with -DREGROW_ISA=v4 | v3 | base and the matching -march;
// compile plan.cpp once, with baseline flags. Choose at run time: isa_v4(), isa_v3() or isa_base().
// (Only plan.cpp may use the standard library's templates: an AVX-512 copy of std::vector must never be the one
// that the linker keeps.)
//
// Legend: N batch, C or I input channels, O output channels, L lanes; `active` = number of active weights;
// "parameter order" is defined in plan.h. All functions are deterministic for a given number of workers.
// Nothing is allocated: scratch is asked for with the *_scratch functions (bytes; 64-byte aligned; need not be
// initialised; may be null when 0).
#pragma once

#include <cstddef>
#include <cstdint>

#include "dtypes.h"
#include "geometry.h"
#include "pixel_plan.h"
#include "plan.h"

namespace regrow {

// How to run `workers` pieces of work: run() must call body(arg, w) exactly once for each w in [0, workers), in any
// order, on any thread, and return when all are done. workers decides how work is split (and thereby the bits).
struct Parallel {
  int workers = 1;
  void (*run)(void* context, int workers, void (*body)(void* arg, int worker), void* arg) = nullptr;
  void* context = nullptr;
};

// Element strides of an ordinary tensor [N, C, H, W]: NCHW, channels_last, or anything else.
struct Strides {
  int64_t n = 0, c = 0, h = 0, w = 0;
};

// The affine map of each channel: max(scale * (x - center) + shift, 0 if relu). Null: 1, 0 and 0.
template <class T>
struct ChannelAffine {
  const T* scale = nullptr;
  const T* center = nullptr;
  const T* shift = nullptr;
  bool relu = false;
};

// Dropout's noise: an element stays where 32 bits, made of the seed's halves and its place, are not below `drop`.
struct Noise {
  uint32_t low = 0, high = 0;
  uint32_t drop = 0;
};

// The rows (or columns) that one row (column) of a pool's output looks at: begin, begin + step, ... below end, all inside
// the plane. An average divides by the product of the two extents.
struct Window {
  int64_t begin, end, step, extent;
};
struct Windows {
  const Window* rows = nullptr;     // one for each row of the output
  const Window* columns = nullptr;  // one for each column
};

// A BatchNorm whose gradient is asked for; weight null: 1. In training the moments depend on x.
template <class T>
struct NormGradient {
  const T* mean;
  const T* invstd;
  const T* weight;
  bool training;
};

template <class T>
struct Kernels {
  int lanes;      // L of conv layouts: pass it to activation_layout
  Target target;  // pass it to PlanStorage

  // src [N, C, H, W] -> dst[layout.size()], margins, lanes of the batch tail and tail pixels zero-filled.
  void (*to_blocked)(const T* src, Strides strides, Layout layout, T* dst, Parallel parallel);
  // The reverse; margins and tails are dropped. (Each is the other's backward.)
  void (*from_blocked)(const T* src, Layout layout, T* dst, Strides strides, Parallel parallel);

  // y = conv(x, weight) + bias.  values[active] in parameter order; bias[O] or null.
  // x: activation_layout(N, I, H, W, L); y: activation_layout(N, O, H', W', L). H, W as in the plan.
  size_t (*conv_forward_scratch)(const Plan& plan, int64_t batch, int workers);
  void (*conv_forward)(const Plan& plan, int64_t batch, const T* values, const T* bias, const T* x, T* y,
                       void* scratch, Parallel parallel);

  // The same for few images, x [N, I, H, W] and y [N, O, H', W'] contiguous.
  size_t (*pixel_forward_scratch)(const PixelPlan& plan, int64_t batch);
  void (*pixel_forward)(const PixelPlan& plan, int64_t batch, const T* values, const T* bias, const T* x, T* y,
                        void* scratch, Parallel parallel);

  // Gradients of conv_forward. dx (layout of x), dvalues[active] (parameter order), dbias[O]: null = not wanted.
  // values is read only for dx (and may be null otherwise).
  size_t (*conv_backward_scratch)(const Plan& plan, int64_t batch, int workers, bool want_dx);
  void (*conv_backward)(const Plan& plan, int64_t batch, const T* values, const T* x, const T* dy, T* dx,
                        T* dvalues, T* dbias, void* scratch, Parallel parallel);

  // y[N, O] = x[N, I] weight^T + bias, ordinary row-major tensors with row strides in elements. The plan is that of
  // a 1x1 kernel on a 1x1 plane.
  size_t (*linear_forward_scratch)(const Plan& plan, int64_t batch, int workers);
  void (*linear_forward)(const Plan& plan, int64_t batch, const T* values, const T* bias, const T* x,
                         int64_t x_stride, T* y, int64_t y_stride, void* scratch, Parallel parallel);

  size_t (*linear_backward_scratch)(const Plan& plan, int64_t batch, int workers, bool want_dx);
  void (*linear_backward)(const Plan& plan, int64_t batch, const T* values, const T* x, int64_t x_stride,
                          const T* dy, int64_t dy_stride, T* dx, int64_t dx_stride, T* dvalues, T* dbias,
                          void* scratch, Parallel parallel);

  // y = max(affine(x) + residual, floor); residual null: 0.
  void (*affine)(const T* x, Layout layout, ChannelAffine<T> affine, const T* residual, T* y, Parallel parallel);
  // dx = dy where affine(x) is above its floor.
  void (*relu_backward)(const T* dy, const T* x, Layout layout, ChannelAffine<T> affine, T* dx, Parallel parallel);

  // y = affine(x) * factor where the noise lets it stay, else 0.
  void (*dropout)(const T* x, Layout layout, ChannelAffine<T> affine, Noise noise, T factor, T* y, Parallel parallel);

  // The largest affine(x) of each window; first of equals, NaN before all. Backward gives dy to that pixel, and where
  // `gated` only if it is above the floor.
  void (*max_pool)(const T* x, Layout in, ChannelAffine<T> affine, Layout out, Windows windows, T* y,
                   Parallel parallel);
  void (*max_pool_backward)(const T* dy, const T* x, Layout in, ChannelAffine<T> affine, bool gated, Layout out,
                            Windows windows, T* dx, Parallel parallel);
  void (*avg_pool)(const T* x, Layout in, Layout out, Windows windows, T* y, Parallel parallel);
  void (*avg_pool_backward)(const T* dy, Layout in, Layout out, Windows windows, T* dx, Parallel parallel);

  // Mean and (biased) variance of each channel over images and pixels.
  void (*moments)(const T* x, Layout layout, double* mean, double* variance, Parallel parallel);
  // Gradients of a BatchNorm of x, of which `affine` is what became of it: dy comes back through the ReLU of affine
  // and, if windows is not null, through a max pool with output layout `out`. dx null: not wanted.
  void (*norm_backward)(const T* dy, const T* x, Layout in, NormGradient<T> norm, ChannelAffine<T> affine, Layout out,
                        const Windows* windows, T* dx, T* dweight, T* dbias, Parallel parallel);
};

template <class>
struct KernelsOf;
template <class... T>
struct KernelsOf<Types<T...>> : Kernels<T>... {};

// What is compiled for one instruction set. It converts to the Kernels<T> of each dtype.
struct Isa : KernelsOf<Dtypes> {
  const char* name;  // "v4" (x86-64-v4), "v3" (x86-64-v3), "base"
};

const Isa& isa_v4();    // needs AVX-512 F, BW, CD, DQ, VL
const Isa& isa_v3();    // needs AVX2 and FMA
const Isa& isa_base();  // runs everywhere, aarch64 included

}  // namespace regrow
