// From a tensor's dtype to the type of its elements: the one door.
#pragma once

#include <string>

#include "check.h"
#include "kernels/dtypes.h"

namespace regrow {

template <class T>
constexpr ScalarType scalar_type = torch::headeronly::CppTypeToScalarType<T>::value;

// The names of all, e.g. "float32 or float64".
template <class T, class... Rest>
std::string dtype_names(const char* between, Types<T, Rest...>) {
  std::string names = dtype_name(scalar_type<T>);
  ((names += between, names += dtype_name(scalar_type<Rest>)), ...);
  return names;
}

template <class Body, class T, class... Rest>
auto of_dtype(const char* op, const char* name, ScalarType type, const Body& body, Types<T, Rest...>) {
  if (type == scalar_type<T>) return body(T{});
  if constexpr (sizeof...(Rest) > 0) return of_dtype(op, name, type, body, Types<Rest...>{});
  fail(op, ": ", name, " is ", dtype_name(type), ", wanted ", dtype_names(" or ", Dtypes{}), "; call .float() on it");
}

// body(T{}) for the T of that dtype. `name`: what has it, for the error if there is none.
template <class Body>
auto of_dtype(const char* op, const char* name, ScalarType type, const Body& body) {
  return of_dtype(op, name, type, body, Dtypes{});
}

// The same for an operator's input.
template <class Body>
auto of_dtype(const char* op, const Tensor& input, const Body& body) {
  check_cpu(op, "input", input);
  return of_dtype(op, "input", input.scalar_type(), body);
}

}  // namespace regrow
