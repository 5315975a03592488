// The instruction set in use: chosen once, by Python, when the library is loaded.
#pragma once

#include "kernels/kernels.h"

namespace regrow {

const Isa& isa();

// Its kernels for elements of type T.
template <class T>
const Kernels<T>& kernels() {
  return isa();
}

}  // namespace regrow
