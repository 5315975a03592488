// Errors that say what was found, what is wanted and how to get there; and the checks that raise them.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <stdexcept>

namespace regrow {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

inline const char* dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Half: return "float16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    default: return "another dtype";
  }
}

inline std::string shape_text(const Tensor& tensor) {
  std::ostringstream text;
  text << '(';
  for (int64_t d = 0; d < tensor.dim(); ++d) text << (d ? ", " : "") << tensor.size(d);
  text << ')';
  return text.str();
}

inline void check_cpu(const char* op, const char* name, const Tensor& tensor) {
  if (!tensor.is_cpu()) fail(op, ": ", name, " is not on the CPU, where the native kernels run");
}

inline void check_dtype(const char* op, const char* name, const Tensor& tensor, ScalarType wanted) {
  if (tensor.scalar_type() != wanted)
    fail(op, ": ", name, " is ", dtype_name(tensor.scalar_type()), ", wanted ", dtype_name(wanted));
}

// Real numbers of the layer's dtype, on the CPU.
inline void check_real(const char* op, const char* name, const Tensor& tensor, ScalarType wanted) {
  check_cpu(op, name, tensor);
  check_dtype(op, name, tensor, wanted);
}

inline void check_contiguous(const char* op, const char* name, const Tensor& tensor) {
  if (!tensor.is_contiguous()) fail(op, ": ", name, " is not contiguous; call .contiguous() on it");
}

inline void check_dims(const char* op, const char* name, const Tensor& tensor, int64_t dims) {
  if (tensor.dim() != dims) fail(op, ": ", name, " has shape ", shape_text(tensor), ", wanted ", dims, " dimensions");
}

inline void check_length(const char* op, const char* name, const Tensor& tensor, int64_t wanted) {
  if (tensor.numel() != wanted)
    fail(op, ": ", name, " has shape ", shape_text(tensor), " and ", tensor.numel(), " elements, wanted ", wanted);
}

// The active values of the layer: shape (active, 1), as the plan was made for.
inline void check_values(const char* op, const Tensor& weight, int64_t active, ScalarType type) {
  check_real(op, "weight", weight, type);
  check_contiguous(op, "weight", weight);
  if (weight.dim() != 2 || weight.size(0) != active || weight.size(1) != 1)
    fail(op, ": weight has shape ", shape_text(weight), ", but the plan was made for (", active,
         ", 1); make a new plan whenever the active set changes");
}

}  // namespace regrow
