#include "isa.h"

#include <cstring>
#include <string>

#include "dtype.h"

namespace regrow {
namespace {

struct Level {
  const char* name;
  const Isa& (*isa)();
  bool (*runs)();
};

bool always() { return true; }

#if defined(__x86_64__)
bool runs_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2");
}
bool runs_v4() {
  return runs_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
constexpr Level kLevels[] = {{"baseline", isa_base, always}, {"x86-64-v3", isa_v3, runs_v3}, {"x86-64-v4", isa_v4, runs_v4}};
constexpr const char* kNames = "baseline,x86-64-v3,x86-64-v4";
#else
constexpr Level kLevels[] = {{"baseline", isa_base, always}};
constexpr const char* kNames = "baseline";
#endif

const Level* find(const char* name) {
  for (const Level& level : kLevels)
    if (!std::strcmp(level.name, name)) return &level;
  return nullptr;
}

const Isa* in_use = nullptr;

template <class... T>
int lanes_of(const char* dtype, Types<T...>) {
  int lanes = 0;
  ((std::strcmp(dtype, dtype_name(scalar_type<T>)) ? 0 : lanes = kernels<T>().lanes), ...);
  return lanes;
}

}  // namespace

const Isa& isa() { return in_use ? *in_use : isa_base(); }

}  // namespace regrow

#define REGROW_EXPORT extern "C" __attribute__((visibility("default")))

// Names compiled in, lowest first, separated by commas.
REGROW_EXPORT const char* regrow_isas() { return regrow::kNames; }

// Whether this processor can run the named one.
REGROW_EXPORT bool regrow_isa_runs(const char* name) {
  const regrow::Level* level = regrow::find(name);
  return level && level->runs();
}

// Use the named one from now on; false if it is unknown or cannot run here.
REGROW_EXPORT bool regrow_isa_use(const char* name) {
  if (!regrow_isa_runs(name)) return false;
  regrow::in_use = &regrow::find(name)->isa();
  return true;
}

// Names of the dtypes that there are kernels for, separated by commas.
REGROW_EXPORT const char* regrow_dtypes() {
  static const std::string names = regrow::dtype_names(",", regrow::Dtypes{});
  return names.c_str();
}

// Images side by side in a blocked activation of the named dtype; 0 if there is no such dtype.
REGROW_EXPORT int regrow_lanes(const char* dtype) { return regrow::lanes_of(dtype, regrow::Dtypes{}); }
