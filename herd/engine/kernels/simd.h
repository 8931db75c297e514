// Vectors of fp32 and of bf16 pairs, for the instruction set that this file is compiled for.
//
// Every multiply-add is written out: the compiler may not choose where to fuse, so equal rows get equal bits in
// whatever loop they are computed.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace herd {

// To bf16, ties to even; NaN stays NaN.
static inline uint16_t bf16(float v) {
  uint32_t u;
  std::memcpy(&u, &v, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t(u >> 16 | 0x40);
  return uint16_t((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

#if defined(__AVX512F__)
constexpr int W = 16;  // fp32 lanes
using F = __m512;
using I = __m512i;
static inline F load(const float* p) { return _mm512_loadu_ps(p); }
static inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
static inline I loadi(const void* p) { return _mm512_loadu_si512(p); }
static inline F set1(float v) { return _mm512_set1_ps(v); }
static inline I set1i(uint32_t v) { return _mm512_set1_epi32(int(v)); }
static inline F add(F a, F b) { return _mm512_add_ps(a, b); }
static inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
static inline F divide(F a, F b) { return _mm512_div_ps(a, b); }
static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
static inline F widen(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
static inline F max(F a, F b) { return _mm512_max_ps(a, b); }
static inline F min(F a, F b) { return _mm512_min_ps(a, b); }
static inline I both(I a, I b) { return _mm512_and_si512(a, b); }
static inline F floats(I v) { return _mm512_castsi512_ps(v); }
static inline I bits(F v) { return _mm512_castps_si512(v); }
static inline I high(I v) { return _mm512_slli_epi32(v, 16); }
static inline I low(I v) { return _mm512_srli_epi32(v, 16); }
static inline I plus(I a, I b) { return _mm512_add_epi32(a, b); }
static inline F or_nan(F v, F of) { return _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(of, of, _CMP_UNORD_Q), of); }
static inline void narrow(I v, uint16_t* p) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(v)); }
static inline float sum(F v) { return _mm512_reduce_add_ps(v); }
static inline float highest(F v) { return _mm512_reduce_max_ps(v); }
static inline F scale2(F v, F n) { return _mm512_scalef_ps(v, n); }
static inline F scale2_down(F v, F n) { return scale2(v, n); }
static inline F nearest(F v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline uint32_t above(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
static inline uint32_t least(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
#else
constexpr int W = 8;
using F = __m256;
using I = __m256i;
static inline F load(const float* p) { return _mm256_loadu_ps(p); }
static inline void store(float* p, F v) { _mm256_storeu_ps(p, v); }
static inline I loadi(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
static inline F set1(float v) { return _mm256_set1_ps(v); }
static inline I set1i(uint32_t v) { return _mm256_set1_epi32(int(v)); }
static inline F add(F a, F b) { return _mm256_add_ps(a, b); }
static inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
static inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
static inline F divide(F a, F b) { return _mm256_div_ps(a, b); }
static inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
static inline F widen(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
static inline F max(F a, F b) { return _mm256_max_ps(a, b); }
static inline F min(F a, F b) { return _mm256_min_ps(a, b); }
static inline I both(I a, I b) { return _mm256_and_si256(a, b); }
static inline F floats(I v) { return _mm256_castsi256_ps(v); }
static inline I bits(F v) { return _mm256_castps_si256(v); }
static inline I high(I v) { return _mm256_slli_epi32(v, 16); }
static inline I low(I v) { return _mm256_srli_epi32(v, 16); }
static inline I plus(I a, I b) { return _mm256_add_epi32(a, b); }
static inline F or_nan(F v, F of) { return _mm256_blendv_ps(v, of, _mm256_cmp_ps(of, of, _CMP_UNORD_Q)); }
static inline void narrow(I v, uint16_t* p) {
  _mm_storeu_si128((__m128i*)p, _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}
static inline F nearest(F v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline uint32_t above(F a, F b) { return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ))); }
static inline uint32_t least(F a, F b) { return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ))); }
static inline float sum(F v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float highest(F v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
// v · 2^n for whole n up to 200, in two factors so that results below 2^-126 are rounded once.
static inline F scale2(F v, F n) {
  const I bias = set1i(127), i = _mm256_cvtps_epi32(max(n, set1(-200.0f))), half = _mm256_srai_epi32(i, 1);
  const I rest = _mm256_sub_epi32(i, half);
  const F a = floats(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const F b = floats(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return mul(mul(v, a), b);
}
// The same for n up to 127, and 0 from -127 down.
static inline F scale2_down(F v, F n) {
  const I i = _mm256_cvtps_epi32(max(n, set1(-127.0f)));
  return mul(v, floats(_mm256_slli_epi32(_mm256_add_epi32(i, set1i(127)), 23)));
}
#endif

#ifdef __AVX512BF16__
// acc + a₀·b₀ + a₁·b₁ of the bf16 pair in each lane.
static inline F dot2(F acc, I a, I b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
// 32 numbers to bf16.
static inline void bf16x32(const float* x, uint16_t* y) {
  const __m512bh v = _mm512_cvtne2ps_pbh(load(x + 16), load(x));
  std::memcpy(y, &v, 64);
}

// A product's left operand as it is kept, numbers of bf16, and the right one's W pairs as registers hold them.
using Left = uint16_t;
using Right = I;
static inline Right right(const uint16_t* p) { return loadi(p); }
static inline F dot2(F acc, const Left* a, Right b) {
  uint32_t pair;
  std::memcpy(&pair, a, 4);
  return dot2(acc, set1i(pair), b);
}
// acc and 32 numbers.
static inline F total32(F acc, const Left* p) { return dot2(acc, loadi(p), set1i(0x3f803f80)); }
#else
static inline I top(I v) { return both(v, set1i(0xffff0000u)); }
static inline F dot2(F acc, I a, I b) {
  acc = fma(floats(high(a)), floats(high(b)), acc);
  return fma(floats(top(a)), floats(top(b)), acc);
}
// To the nearest that bf16 has, ties to even; NaN stays NaN, as v + v sets one of the bits that are kept.
static inline F rounded(F v) {
  const I u = bits(v), half = plus(both(low(u), set1i(1)), set1i(0x7fff));
  return or_nan(floats(top(plus(u, half))), add(v, v));
}
static inline void bf16x32(const float* x, uint16_t* y) {
  for (int i = 0; i < 32; i += W) narrow(low(bits(rounded(load(x + i)))), y + i);
}
static inline void bf16x32(const float* x, float* y) {
  for (int i = 0; i < 32; i += W) store(y + i, rounded(load(x + i)));
}

using Left = float;
struct Right { F even, odd; };
static inline Right right(const uint16_t* p) { return {floats(high(loadi(p))), floats(top(loadi(p)))}; }
static inline F dot2(F acc, const Left* a, Right b) { return fma(set1(a[1]), b.odd, fma(set1(a[0]), b.even, acc)); }
static inline F total32(F acc, const Left* p) {
  for (int i = 0; i < 32; i += W) acc = add(acc, load(p + i));
  return acc;
}
#endif

// 2^x, relative error below 3e-7; 0 from -150 down, infinite from 128 up, NaN stays NaN.
static inline F exp2(F x) {
  x = min(set1(200.0f), max(set1(-200.0f), x));
  const F n = nearest(x), f = sub(x, n);
  F p = set1(0x1.444p-13f);  // interpolates 2^f in Chebyshev points of [-½, ½]; relative error 3e-9
  p = fma(p, f, set1(0x1.5f48cp-10f));
  p = fma(p, f, set1(0x1.3b2a1cp-7f));
  p = fma(p, f, set1(0x1.c6aeccp-5f));
  p = fma(p, f, set1(0x1.ebfbep-3f));
  p = fma(p, f, set1(0x1.62e43p-1f));
  return scale2(fma(p, f, set1(1.0f)), n);
}

// 2^x for x up to 0, relative error 1.0e-4, for what is then rounded to bf16.
static inline F exp2_rough(F x) {
  const F n = nearest(x), f = sub(x, n);
  F p = fma(set1(0x1.c2a218p-5f), f, set1(0x1.f00c4ep-3f));
  p = fma(p, f, set1(0x1.62f5fap-1f));
  return scale2_down(fma(p, f, set1(1.0f)), n);
}

constexpr float LOG2E = 1.44269504088896341f;

}  // namespace herd
