// The inner products: R rows with N panels over one unit of 64 inputs, results in registers. AVX-512 or AVX2.
#pragma once
#include "layout.h"
#include "simd.h"

#include <immintrin.h>

#include <utility>

#define INLINE inline __attribute__((always_inline))
#define FLAT __attribute__((always_inline))

namespace {

// f(0) … f(N - 1) with constants, so that arrays indexed by them become registers.
template <class F, int... i>
INLINE void each_of(F f, std::integer_sequence<int, i...>) {
  (f(std::integral_constant<int, i>{}), ...);
}
template <int N, class F>
INLINE void each(F f) {
  each_of(f, std::make_integer_sequence<int, N>{});
}

// ---- 16 lanes of fp32 and int32: one register of AVX-512, two of AVX2

#ifdef __AVX512F__
using F = __m512;
using I = __m512i;
INLINE F splat(float x) { return _mm512_set1_ps(x); }
INLINE I splat(int32_t x) { return _mm512_set1_epi32(x); }
INLINE I load(const void* p) { return _mm512_load_si512(p); }
INLINE I loadu(const void* p) { return _mm512_loadu_si512(p); }
INLINE F floats(I x) { return _mm512_cvtepi32_ps(x); }
INLINE F halves(const void* p) { return _mm512_cvtph_ps(_mm256_load_si256((const __m256i*)p)); }
INLINE I minus(I x, I y) { return _mm512_sub_epi32(x, y); }
INLINE F times(F x, F y) { return _mm512_mul_ps(x, y); }
INLINE F fma(F x, F y, F z) { return _mm512_fmadd_ps(x, y, z); }
INLINE F loadf(const float* p) { return _mm512_loadu_ps(p); }
#else
struct F { __m256 a, b; };
struct I { __m256i a, b; };
INLINE F splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE F floats(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
INLINE F halves(const void* p) {
  return {_mm256_cvtph_ps(_mm_load_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_load_si128((const __m128i*)p + 1))};
}
INLINE F times(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
INLINE F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
#endif

// ---- inner products of R rows with N panels over one unit; `step` adds to accumulators kept in registers. together: panels
// to take at once for so many rows

#ifdef __AVX512F__
INLINE I quad(const uint8_t* p) {
  int32_t x;
  memcpy(&x, p, 4);
  return splat(x);
}

struct Bf16 {
  using Left = uint16_t;
  template <int>
  using Acc = F;
  static constexpr int kind = HERD_BF16, R = 8;
  static constexpr int together(int) { return 2; }
  template <int R, int N, class Near>
  static INLINE void step(F (&acc)[R][N], const uint8_t* w, size_t apart, const uint8_t* a, size_t stride, const int32_t*, size_t, Near near) {
    _Pragma("GCC unroll 16") for (int i = 0; i < PAIRS; i++) {
      near(i);
      I line[N];
      each<N>([&](auto p) FLAT { line[p] = load(w + p * apart + i * 64); });
      each<R>([&](auto r) FLAT {
        I pair = quad(a + r * stride + i * 4);
        each<N>([&](auto p) FLAT { acc[r][p] = herd::dot2(acc[r][p], pair, line[p]); });
      });
    }
  }
  static INLINE F finish(F acc, const Weight&, int, float) { return acc; }
};

struct Int8 {
  template <int>
  using Acc = I;
  static constexpr int kind = HERD_INT8, R = 8;
  static constexpr int together(int rows) { return rows > R ? 2 : 1; }
  template <int R, int N, class Near>
  static INLINE void step(I (&acc)[R][N], const uint8_t* w, size_t apart, const uint8_t* a, size_t stride, const int32_t*, size_t, Near near) {
    each<QUADS>([&](auto i) FLAT {
      near(i);
      I line[N];
      each<N>([&](auto p) FLAT { line[p] = load(w + p * apart + i * 64); });
      each<R>([&](auto r) FLAT {
        I x = quad(a + r * stride + i * 4);
        each<N>([&](auto p) FLAT { acc[r][p] = _mm512_dpbusd_epi32(acc[r][p], x, line[p]); });
      });
    });
  }
  static INLINE F finish(I acc, const Weight& w, int n, float scale) {
    return times(times(floats(minus(acc, loadu(w.sum + n))), loadf(w.scale + n)), splat(scale));
  }
};

struct Int4 {
  template <int>
  using Acc = F;
  static constexpr int kind = HERD_INT4, R = 6;
  static constexpr int together(int rows) { return rows > R ? 2 : 1; }
  template <int R, int N, class Near>
  static INLINE void step(F (&acc)[R][N], const uint8_t* w, size_t apart, const uint8_t* a, size_t stride, const int32_t* sums, size_t groups, Near near) {
    const I mask = splat(0x0f0f0f0f);
    for (int g = 0; g < 2; g++) {
      I part[R][N];
      each<R>([&](auto r) FLAT { each<N>([&](auto p) FLAT { part[r][p] = splat(sums[r * groups + g]); }); });
      each<4>([&](auto i) FLAT {
        near(g * 4 + i);
        I low[N], high[N];
        each<N>([&](auto p) FLAT {
          I both = load(w + p * apart + 64 + g * 256 + i * 64);
          low[p] = _mm512_and_si512(both, mask), high[p] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
        });
        each<R>([&](auto r) FLAT {
          const uint8_t* x = a + r * stride + g * 32 + i * 4;
          I first = quad(x), second = quad(x + 16);
          each<N>([&](auto p) FLAT {
            part[r][p] = _mm512_dpbusd_epi32(part[r][p], low[p], first);
            part[r][p] = _mm512_dpbusd_epi32(part[r][p], high[p], second);
          });
        });
      });
      each<N>([&](auto p) FLAT {
        F scale = halves(w + p * apart + g * 32);
        each<R>([&](auto r) FLAT { acc[r][p] = fma(floats(part[r][p]), scale, acc[r][p]); });
      });
    }
    near(8);
  }
  static INLINE F finish(F acc, const Weight&, int, float scale) { return times(acc, splat(scale)); }
};
#else
INLINE __m256i load(const uint8_t* p, int i) { return _mm256_load_si256((const __m256i*)p + i); }
// Row after row: GCC would begin all of them before it ends the first, for which 16 registers are not enough. (Nor does it
// keep sums in registers that a function takes by reference, even inlined.)
#define SETTLE(x) asm volatile("" : "+x"(x))

struct Bf16 {
  using Left = float;
  template <int>
  using Acc = F;
  static constexpr int kind = HERD_BF16, R = 4;
  static constexpr int together(int rows) { return rows == 1 ? 2 : 1; }
  template <int R, int N, class Near>
  static INLINE void step(F (&acc)[R][N], const uint8_t* w, size_t apart, const uint8_t* a, size_t stride, const int32_t*, size_t, Near near) {
    const __m256i top = _mm256_set1_epi32(0xffff0000);
    for (int i = 0; i < PAIRS; i++) {
      near(i);
      each<N>([&](auto p) FLAT {
        __m256i x = load(w + p * apart + i * 64, 0), y = load(w + p * apart + i * 64, 1);
        F even = {(__m256)_mm256_slli_epi32(x, 16), (__m256)_mm256_slli_epi32(y, 16)};
        F odd = {(__m256)_mm256_and_si256(x, top), (__m256)_mm256_and_si256(y, top)};
        each<R>([&](auto r) FLAT {
          const float* pair = (const float*)(a + r * stride) + i * 2;
          acc[r][p] = fma(odd, splat(pair[1]), fma(even, splat(pair[0]), acc[r][p]));
        });
      });
    }
  }
  static INLINE F finish(F acc, const Weight&, int, float) { return acc; }
};

// Sums of C · 4 outputs, each in 2 parts. Of more than two rows only half a panel's fit the registers: it is passed twice.
template <int C>
struct Sums { __m256i v[C]; };

struct Int8 {
  static constexpr int kind = HERD_INT8, R = 6;
  static constexpr int together(int) { return 1; }
  template <int R>
  using Acc = Sums<R <= 2 ? 4 : 2>;
  template <int R, int N, int C, class Near>
  static INLINE void step(Sums<C> (&acc)[R][N], const uint8_t* w, size_t, const uint8_t* a, size_t stride, const int32_t*, size_t, Near near) {
    for (int i = 0; i < QUADS; i++) {
      near(i);
      __m256i line[C];
      each<C>([&](auto j) FLAT { line[j] = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i*)(w + i * 64) + j)); });
      each<R>([&](auto r) FLAT {
        int64_t x;
        memcpy(&x, a + r * stride + i * 8, 8);
        each<C>([&](auto j) FLAT {
          acc[r][0].v[j] = _mm256_add_epi32(acc[r][0].v[j], _mm256_madd_epi16(line[j], _mm256_set1_epi64x(x)));
          SETTLE(acc[r][0].v[j]);
        });
      });
    }
  }
  static INLINE __m256 half(__m256i x, __m256i y, const Weight& w, int n, float scale) {
    __m256i sum = _mm256_permute4x64_epi64(_mm256_hadd_epi32(x, y), _MM_SHUFFLE(3, 1, 2, 0));
    return _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(w.scale + n)), _mm256_set1_ps(scale));
  }
  static INLINE __m256 finish(Sums<2> acc, const Weight& w, int n, float scale) {
    return half(acc.v[0], acc.v[1], w, n, scale);
  }
  static INLINE F finish(Sums<4> acc, const Weight& w, int n, float scale) {
    return {half(acc.v[0], acc.v[1], w, n, scale), half(acc.v[2], acc.v[3], w, n + 8, scale)};
  }
};

