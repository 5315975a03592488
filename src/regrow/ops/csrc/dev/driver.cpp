// Development only: checks the kernels against naive loops in double, and measures them.
//   driver test [cases]            random geometries
//   driver bench [filter] [reps]   GFLOP/s (2 * active * output positions * batch a pass) of forward and backward
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../kernels/kernels.h"

#ifndef DRIVER_ISA
#define DRIVER_ISA isa_v3
#endif

using namespace regrow;

static Parallel threads(int n) {
  return {n, [](void*, int workers, void (*body)(void*, int), void* arg) {
#pragma omp parallel for num_threads(workers) schedule(static, 1)
            for (int w = 0; w < workers; ++w) body(arg, w);
          }, nullptr};
}

template <class T>
struct Buffer {  // exact size, 64-byte aligned, so that the address sanitizer sees every overrun
  T* p;
  int64_t n;
  explicit Buffer(int64_t count) : p(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64))), n(count) {
    for (int64_t i = 0; i < (int64_t)((count * sizeof(T) + 63) / 64 * 64 / sizeof(T)); ++i) p[i] = T(NAN);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(p); }
};

static std::mt19937_64 rng(1);
static int64_t draw(int64_t low, int64_t high) { return low + int64_t(rng() % uint64_t(high - low + 1)); }
static double normal() { static std::normal_distribution<double> d; return d(rng); }

static std::vector<int64_t> active_set(int64_t positions, double density) {
  std::vector<int64_t> flat;
  std::uniform_real_distribution<double> u;
  for (int64_t k = 0; k < positions; ++k)
    if (u(rng) < density) flat.push_back(k);
  return flat;
}

template <class T>
static double worst(const std::vector<double>& want, const T* got) {
  double scale = 1e-3, error = 0;
  for (double v : want) scale = std::max(scale, std::fabs(v));
  for (size_t i = 0; i < want.size(); ++i) {
    const double e = std::fabs(want[i] - double(got[i])) / scale;
    error = std::isfinite(e) ? std::max(error, e) : 1e30;
  }
  return error;
}

