// Development only: what Linear layers would save if they handed activations on in lanes instead of rows. Times the
// kernels and ReLUs of an MLP's forward and backward pass both ways, in turn, on one thread: rows between layers, as
// now, and lanes, with which the kernels read and write activations where they are. Processor time, as JSON.
//
//   g++ -std=gnu++20 -O3 -march=x86-64-v3 -DREGROW_ISA=v3 -Wno-psabi lanes.cpp ../kernels/plan.cpp -o /tmp/lanes
//   python benchmarks/mlp_step.py --lanes /tmp/lanes
#include "../kernels/linear.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <random>
#include <vector>

using namespace regrow;
using namespace regrow::REGROW_ISA;

namespace {

double now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return 1e3 * t.tv_sec + 1e-6 * t.tv_nsec;
}

struct Buffer {
  std::unique_ptr<float, void (*)(void*)> data{nullptr, std::free};
  Buffer(size_t count, int seed) {
    data.reset(static_cast<float*>(std::aligned_alloc(64, (count * sizeof(float) + 127) / 64 * 64)));
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < count; ++i) data.get()[i] = normal(generator) / 8;
  }
  operator float*() const { return data.get(); }
};

PlanStorage make_plan(int64_t in, int64_t out, double density, int64_t& active) {
  std::vector<int32_t> flat;
  std::mt19937 generator(0);
  std::uniform_real_distribution<> uniform;
  for (int64_t i = 0; i < in * out; ++i)
    if (uniform(generator) < density) flat.push_back(static_cast<int32_t>(i));
  active = static_cast<int64_t>(flat.size());
  const Target target{.lanes = kLanes<float>, .element_size = 4, .max_tile = kMaxTile, .max_tile_rows = kTileRows<float>};
  return PlanStorage({.out_channels = out, .in_channels = in}, flat.data(), active, 1, 1, target);
}

constexpr Parallel kOne{1, nullptr, nullptr};

struct Layer {
  int64_t in, out, active, batch;
  PlanStorage storage;
  Buffer w, b, dw, db, x, dx, y, dy, own_x, own_y;
  Layer(int64_t in, int64_t out, int64_t batch)
      : in(in), out(out), batch(batch), storage(make_plan(in, out, 0.05, active)), w(active, 1), b(out, 2),
        dw(active, 3), db(out, 4), x(size(in), 5), dx(size(in), 6), y(size(out), 7), dy(size(out), 8),
        own_x(size(in), 9), own_y(size(out), 10) {}
  size_t size(int64_t features) const {
    const Layout layout = linear_layout<float>(batch, features);
    return layout.blocks() * layout.block_size();
  }

  // Where a side is in rows it is transposed, as in linear.h; where it is in lanes it is used as it is.
  void forward(bool x_lanes, bool y_lanes) const {
    const Plan& plan = storage.plan();
    const Layout from = linear_layout<float>(batch, in), to = linear_layout<float>(batch, out);
    const ForwardJob<float> job{.list = plan.forward, .values = w, .gathered = false, .bias = b, .pixel = from.lanes,
                                .x_row = 0, .x_step = kLanes<float>, .y_plane = to.lanes, .y_row = 0};
    const auto kernel = forward_kernel<float>(linear_tile<float>(from), 1);
    for (int64_t n = 0; n < from.blocks(); ++n) {
      float* const block_x = x_lanes ? x + n * from.block_size() : own_x;
      float* const block_y = y_lanes ? y + n * to.block_size() : own_y;
      if (!x_lanes) to_lanes<float>(from, n, {0, in}, x, in, block_x);
      each_panel_by_block(plan.forward, [&](int64_t panel) { kernel(job, {block_x, block_y, kLanes<float>}, panel); });
      if (!y_lanes) from_lanes<float>(to, n, {0, out}, block_y, y, out);
    }
  }
  void backward(bool x_lanes, bool dy_lanes, bool want_dx, float* values, float* own_dx, float* sums) const {
    const Plan& plan = storage.plan();
    const Layout from = linear_layout<float>(batch, in), to = linear_layout<float>(batch, out);
    const ActiveList& list = plan.classes[0].list;
    sum_rows<float>(to, dy, out, db, kOne);  // in lanes it would read as much
    gather_backward<float>(plan, {0, active}, w, values);
    zero(sums, active);
    const BackwardJob<float> job{.list = list, .values = values, .first_weight = 0, .pixel = to.lanes,
                                 .x_plane = from.lanes, .x_row = 0, .x_step = kLanes<float>, .dy_row = 0};
    const auto kernel = backward_kernel<float>(linear_tile<float>(from), 1, want_dx);
    for (int64_t n = 0; n < from.blocks(); ++n) {
      float* const block_x = x_lanes ? x + n * from.block_size() : own_x;
      float* const block_dx = x_lanes ? dx + n * from.block_size() : own_dx;
      float* const block_dy = dy_lanes ? dy + n * to.block_size() : own_y;
      if (!dy_lanes) to_lanes<float>(to, n, {0, out}, dy, out, block_dy);
      if (!x_lanes) to_lanes<float>(from, n, {0, in}, x, in, block_x);
      const BackwardTile<float> tile{.dy = block_dy, .x = block_x, .dx = want_dx ? block_dx : nullptr, .dw = sums};
      each_panel_by_block(list, [&](int64_t panel) { kernel(job, tile, panel); });
      if (want_dx && !x_lanes) from_lanes<float>(from, n, {0, in}, block_dx, dx, in);
    }
    scatter_backward<float>(plan, {0, active}, sums, 1, 0, dw);
  }
};

