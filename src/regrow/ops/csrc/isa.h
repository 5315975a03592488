// The instruction set in use: chosen once, by Python, when the library is loaded.
#pragma once

#include <torch/headeronly/core/ScalarType.h>

#include "kernels/kernels.h"

namespace regrow {

const Isa& isa();

template <class T>
const Kernels<T>& kernels();

template <>
inline const Kernels<float>& kernels<float>() {
  return isa().f32;
}
template <>
inline const Kernels<double>& kernels<double>() {
  return isa().f64;
}

template <class T>
constexpr torch::headeronly::ScalarType scalar_type =
    sizeof(T) == 8 ? torch::headeronly::ScalarType::Double : torch::headeronly::ScalarType::Float;

}  // namespace regrow
