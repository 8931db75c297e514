// The AVX-512 that the kernels use in plain C, after the pseudocode of Intel's manual, so that their source can be tested
// on machines without it. Included before all else (-include), as it says that there is AVX-512. HERD_NO_BF16: but no BF16.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define __AVX512F__ 1
#ifndef HERD_NO_BF16
#define __AVX512BF16__ 1
#endif

namespace {

using Floats = __m512;
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halfwords __attribute__((vector_size(64)));
typedef uint16_t Half __attribute__((vector_size(32)));

template <class V>
inline V emulate_loadu(const void* p) {
  V v;
  memcpy(&v, p, 64);
  return v;
}

inline const void* emulate_aligned(const void* p) {
  if ((uintptr_t)p % 64) __builtin_trap();
  return p;
}

inline Floats emulate_splat(float x) {
  Floats v;
  for (int i = 0; i < 16; i++) v[i] = x;
  return v;
}

inline Floats emulate_fma(Floats a, Floats b, Floats c) {
  for (int i = 0; i < 16; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
}

inline Floats emulate_rint(Floats a) {
  for (int i = 0; i < 16; i++) a[i] = __builtin_rintf(a[i]);
  return a;
}

inline Floats emulate_scalef(Floats a, Floats n) {
  for (int i = 0; i < 16; i++)
    a[i] = n[i] != n[i] ? n[i] : __builtin_ldexpf(a[i], (int)__builtin_fmaxf(-999, __builtin_fminf(999, __builtin_floorf(n[i]))));
  return a;
}

inline Floats emulate_halves(__m256i x) {
  Floats v;
  __m256 low = _mm256_cvtph_ps(_mm256_castsi256_si128(x)), high = _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1));
  memcpy(&v, &low, 32), memcpy((char*)&v + 32, &high, 32);
  return v;
}

inline uint32_t emulate_compare(Floats a, Floats b, int how) {
  uint32_t mask = 0;
  for (int i = 0; i < 16; i++) {
    const bool unordered = a[i] != a[i] || b[i] != b[i];
    if (how == _CMP_UNORD_Q ? unordered : how == _CMP_GT_OQ ? a[i] > b[i] : a[i] >= b[i]) mask |= 1u << i;
  }
  return mask;
}

inline Floats emulate_choose(Floats a, uint32_t mask, Floats b) {
  for (int i = 0; i < 16; i++) a[i] = mask >> i & 1 ? b[i] : a[i];
  return a;
}

template <class F>
inline float emulate_reduce(Floats a, F f) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) a[i] = f(a[i], a[i + half]);
  return a[0];
}

inline __m512i emulate_dpbusd(__m512i sum, __m512i a, __m512i b) {
  uint8_t x[64];
  int8_t y[64];
  Ints c = (Ints)sum;
  memcpy(x, &a, 64), memcpy(y, &b, 64);
  for (int i = 0; i < 16; i++)
    c[i] += x[4 * i] * y[4 * i] + x[4 * i + 1] * y[4 * i + 1] + x[4 * i + 2] * y[4 * i + 2] + x[4 * i + 3] * y[4 * i + 3];
  return (__m512i)c;
}

// Instructions of bf16 take denormals as zeros and give zeros for them.
inline float emulate_flush(float x) { return __builtin_fabsf(x) < __FLT_MIN__ ? 0 * x : x; }

inline Floats emulate_dpbf16(Floats acc, __m512bh a, __m512bh b) {
  uint32_t x[16], y[16];
  memcpy(x, &a, 64), memcpy(y, &b, 64);
  const auto number = [](uint32_t bits) {
    float v;
    memcpy(&v, &bits, 4);
    return emulate_flush(v);
  };
  for (int i = 0; i < 16; i++) {
    const float odd = __builtin_fmaf(number(x[i] & 0xffff0000u), number(y[i] & 0xffff0000u), emulate_flush(acc[i]));
    acc[i] = emulate_flush(__builtin_fmaf(number(x[i] << 16), number(y[i] << 16), emulate_flush(odd)));
  }
  return acc;
}

inline __m512bh emulate_bf16(Floats high, Floats low) {
  uint16_t y[32];
  for (int i = 0; i < 32; i++) {
    const float x = emulate_flush(i < 16 ? low[i] : high[i - 16]);
    uint32_t u;
    memcpy(&u, &x, 4);
    y[i] = x != x ? u >> 16 | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
  }
  __m512bh v;
  memcpy(&v, y, 64);
  return v;
}

}  // namespace

#undef _mm512_cmp_ps_mask
#undef _mm512_roundscale_ps
#define _mm512_load_si512(p) emulate_loadu<__m512i>(emulate_aligned(p))
#define _mm512_loadu_si512(p) emulate_loadu<__m512i>(p)
#define _mm512_loadu_ps(p) emulate_loadu<Floats>(p)
#define _mm512_store_si512(p, v) (*(__m512i*)emulate_aligned(p) = (v))
#define _mm512_storeu_ps(p, v) (void)memcpy(p, &(const Floats&)(v), 64)
#define _mm512_set1_ps emulate_splat
#define _mm512_set1_epi32(x) ((__m512i)(Ints{} + (int32_t)(x)))
#define _mm512_castps_si512(v) ((__m512i)(v))
#define _mm512_castsi512_ps(v) ((Floats)(v))
#define _mm512_add_ps(a, b) ((a) + (b))
#define _mm512_sub_ps(a, b) ((a) - (b))
#define _mm512_mul_ps(a, b) ((a) * (b))
#define _mm512_div_ps(a, b) ((a) / (b))
#define _mm512_max_ps(a, b) ((a) > (b) ? (a) : (b))
#define _mm512_min_ps(a, b) ((a) < (b) ? (a) : (b))
#define _mm512_add_epi32(a, b) ((__m512i)((Ints)(a) + (Ints)(b)))
#define _mm512_sub_epi32(a, b) ((__m512i)((Ints)(a) - (Ints)(b)))
#define _mm512_and_si512(a, b) ((a) & (b))
#define _mm512_slli_epi32(a, n) ((__m512i)((Words)(a) << (n)))
#define _mm512_srli_epi32(a, n) ((__m512i)((Words)(a) >> (n)))
#define _mm512_srli_epi16(a, n) ((__m512i)((Halfwords)(a) >> (n)))
#define _mm512_cvtepi32_ps(a) __builtin_convertvector((Ints)(a), Floats)
#define _mm512_cvtepi32_epi16(a) ((__m256i)__builtin_convertvector((Words)(a), Half))
#define _mm512_cvtepu16_epi32(a) ((__m512i)__builtin_convertvector((Half)(a), Words))
#define _mm512_cvtph_ps emulate_halves
#define _mm512_fmadd_ps emulate_fma
#define _mm512_roundscale_ps(a, how) emulate_rint(a)
#define _mm512_scalef_ps emulate_scalef
#define _mm512_cmp_ps_mask emulate_compare
#define _mm512_mask_mov_ps emulate_choose
#define _mm512_reduce_add_ps(a) emulate_reduce(a, [](float x, float y) { return x + y; })
#define _mm512_reduce_max_ps(a) emulate_reduce(a, [](float x, float y) { return x > y ? x : y; })
#define _mm512_dpbusd_epi32 emulate_dpbusd
#define _mm512_dpbf16_ps emulate_dpbf16
#define _mm512_cvtne2ps_pbh emulate_bf16
