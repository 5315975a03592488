// Blocked activations as tensors: one dimension, activation_layout(...).size() elements.
#pragma once

#include "dtype.h"
#include "isa.h"
#include "ops.h"

#include <cstdint>

namespace regrow {

// The layout of a (N, C, H, W) activation.
template <class T>
Layout blocked_layout(const char* op, const Ints& shape, int64_t lanes) {
  if (shape.size() != 4) fail(op, ": shape has ", shape.size(), " numbers, wanted (N, C, H, W)");
  for (int64_t size : shape)
    if (size < 0) fail(op, ": shape holds ", size, ", wanted sizes of at least 0");
  if (lanes != kernels<T>().lanes)
    fail(op, ": ", lanes, " lanes, but the instruction set in use (", isa().name, ") has ", kernels<T>().lanes, " for ",
         dtype_name(scalar_type<T>), "; take regrow.ops.lanes(dtype)");
  return activation_layout(shape[0], shape[1], shape[2], shape[3], lanes);
}

inline void check_blocked(const char* op, const char* name, const Tensor& tensor, const Layout& layout,
                         ScalarType type) {
  check_real(op, name, tensor, type);
  check_contiguous(op, name, tensor);
  if (tensor.dim() != 1 || tensor.numel() != layout.size())
    fail(op, ": ", name, " has shape ", shape_text(tensor), ", but (", layout.batch, ", ", layout.channels, ", ",
         layout.height, ", ", layout.width, ") in blocks of ", layout.lanes, " takes (", layout.size(), ",)");
  if (tensor.numel() > 0 && reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 64 != 0)
    fail(op, ": ", name, " does not begin at a multiple of 64 bytes, which vector loads need; pass ", name, ".clone()");
}

}  // namespace regrow