template <class T>
static double test_conv(const Kernels<T>& k, bool print) {
  ConvShape s;
  s.out_channels = draw(1, 40), s.in_channels = draw(1, 40);
  static const int common[][4] = {{3, 1, 1, 1}, {3, 2, 1, 1}, {1, 1, 0, 1}, {1, 2, 0, 1}, {5, 1, 0, 1}};
  if (draw(0, 1)) {
    const int* g = common[draw(0, 4)];
    s.kernel_h = s.kernel_w = g[0], s.stride_h = s.stride_w = g[1], s.padding_h = s.padding_w = g[2];
  } else {
    s.kernel_h = draw(1, 5), s.kernel_w = draw(1, 5), s.stride_h = draw(1, 4), s.stride_w = draw(1, 4);
    s.padding_h = draw(0, 4), s.padding_w = draw(0, 4), s.dilation_h = draw(1, 3), s.dilation_w = draw(1, 3);
  }
  int64_t H = draw(1, 19), W = draw(1, 19);
  if (draw(0, 3) == 0) H = W = draw(1, 4);
  if (conv_out_height(s, H) < 1 || conv_out_width(s, W) < 1) return 0;
  const int64_t N = draw(1, 40), OH = conv_out_height(s, H), OW = conv_out_width(s, W);
  const double densities[] = {0, 0.01, 0.05, 0.2, 0.5, 1};
  const double density = densities[draw(0, 5)];
  auto flat = active_set(s.positions(), density);
  if (s.out_channels > 3)  // an empty row
    flat.erase(std::remove_if(flat.begin(), flat.end(), [&](int64_t f) { return f / (s.positions() / s.out_channels) == 2; }), flat.end());
  const int64_t A = flat.size();
  const int workers = draw(1, 5);
  Target target = k.target;
  if (draw(0, 2) == 0) target.forward_block = draw(1, 10), target.backward_block = draw(1, 10);
  const PlanStorage storage(s, flat.data(), A, H, W, target);
  const Plan& plan = storage.plan();

  const Layout in = activation_layout(N, s.in_channels, H, W, k.lanes), out = activation_layout(N, s.out_channels, OH, OW, k.lanes);
  const int64_t nx = N * s.in_channels * H * W, ny = N * s.out_channels * OH * OW;
  Buffer<T> x(nx), dx(nx), y(ny), dy(ny), v(A), dv(A), b(s.out_channels), db(s.out_channels);
  for (Buffer<T>* t : {&x, &dy, &v, &b}) for (int64_t i = 0; i < t->n; ++i) t->p[i] = T(normal());
  std::vector<double> y_(ny), dx_(nx), dv_(A), db_(s.out_channels);
  const bool nhwc = draw(0, 1), want_dx = draw(0, 4) > 0, want_dv = draw(0, 4) > 0;
  const auto strides = [&](int64_t C, int64_t h, int64_t w) { return nhwc ? Strides{C * h * w, 1, w * C, C} : Strides{C * h * w, h * w, w, 1}; };
  const Strides sx = strides(s.in_channels, H, W), sy = strides(s.out_channels, OH, OW);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t o = 0; o < s.out_channels; ++o)
      for (int64_t p = 0; p < OH * OW; ++p) {
        const int64_t at = n * sy.n + o * sy.c + p / OW * sy.h + p % OW * sy.w;
        y_[at] = b.p[o], db_[o] += dy.p[at];
      }
  for (int64_t a = 0; a < A; ++a) {
    const int64_t kx = flat[a] % s.kernel_w, ky = flat[a] / s.kernel_w % s.kernel_h, i = flat[a] / (s.kernel_w * s.kernel_h) % s.in_channels, o = flat[a] / (s.kernel_w * s.kernel_h * s.in_channels);
    for (int64_t n = 0; n < N; ++n)
      for (int64_t oy = 0; oy < OH; ++oy)
        for (int64_t ox = 0; ox < OW; ++ox) {
          const int64_t iy = oy * s.stride_h - s.padding_h + ky * s.dilation_h, ix = ox * s.stride_w - s.padding_w + kx * s.dilation_w;
          if (iy < 0 || iy >= H || ix < 0 || ix >= W) continue;
          const int64_t ax = n * sx.n + i * sx.c + iy * sx.h + ix * sx.w, ay = n * sy.n + o * sy.c + oy * sy.h + ox * sy.w;
          y_[ay] += double(v.p[a]) * x.p[ax], dx_[ax] += double(v.p[a]) * dy.p[ay], dv_[a] += double(x.p[ax]) * dy.p[ay];
        }
  }
  const Parallel par = threads(workers);
  Buffer<T> bx(in.size()), by(out.size()), bdx(in.size()), bdy(out.size());
  Buffer<char> sf(0 + k.conv_forward_scratch(plan, N, workers)), sb(k.conv_backward_scratch(plan, N, workers, want_dx));
  k.to_blocked(x.p, sx, in, bx.p, par);
  k.to_blocked(dy.p, sy, out, bdy.p, par);
  k.conv_forward(plan, N, v.p, b.p, bx.p, by.p, sf.p, par);
  k.conv_backward(plan, N, v.p, bx.p, bdy.p, want_dx ? bdx.p : nullptr, want_dv ? dv.p : nullptr, db.p, sb.p, par);
  k.from_blocked(by.p, out, y.p, sy, par);
  double error = std::max(worst(y_, y.p), worst(db_, db.p));
  // Margins and missing images must be zero.
  double sum = 0, inside = 0;
  for (int64_t i = 0; i < by.n; ++i) sum += std::fabs(double(by.p[i]));
  for (int64_t i = 0; i < ny; ++i) inside += std::fabs(double(y.p[i]));
  if (!(std::fabs(sum - inside) <= 1e-4 * (1 + inside))) error = 2e30;
  if (want_dx) {
    k.from_blocked(bdx.p, in, dx.p, sx, par), error = std::max(error, worst(dx_, dx.p));
    sum = inside = 0;
    for (int64_t i = 0; i < bdx.n; ++i) sum += std::fabs(double(bdx.p[i]));
    for (int64_t i = 0; i < nx; ++i) inside += std::fabs(double(dx.p[i]));
    if (!(std::fabs(sum - inside) <= 1e-4 * (1 + inside))) error = 3e30;
  }
  if (want_dv) error = std::max(error, worst(dv_, dv.p));
  if (!nhwc) {
    const PixelPlanStorage pixels(s, flat.data(), A, H, W);
    Buffer<T> few(ny);
    Buffer<char> scratch(k.pixel_forward_scratch(pixels.plan(), N));
    k.pixel_forward(pixels.plan(), N, v.p, b.p, x.p, few.p, scratch.p, par);
    error = std::max(error, worst(y_, few.p));
  }
  if (print || error > (sizeof(T) == 4 ? 1e-4 : 1e-12))
    std::printf("conv N%ld %ld->%ld %ldx%ld k%ldx%ld s%ld,%ld p%ld,%ld d%ld,%ld active %ld workers %d: error %.2g\n", N, s.in_channels, s.out_channels, H, W, s.kernel_h, s.kernel_w, s.stride_h, s.stride_w, s.padding_h, s.padding_w, s.dilation_h, s.dilation_w, A, workers, error);
  return error;
}

