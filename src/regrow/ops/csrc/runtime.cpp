#include "runtime.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "check.h"

namespace regrow {
namespace {

// Below this many multiply-adds a thread costs more to wake than it brings.
constexpr double kWorkPerThread = 65536;

void run_on_torch_threads(void*, int workers, void (*body)(void*, int), void* arg) {
  if (workers == 1) return body(arg, 0);
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) body(arg, static_cast<int>(worker));
  });
}

struct Buffer {
  std::unique_ptr<void, void (*)(void*)> data{nullptr, std::free};
  size_t bytes = 0;
};

int32_t shim_dtype(ScalarType type) {
  return torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
}

}  // namespace

torch::stable::Tensor empty(std::initializer_list<int64_t> sizes, torch::headeronly::ScalarType type) {
  int64_t strides[8], stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= std::max<int64_t>(sizes.begin()[d], 1);
  }
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides,
                                                         shim_dtype(type), aoti_torch_device_type_cpu(), 0, &handle));
  return torch::stable::Tensor(handle);
}

Parallel threads_for(double work) {
  const double worth = std::max(1.0, work / kWorkPerThread);
  const int threads = static_cast<int>(torch::stable::get_num_threads());
  return {static_cast<int>(std::min<double>(worth, threads)), run_on_torch_threads, nullptr};
}

void* scratch(size_t bytes) {
  thread_local Buffer buffer;
  if (bytes == 0) return nullptr;
  if (buffer.bytes < bytes) {
    const size_t rounded = (bytes + 63) / 64 * 64;
    buffer.data.reset();
    buffer.bytes = 0;
    buffer.data.reset(std::aligned_alloc(64, rounded));
    if (!buffer.data) throw std::bad_alloc();
    buffer.bytes = rounded;
  }
  return buffer.data.get();
}

}  // namespace regrow
