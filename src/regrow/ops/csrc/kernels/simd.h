// Vectors of the instruction set this file is compiled for, through compiler vector extensions.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef REGROW_ISA
#error "compile with -DREGROW_ISA=v4, v3 or base"
#endif

#ifndef REGROW_VECTOR_BYTES
#if defined(__AVX512F__)
#define REGROW_VECTOR_BYTES 64
#elif defined(__AVX__)
#define REGROW_VECTOR_BYTES 32
#else
#define REGROW_VECTOR_BYTES 16
#endif
#endif

#define REGROW_INLINE inline __attribute__((always_inline))

namespace regrow {
namespace REGROW_ISA {

constexpr int kVectorBytes = REGROW_VECTOR_BYTES;

// Accumulators of a tile: what fits the registers beside a weight, a loaded vector and a partial sum.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kMaxTile = 16;
#else
constexpr int kMaxTile = 12;
#endif
// Only elements of 4 bytes are worth the time to compile tiles of several rows and kernels of their own for strides 1
// and 2: others serve to check results.
template <class T>
constexpr int kTileRows = sizeof(T) == 4 ? 4 : 1;

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(REGROW_VECTOR_BYTES), may_alias));
};
template <class T>
using Vec = typename VectorOf<T>::type;

// As many unsigned (signed) integers of the element's size.
template <class T>
using Bits = typename VectorOf<std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>::type;
template <class T>
using Mask = typename VectorOf<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>::type;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
REGROW_INLINE Vec<T> load(const T* p) {  // aligned
  return *reinterpret_cast<const Vec<T>*>(p);
}
template <class T>
REGROW_INLINE void store(T* p, Vec<T> v) {  // aligned
  *reinterpret_cast<Vec<T>*>(p) = v;
}
// Loads, and asks for what comes a little later, where processors do not follow a stream by themselves: two rows at a
// time, or planes that are a few lines long.
template <class T>
REGROW_INLINE Vec<T> load_ahead(const T* p) {
  constexpr int kAhead = 2048;  // bytes
  __builtin_prefetch(reinterpret_cast<const char*>(p) + kAhead);
  return load(p);
}
// Stores past the caches, without reading the line first. finish_stores() before others may read.
template <class T>
REGROW_INLINE void store_far(T* p, Vec<T> v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), reinterpret_cast<__m512i>(v));
#elif defined(__AVX__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(v));
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), reinterpret_cast<__m128i>(v));
#else
  store(p, v);
#endif
}
REGROW_INLINE void finish_stores() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}
template <class T>
REGROW_INLINE Vec<T> load_unaligned(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
REGROW_INLINE void store_unaligned(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof v);
}
template <class T>
REGROW_INLINE Vec<T> splat(T value) {
  return value - Vec<T>{};  // one broadcast
}

// Keeps a loaded value in its register. Without it compilers fold the load into each of its uses, and loads are what
// the kernels are bound by.
template <class T>
REGROW_INLINE void pin(T& v) {
#if REGROW_VECTOR_BYTES <= 16 && (defined(__x86_64__))
  asm("" : "+x"(v));
#elif defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__AVX__) && REGROW_VECTOR_BYTES == 32
  asm("" : "+x"(v));
#elif defined(__aarch64__) && REGROW_VECTOR_BYTES == 16
  asm("" : "+w"(v));
#else
  (void)v;
#endif
}

// The same for an address: keeps compilers from expanding r*stride + c into one sum for each pixel of a tile.
template <class Pointer>
REGROW_INLINE Pointer pin_address(Pointer p) {
  asm volatile("" : "+r"(p));
  return p;
}

template <class V, class Pick, int... I>
REGROW_INLINE V shuffle_with(V a, V b, Pick, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, Pick::from(I)...);
}
template <class Pick, class V>
REGROW_INLINE V shuffle(V a, V b) {
  constexpr int n = Pick::kSize;
  return shuffle_with(a, b, Pick{}, std::make_integer_sequence<int, n>{});
}

// ---- transpose: rows r[0..L) of L lanes, in place; log2(L) rounds that exchange blocks of D lanes ----

template <int L, int D, bool High>
struct Exchange {
  static constexpr int kSize = L;
  static constexpr int from(int i) {
    return High ? ((i & D) ? L + i : (i ^ D)) : ((i & D) ? L + (i ^ D) : i);
  }
};

