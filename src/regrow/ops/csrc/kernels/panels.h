// The order in which a worker meets tiles and panels, and the weight vectors in list order.
#pragma once

#include "convert.h"
#include "plan.h"
#include "work.h"

namespace regrow {
namespace REGROW_ISA {

// Workers share tiles where there are enough of them, else groups of channels. With groups, no two workers ever
// touch the same weight, so they can share one weight gradient.
inline bool share_channels(const ActiveList& list, int64_t tiles, int workers) {
  return list.groups >= workers && tiles < 8 * static_cast<int64_t>(workers);
}

inline int64_t weights_before(const ActiveList& list, int64_t group) {
  return list.segments[list.panel[group * list.blocks]].begin - list.segments[0].begin;
}

// Groups of one worker: about equal numbers of active weights.
inline Range share_groups(const ActiveList& list, int worker, int workers) {
  const int64_t active = weights_before(list, list.groups);
  const auto first = [&](int64_t w) -> int64_t {
    if (active == 0) return list.groups * w / workers;
    int64_t g = 0;
    while (g < list.groups && weights_before(list, g) + weights_before(list, g + 1) < 2 * (active * w / workers)) ++g;
    return w == workers ? list.groups : g;
  };
  return {first(worker), first(worker + 1)};
}

// Calls run(tile, panel) for all that belongs to this worker.
template <class Run>
inline void each_panel(const ActiveList& list, int64_t tiles, int worker, int workers, const Run& run) {
  if (share_channels(list, tiles, workers)) {
    const Range groups = share_groups(list, worker, workers);
    for (int64_t panel = groups.begin * list.blocks; panel < groups.end * list.blocks; ++panel)
      for (int64_t tile = 0; tile < tiles; ++tile) run(tile, panel);
  } else {
    const Range mine = share(tiles, worker, workers);
    for (int64_t tile = mine.begin; tile < mine.end; ++tile)
      for (int64_t panel = 0; panel < int64_t(list.groups) * list.blocks; ++panel) run(tile, panel);
  }
}

// values (parameter order) -> forward list order: one run per segment.
template <class T>
inline void gather_forward(const ActiveList& list, const T* values, T* out, Parallel parallel) {
  const int64_t segments = list.panel[int64_t(list.groups) * list.blocks];
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range range = share(segments, worker, parallel.workers);
    for (int64_t s = range.begin; s < range.end; ++s) {
      const Segment& segment = list.segments[s];
      const int32_t count = list.segments[s + 1].begin - segment.begin;
      for (int32_t k = 0; k < count; ++k) out[segment.begin + k] = values[segment.source + k];
    }
  });
}

// values (parameter order) -> backward list order, weights [range).
template <class T>
inline void gather_backward(const Plan& plan, Range range, const T* values, T* out) {
  for (int64_t k = range.begin; k < range.end; ++k) *out++ = values[plan.to_parameter[k]];
}

// Sums of all workers (backward list order) -> parameter order; always added in the order of workers.
template <class T>
inline void scatter_backward(const Plan& plan, Range range, const T* sums, int64_t copies, int64_t copy_size,
                             T* dvalues) {
  for (int64_t k = range.begin; k < range.end; ++k, ++sums) {
    T sum = *sums;
    for (int64_t w = 1; w < copies; ++w) sum += sums[w * copy_size];
    dvalues[plan.to_parameter[k]] = sum;
  }
}

// What backward keeps beside its tensors: all weights for a worker that owns tiles, one panel of them, which stays in
// the cache, for a worker that owns channels.
template <class T>
struct WeightScratch {
  T* values;
  T* dw;
  bool by_channel;
  int64_t size;  // weights of one worker's dw
  WeightScratch(const Plan& plan, bool by_channel, int workers, bool want_dx, Scratch& scratch)
      : by_channel(by_channel), size(0) {
    if (by_channel) {
      for (int64_t c = 0; c < plan.class_count; ++c)
        if (plan.classes[c].list.largest_panel > size) size = plan.classes[c].list.largest_panel;
    } else {
      size = plan.active;
    }
    size = (size + 15) / 16 * 16;  // workers write to different cache lines
    values = scratch.take<T>(want_dx ? (by_channel ? workers : 1) * size : 0);
    dw = scratch.take<T>(workers * size);
  }
};

// Backward of one residue class for a worker that owns channels. run(tile, panel, first_weight, values, dw).
template <class T, class Run>
inline void backward_by_channel(const Plan& plan, const ActiveList& list, int64_t tiles, int worker, int workers,
                                const WeightScratch<T>& own, const T* parameters, T* dvalues, const Run& run) {
  const Range groups = share_groups(list, worker, workers);
  T* const values = own.values ? own.values + worker * own.size : nullptr;
  T* const dw = own.dw + worker * own.size;
  for (int64_t panel = groups.begin * list.blocks; panel < groups.end * list.blocks; ++panel) {
    const Range weights{list.segments[list.panel[panel]].begin, list.segments[list.panel[panel + 1]].begin};
    if (values) gather_backward(plan, weights, parameters, values);
    zero(dw, weights.end - weights.begin);
    for (int64_t tile = 0; tile < tiles; ++tile) run(tile, panel, weights.begin, values, dw);
    if (dvalues) scatter_backward(plan, weights, dw, 1, 0, dvalues);
  }
}

// The same for a worker that owns tiles; values must have been gathered and dw zeroed.
template <class T, class Run>
inline void backward_by_tile(const ActiveList& list, int64_t tiles, int worker, int workers,
                             const WeightScratch<T>& own, const Run& run) {
  T* const dw = own.dw + worker * own.size;
  const Range mine = share(tiles, worker, workers);
  for (int64_t tile = mine.begin; tile < mine.end; ++tile)
    for (int64_t panel = 0; panel < int64_t(list.groups) * list.blocks; ++panel) run(tile, panel, 0, own.values, dw);
}

// Before and after tiles that are owned by workers.
template <class T>
inline void begin_by_tile(const Plan& plan, const WeightScratch<T>& own, const T* values, Parallel parallel) {
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range range = share(plan.active, worker, parallel.workers);
    if (own.values) gather_backward(plan, range, values, own.values + range.begin);
    zero(own.dw + worker * own.size, plan.active);
  });
}
template <class T>
inline void finish_by_tile(const Plan& plan, const WeightScratch<T>& own, T* dvalues, Parallel parallel) {
  if (dvalues == nullptr) return;
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range range = share(plan.active, worker, parallel.workers);
    scatter_backward(plan, range, own.dw + range.begin, parallel.workers, own.size, dvalues);
  });
}

}  // namespace REGROW_ISA
}  // namespace regrow