template <class T>
static double test_linear(const Kernels<T>& k) {
  ConvShape s;
  s.out_channels = draw(1, 300), s.in_channels = draw(1, 300);
  const int64_t N = draw(0, 150), O = s.out_channels, I = s.in_channels;
  const double densities[] = {0, 0.01, 0.05, 0.2, 1};
  const auto flat = active_set(s.positions(), densities[draw(0, 4)]);
  const int64_t A = flat.size();
  const int workers = draw(1, 5);
  const PlanStorage storage(s, flat.data(), A, 1, 1, k.target);
  const int64_t xs = I + draw(0, 3), ys = O + draw(0, 3);
  Buffer<T> x(N * xs), dx(N * xs), y(N * ys), dy(N * ys), v(A), dv(A), b(O), db(O);
  for (Buffer<T>* t : {&x, &dy, &v, &b}) for (int64_t i = 0; i < t->n; ++i) t->p[i] = T(normal());
  std::vector<double> y_(N * O), dx_(N * I), dv_(A), db_(O);
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t o = 0; o < O; ++o) y_[n * O + o] = b.p[o], db_[o] += dy.p[n * ys + o];
    for (int64_t a = 0; a < A; ++a) {
      const int64_t o = flat[a] / I, i = flat[a] % I;
      y_[n * O + o] += double(v.p[a]) * x.p[n * xs + i], dx_[n * I + i] += double(v.p[a]) * dy.p[n * ys + o], dv_[a] += double(x.p[n * xs + i]) * dy.p[n * ys + o];
    }
  }
  const Parallel par = threads(workers);
  Buffer<char> sf(k.linear_forward_scratch(storage.plan(), N, workers)), sb(k.linear_backward_scratch(storage.plan(), N, workers, true));
  k.linear_forward(storage.plan(), N, v.p, b.p, x.p, xs, y.p, ys, sf.p, par);
  k.linear_backward(storage.plan(), N, v.p, x.p, xs, dy.p, ys, dx.p, xs, dv.p, db.p, sb.p, par);
  const auto dense = [&](const T* p, int64_t cols, int64_t stride) {
    std::vector<T> t;
    for (int64_t n = 0; n < N; ++n) t.insert(t.end(), p + n * stride, p + n * stride + cols);
    return t;
  };
  const double error = std::max({worst(y_, dense(y.p, O, ys).data()), worst(dx_, dense(dx.p, I, xs).data()), worst(dv_, dv.p), worst(db_, db.p)});
  if (error > (sizeof(T) == 4 ? 1e-4 : 1e-12)) std::printf("linear N%ld %ld->%ld active %ld workers %d: error %.2g\n", N, I, O, A, workers, error);
  return error;
}

