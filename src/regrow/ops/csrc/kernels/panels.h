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

// values (parameter order) -> backward list order.
template <class T>
inline void gather_backward(const Plan& plan, const T* values, T* out, Parallel parallel) {
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range range = share(plan.active, worker, parallel.workers);
    for (int64_t k = range.begin; k < range.end; ++k) out[k] = values[plan.to_parameter[k]];
  });
}

// Sums of `copies` workers (backward list order) -> parameter order; always added in the order of workers.
template <class T>
inline void scatter_weight_gradient(const Plan& plan, const T* sums, int64_t copies, T* dvalues, Parallel parallel) {
  each_worker(parallel, parallel.workers, [&](int worker) {
    const Range range = share(plan.active, worker, parallel.workers);
    for (int64_t k = range.begin; k < range.end; ++k) {
      T sum = sums[k];
      for (int64_t w = 1; w < copies; ++w) sum += sums[w * plan.active + k];
      dvalues[plan.to_parameter[k]] = sum;
    }
  });
}

}  // namespace REGROW_ISA
}  // namespace regrow