struct Int4 {
  template <int>
  using Acc = F;
  static constexpr int kind = HERD_INT4, R = 4;
  static constexpr int together(int) { return 1; }
  template <int R, int N, class Near>
  static INLINE void step(F (&acc)[R][N], const uint8_t* w, size_t, const uint8_t* a, size_t stride, const int32_t* sums, size_t groups, Near near) {
    const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    for (int g = 0; g < 2; g++) {
      __m256i part[R][2];  // 16 bits are enough for half a group and the 8s of all of it: 16 · 8 · 127 + 16 · 8 · 127
      each<R>([&](auto r) FLAT { part[r][0] = part[r][1] = _mm256_set1_epi32(sums[r * groups + g] & 0xffff); });
      for (int i = 0; i < 4; i++) {
        near(g * 4 + i);
        __m256i low[2], high[2];
        each<2>([&](auto h) FLAT {
          __m256i both = load(w + 64 + g * 256 + i * 64, h);
          low[h] = _mm256_and_si256(both, mask), high[h] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
        });
        each<R>([&](auto r) FLAT {
          int32_t x[2];
          memcpy(x, a + r * stride + g * 32 + i * 4, 4);
          memcpy(x + 1, a + r * stride + g * 32 + i * 4 + 16, 4);
          each<2>([&](auto h) FLAT {
            part[r][h] = _mm256_add_epi16(part[r][h], _mm256_maddubs_epi16(low[h], _mm256_set1_epi32(x[0])));
            part[r][h] = _mm256_add_epi16(part[r][h], _mm256_maddubs_epi16(high[h], _mm256_set1_epi32(x[1])));
            SETTLE(part[r][h]);
          });
        });
      }
      F scale = halves(w + g * 32);
      each<R>([&](auto r) FLAT {
        I sum = {_mm256_madd_epi16(part[r][0], ones), _mm256_madd_epi16(part[r][1], ones)};
        acc[r][0] = fma(floats(sum), scale, acc[r][0]);
      });
    }
    near(8);
  }
  static INLINE F finish(F acc, const Weight&, int, float scale) { return times(acc, splat(scale)); }
};
#endif

}  // namespace