static bool test_indices() {
  const auto fault = [](std::vector<int64_t> flat) {
    const std::vector<int32_t> narrow(flat.begin(), flat.end());
    const IndexCheck wide = check_indices(flat.data(), flat.size(), 10), check = check_indices(narrow.data(), narrow.size(), 10);
    return wide.fault == check.fault && wide.position == check.position ? check.fault : IndexFault(99);
  };
  return fault({}) == IndexFault::none && fault({0, 4, 9}) == IndexFault::none && fault({0, -1}) == IndexFault::negative &&
         fault({3, 10}) == IndexFault::too_large && fault({3, 3}) == IndexFault::duplicate && fault({4, 3}) == IndexFault::unsorted;
}

struct Case { const char* name; int64_t N, I, O, H, k, s, p; };
static const Case cases[] = {
    {"conv3x3:64@32", 128, 64, 64, 32, 3, 1, 1}, {"conv3x3:128@16", 128, 128, 128, 16, 3, 1, 1}, {"conv3x3:256@8", 128, 256, 256, 8, 3, 1, 1},
    {"conv3x3:512@8", 64, 512, 512, 8, 3, 1, 1}, {"conv3x3:512@4", 128, 512, 512, 4, 3, 1, 1}, {"conv3x3:512@2", 128, 512, 512, 2, 3, 1, 1},
    {"conv3x3:160@32", 32, 160, 160, 32, 3, 1, 1}, {"conv3x3s2:128-256@16", 32, 128, 256, 16, 3, 2, 1}, {"conv1x1:256-64@56", 32, 256, 64, 56, 1, 1, 0},
    {"small3x3:8-64@8", 8, 8, 64, 8, 3, 1, 1}, {"small3x3:16-64@8", 8, 16, 64, 8, 3, 1, 1},
    {"small:256-256", 128, 256, 256, 1, 1, 1, 0}, {"small:512-512", 128, 512, 512, 1, 1, 1, 0}, {"small:1024-1024", 128, 1024, 1024, 1, 1, 1, 0},
    {"conv5x5:6-16@14", 128, 6, 16, 14, 5, 1, 0},
    {"linear:784-300", 128, 784, 300, 1, 1, 1, 0}, {"linear:1024-4096", 128, 1024, 4096, 1, 1, 1, 0}, {"linear:4096-4096", 128, 4096, 4096, 1, 1, 1, 0}};

static int env(const char* name) { const char* v = std::getenv(name); return v ? std::atoi(v) : 0; }

