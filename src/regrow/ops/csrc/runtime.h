// What every operator needs from torch: output tensors, threads, scratch memory.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>

#include "kernels/kernels.h"

namespace regrow {

// An uninitialised contiguous CPU tensor. (Straight to the C shim: aten::empty by name costs a schema search.)
torch::stable::Tensor empty(std::initializer_list<int64_t> sizes, torch::headeronly::ScalarType type);

// torch's own threads, as many as `work` (multiply-adds) is worth.
Parallel threads_for(double work);

// A buffer of this thread, 64-byte aligned, valid until the next call; null when bytes is 0. It is kept, because the
// default allocator returns large buffers to the system and pays a page fault for each page of the next one.
void* scratch(size_t bytes);

}  // namespace regrow