void step(const std::vector<std::unique_ptr<Layer>>& layers, bool lanes, float* values, float* own_dx, float* sums) {
  const size_t count = layers.size();
  for (size_t l = 0; l < count; ++l) {
    layers[l]->forward(lanes && l > 0, lanes && l + 1 < count);
    if (l + 1 == count) break;
    const float* y = layers[l]->y;
    float* x = layers[l + 1]->x;
    for (size_t i = 0, n = layers[l]->size(layers[l]->out); i < n; ++i) x[i] = y[i] > 0 ? y[i] : 0;
  }
  for (size_t l = count; l-- > 0;) {
    layers[l]->backward(lanes && l > 0, lanes && l + 1 < count, l > 0, values, own_dx, sums);
    if (l == 0) break;
    const float *x = layers[l]->x, *dx = layers[l]->dx;
    float* dy = layers[l - 1]->dy;
    for (size_t i = 0, n = layers[l]->size(layers[l]->in); i < n; ++i) dy[i] = x[i] > 0 ? dx[i] : 0;
  }
}

double quantile(std::vector<double> values, double at) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(at * static_cast<double>(values.size()))];
}

}  // namespace

int main() {
  const std::vector<std::vector<int64_t>> networks{{784, 300, 100, 10}, {784, 1024, 1024, 10}, {784, 2048, 2048, 10}};
  const char* separator = "";
  std::printf("[");
  for (const auto& sizes : networks)
    for (int64_t batch : {128, 1024}) {
      std::vector<std::unique_ptr<Layer>> layers;
      size_t active = 0, features = 0;
      for (size_t l = 0; l + 1 < sizes.size(); ++l) {
        layers.push_back(std::make_unique<Layer>(sizes[l], sizes[l + 1], batch));
        active = std::max<size_t>(active, layers[l]->active), features = std::max(features, layers[l]->size(sizes[l]));
      }
      const Buffer values(active + 16, 1), sums(active + 16, 2), own_dx(features, 3);
      std::vector<double> rows, lanes, ratios;
      for (const double end = now() + 3000; now() < end;) {  // an untimed step before each
        double took[2];
        for (int kind = 0; kind < 2; ++kind) {
          step(layers, kind == 1, values, own_dx, sums);
          const double start = now();
          step(layers, kind == 1, values, own_dx, sums);
          took[kind] = now() - start;
        }
        rows.push_back(took[0]), lanes.push_back(took[1]), ratios.push_back(took[0] / took[1]);
      }
      std::printf("%s\n {\"sizes\": \"%ld-%ld-%ld-%ld\", \"batch\": %ld, \"rows_ms\": %.4f, \"lanes_ms\": %.4f, "
                  "\"ratio\": %.4f, \"noise\": %.4f}", separator, long(sizes[0]), long(sizes[1]), long(sizes[2]),
                  long(sizes[3]), long(batch), quantile(rows, 0.5), quantile(lanes, 0.5), quantile(ratios, 0.5),
                  (quantile(ratios, 0.75) - quantile(ratios, 0.25)) / quantile(ratios, 0.5));
      separator = ",";
    }
  std::printf("\n]\n");
}
