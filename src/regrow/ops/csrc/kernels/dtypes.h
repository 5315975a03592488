// The element types that the kernels compute in.
#pragma once

namespace regrow {

template <class... T>
struct Types {};

// The one list: tables of kernels, the dispatch on a tensor's dtype and the names that Python reads follow from it.
using Dtypes = Types<float, double>;

}  // namespace regrow