// On a shared machine: with one thread, processor time of that thread; with more, the clock on the wall.
static double now() {
  timespec t;
  clock_gettime(env("THREADS") == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

template <class F>
static double best_seconds(int reps, F f) {
  double best = 1e30, spent = 0;
  for (int r = 0; r < reps && spent < 0.6; ++r) {
    const double t = now();
    f();
    const double dt = now() - t;
    best = std::min(best, dt), spent += dt;
  }
  return best;
}

static void bench(const char* filter, int reps) {
  const Kernels<float>& k = DRIVER_ISA();
  const int workers = env("THREADS") ? env("THREADS") : 2;
  const Parallel par = threads(workers);
  std::printf("%-22s %7s %9s %9s %9s %9s   blocks\n", "case", "density", "fwd ms", "bwd ms", "fwd GF/s", "bwd GF/s");
  for (Case c : cases) {
    if (env("BATCH")) c.N = env("BATCH");
    if (filter && !std::strstr(c.name, filter)) continue;
    std::vector<double> densities = {0.2, 0.1, 0.05, 0.01};
    if (std::getenv("DENSITY")) densities = {std::atof(std::getenv("DENSITY"))};
    for (double density : densities) {
      ConvShape s;
      s.in_channels = c.I, s.out_channels = c.O, s.kernel_h = s.kernel_w = c.k, s.stride_h = s.stride_w = c.s, s.padding_h = s.padding_w = c.p;
      const auto flat = active_set(s.positions(), density);
      Target target = k.target;
      target.forward_block = env("FBLOCK"), target.backward_block = env("BBLOCK"), target.tile_height = env("TH"), target.tile_width = env("TW");
      const PlanStorage storage(s, flat.data(), flat.size(), c.H, c.H, target);
      const Plan& plan = storage.plan();
      const bool linear = c.H == 1;
      const Layout in = activation_layout(c.N, c.I, c.H, c.H, k.lanes), out = activation_layout(c.N, c.O, plan.out_height, plan.out_width, k.lanes);
      Buffer<float> x(in.size()), dx(in.size()), y(out.size()), dy(out.size()), v(flat.size()), dv(flat.size());
      for (Buffer<float>* t : {&x, &dx, &y, &dy, &v}) for (int64_t i = 0; i < t->n; ++i) t->p[i] = float(i % 17) * 0.1f - 0.8f;
      Buffer<char> sf(linear ? k.linear_forward_scratch(plan, c.N, workers) : k.conv_forward_scratch(plan, c.N, workers));
      Buffer<char> sb(linear ? k.linear_backward_scratch(plan, c.N, workers, true) : k.conv_backward_scratch(plan, c.N, workers, true));
      double f, b;
      if (linear) {
        f = best_seconds(reps, [&] { k.linear_forward(plan, c.N, v.p, nullptr, x.p, c.I, y.p, c.O, sf.p, par); });
        b = best_seconds(reps, [&] { k.linear_backward(plan, c.N, v.p, x.p, c.I, dy.p, c.O, dx.p, c.I, dv.p, nullptr, sb.p, par); });
      } else {
        f = best_seconds(reps, [&] { k.conv_forward(plan, c.N, v.p, nullptr, x.p, y.p, sf.p, par); });
        b = best_seconds(reps, [&] { k.conv_backward(plan, c.N, v.p, x.p, dy.p, dx.p, dv.p, nullptr, sb.p, par); });
      }
      const double flops = 2.0 * double(flat.size()) * double(plan.out_height * plan.out_width * c.N);
      std::printf("%-22s %7.2f %9.3f %9.3f %9.1f %9.1f   %dx%d %dx%d tile %dx%d, %.1f B/weight\n", c.name, density, f * 1e3, b * 1e3, flops / f * 1e-9, 2 * flops / b * 1e-9,
                  plan.forward.groups, plan.forward.blocks, plan.classes[0].list.groups, plan.classes[0].list.blocks, plan.forward_tile.height, plan.forward_tile.width, double(plan.bytes) / double(flat.size()));
      std::fflush(stdout);
    }
  }
}

int main(int argc, char** argv) {
  if (argc > 1 && !std::strcmp(argv[1], "bench")) return bench(argc > 2 ? argv[2] : nullptr, argc > 3 ? std::atoi(argv[3]) : 200), 0;
  const int count = argc > 2 ? std::atoi(argv[2]) : 200;
  if (!test_indices()) return std::printf("check_indices is wrong\n"), 1;
  double error32 = 0, error64 = 0;
  for (int c = 0; c < count; ++c) {
    error32 = std::max({error32, test_conv<float>(DRIVER_ISA(), false), test_linear<float>(DRIVER_ISA())});
    error64 = std::max({error64, test_conv<double>(DRIVER_ISA(), false), test_linear<double>(DRIVER_ISA())});
  }
  std::printf("%d cases: largest error float %.2g, double %.2g\n", count, error32, error64);
  return error32 > 1e-4 || error64 > 1e-12;
}
