// What operators on activations take beside them: the affine map of each channel, and the windows of a pool.
#pragma once

#include <optional>

#include "dtype.h"
#include "isa.h"
#include "ops.h"

namespace regrow {

using Channel = std::optional<Tensor>;  // one number for each channel

template <class T>
const T* channel_data(const char* op, const char* name, const Channel& values, const Layout& layout) {
  if (!values) return nullptr;
  check_real(op, name, *values, scalar_type<T>);
  check_contiguous(op, name, *values);
  check_length(op, name, *values, layout.channels);
  return values->const_data_ptr<T>();
}

template <class T>
ChannelAffine<T> channel_affine(const char* op, const Channel& scale, const Channel& center, const Channel& shift,
                                bool relu, const Layout& layout) {
  return {channel_data<T>(op, "scale", scale, layout), channel_data<T>(op, "center", center, layout),
          channel_data<T>(op, "shift", shift, layout), relu};
}

// Windows as a tensor: int64, (rows + columns of the output, 4), each begin, end, step, extent.
static_assert(sizeof(Window) == 4 * sizeof(int64_t));

inline void check_windows(const char* op, const Window* windows, int64_t count, int64_t size) {
  for (int64_t i = 0; i < count; ++i) {
    const Window& w = windows[i];
    if (w.begin < 0 || w.begin >= w.end || w.end > size || w.step < 1 || w.extent == 0)
      fail(op, ": window ", i, " is (", w.begin, ", ", w.end, ", ", w.step, ", ", w.extent,
           "), wanted 0 <= begin < end <= ", size, ", step >= 1, extent not 0");
  }
}

// `out` is (rows, columns) of the output.
inline Windows windows_of(const char* op, const Tensor& windows, const Ints& out, const Layout& in) {
  check_cpu(op, "windows", windows);
  check_dtype(op, "windows", windows, ScalarType::Long);
  check_contiguous(op, "windows", windows);
  if (out.size() != 2 || out[0] < 1 || out[1] < 1) fail(op, ": out_size is not (rows, columns) of at least 1");
  check_length(op, "windows", windows, 4 * (out[0] + out[1]));
  const auto* rows = reinterpret_cast<const Window*>(windows.const_data_ptr<int64_t>());
  check_windows(op, rows, out[0], in.height);
  check_windows(op, rows + out[0], out[1], in.width);
  return {rows, rows + out[0]};
}

inline Layout pooled(const Layout& in, const Ints& out) {
  return activation_layout(in.batch, in.channels, out[0], out[1], in.lanes);
}

}  // namespace regrow