template <class T, int D>
REGROW_INLINE void transpose_round(Vec<T>* r) {
  constexpr int L = kLanes<T>;
  if constexpr (D < L) {
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i)
      if (!(i & D)) {
        const Vec<T> a = r[i], b = r[i | D];
        r[i] = shuffle<Exchange<L, D, false>>(a, b);
        r[i | D] = shuffle<Exchange<L, D, true>>(a, b);
      }
    transpose_round<T, 2 * D>(r);
  }
}
template <class T>
REGROW_INLINE void transpose(Vec<T>* r) {
  transpose_round<T, 1>(r);
}

// ---- sums of lanes: out[j] = sum of all lanes of p[j] ----

// Interleave groups of D lanes inside 16-byte parts, low or high half (unpcklps, unpcklpd and their high twins).
template <int L, int Part, int D, bool High>
struct Unpack {
  static constexpr int kSize = L;
  static constexpr int from(int i) {
    const int part = i / Part * Part, k = i % Part;
    const int pair = k / D, lane = k % D;  // pair: even from a, odd from b
    return part + (High ? Part / 2 : 0) + pair / 2 * D + lane + (pair % 2) * L;
  }
};
// Halves: {a.low, b.low} or {a.high, b.high}.
template <int L, bool High>
struct Halves {
  static constexpr int kSize = L;
  static constexpr int from(int i) { return (i % (L / 2)) + (High ? L / 2 : 0) + (i < L / 2 ? 0 : L); }
};
// Quarters: {a.0, a.2, b.0, b.2} or {a.1, a.3, b.1, b.3}.
template <int L, bool High>
struct Quarters {
  static constexpr int kSize = L;
  static constexpr int from(int i) {
    const int q = i / (L / 4), lane = i % (L / 4);
    return ((q % 2) * 2 + (High ? 1 : 0)) * (L / 4) + lane + (q < 2 ? 0 : L);
  }
};

template <class T>
REGROW_INLINE Vec<T> sum_lanes(const Vec<T>* p) {
  constexpr int L = kLanes<T>;
  if constexpr (sizeof(T) == 4 && L <= 16) {
    Vec<T> q[L / 4 > 0 ? L / 4 : 1];
#pragma GCC unroll 4
    for (int k = 0; k < L / 4; ++k) {
      const Vec<T>* r = p + 4 * k;
      const Vec<T> ab = shuffle<Unpack<L, 4, 1, false>>(r[0], r[1]) + shuffle<Unpack<L, 4, 1, true>>(r[0], r[1]);
      const Vec<T> cd = shuffle<Unpack<L, 4, 1, false>>(r[2], r[3]) + shuffle<Unpack<L, 4, 1, true>>(r[2], r[3]);
      q[k] = shuffle<Unpack<L, 4, 2, false>>(ab, cd) + shuffle<Unpack<L, 4, 2, true>>(ab, cd);
    }
    if constexpr (L == 4) return q[0];
    if constexpr (L == 8) return shuffle<Halves<L, false>>(q[0], q[1]) + shuffle<Halves<L, true>>(q[0], q[1]);
    if constexpr (L == 16) {
      const Vec<T> u = shuffle<Halves<L, false>>(q[0], q[1]) + shuffle<Halves<L, true>>(q[0], q[1]);
      const Vec<T> w = shuffle<Halves<L, false>>(q[2], q[3]) + shuffle<Halves<L, true>>(q[2], q[3]);
      return shuffle<Quarters<L, false>>(u, w) + shuffle<Quarters<L, true>>(u, w);
    }
  } else {
    Vec<T> out{};
    for (int j = 0; j < L; ++j) {
      T sum = 0;
      for (int i = 0; i < L; ++i) sum += p[j][i];
      out[j] = sum;
    }
    return out;
  }
}

template <class T>
REGROW_INLINE T sum_lanes(Vec<T> v) {
  T sum = 0;
  for (int i = 0; i < kLanes<T>; ++i) sum += v[i];
  return sum;
}

// 1 in the lanes of images that exist, 0 in the others.
template <class T>
REGROW_INLINE Vec<T> lane_mask(int64_t images) {
  Vec<T> mask{};
  for (int i = 0; i < kLanes<T>; ++i) mask[i] = i < images ? T(1) : T(0);
  return mask;
}

}  // namespace REGROW_ISA
}  // namespace regrow
