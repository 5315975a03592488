// Splitting work: worker w of n gets one contiguous range, so results depend on nothing but n.
#pragma once

#include "kernels.h"

namespace regrow {
namespace REGROW_ISA {

struct Range {
  int64_t begin, end;
};
inline Range share(int64_t count, int worker, int workers) {
  return {count * worker / workers, count * (worker + 1) / workers};
}

// Calls body(worker) once for every worker.
template <class Body>
inline void each_worker(const Parallel& parallel, int workers, const Body& body) {
  if (workers <= 1 || parallel.run == nullptr) {
    for (int w = 0; w < workers; ++w) body(w);
    return;
  }
  parallel.run(parallel.context, workers,
               [](void* arg, int worker) { (*static_cast<const Body*>(arg))(worker); }, const_cast<Body*>(&body));
}

// Cuts the caller's scratch into 64-byte aligned pieces; an empty piece is null. With a null base it only counts.
class Scratch {
 public:
  explicit Scratch(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t count) {
    T* piece = base_ && count > 0 ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace REGROW_ISA
}  // namespace regrow
