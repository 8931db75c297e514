// y = x Wᵀ for packed weights: bf16 × bf16, int8 × int8, int4 × int8.
//
// Weights lie in panels of 16 outputs, and along a panel in units of 64 inputs, read once from front to back:
//   int8  [16 quads of inputs][16 outputs][4 inputs], 1,024 bytes: an AMX B tile, or 16 operands of vpdpbusd
//   bf16  [32 pairs of inputs][16 outputs][2 inputs], 2,048 bytes: two B tiles, or 32 operands of vdpbf16ps
//   int4  2 × 16 fp16 scales, then twice 256 bytes: 64-byte line j holds quad j in its low nibbles, quad j + 4 in its
//         high ones, each as q + 8. 576 bytes
// Int8 and the inside of an int4 group accumulate exactly in int32. What is summed in fp32 (int4 groups, bf16) is summed
// in one chain per output along k, the same for any number of rows.
//
// Work: 2 n k operations a row. Bytes: the weight once per call (n k × 1, 2 or 0.5625), since all rows pass over a panel
// group while it is in the caches; rows × k × (1 or 2) of activations and rows × n × 4 of results. So one row is bound by
// memory (2 operations a byte at int8), and some tens of rows by the multipliers.
#include "herd_kernels.h"

#include <immintrin.h>
#include <string.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#if defined(HERD_EMULATE_AMX)
#include "emulate_amx.h"
#define HERD_AMX 1
#elif defined(__AMX_INT8__)
#include <sys/syscall.h>
#include <unistd.h>
#define HERD_AMX 1
#else
#define HERD_AMX 0
#endif

#define INLINE inline __attribute__((always_inline))
#define FLAT __attribute__((always_inline))

namespace {

constexpr int PANEL = 16, UNIT = 64, QUADS = UNIT / 4, PAIRS = UNIT / 2;
constexpr int UNIT_BYTES[] = {2048, 1024, 576};
#ifdef __AVX512F__
constexpr int ROWS = 6, PANELS = 4;
#else
constexpr int ROWS = 3, PANELS = 1;
#endif

// f(0) … f(N - 1) with constants, so that arrays indexed by them become registers.
template <class F, int... i>
INLINE void each_of(F f, std::integer_sequence<int, i...>) {
  (f(std::integral_constant<int, i>{}), ...);
}
template <int N, class F>
INLINE void each(F f) {
  each_of(f, std::make_integer_sequence<int, N>{});
}

size_t up(size_t x, size_t to) { return (x + to - 1) / to * to; }
int panels(int n) { return (int)up(n, PANEL) / PANEL; }
int units(int k) { return (int)up(k, UNIT) / UNIT; }
bool tiled(int kind) { return HERD_AMX && kind != HERD_INT4; }

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
INLINE F plus(F x, F y) { return _mm512_add_ps(x, y); }
INLINE F times(F x, F y) { return _mm512_mul_ps(x, y); }
INLINE F fma(F x, F y, F z) { return _mm512_fmadd_ps(x, y, z); }
INLINE F loadf(const float* p) { return _mm512_loadu_ps(p); }
INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
#else
struct F { __m256 a, b; };
struct I { __m256i a, b; };
INLINE F splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE I splat(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
INLINE I loadu(const void* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
INLINE F floats(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
INLINE F halves(const void* p) {
  return {_mm256_cvtph_ps(_mm_load_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_load_si128((const __m128i*)p + 1))};
}
INLINE I minus(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
INLINE F plus(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
INLINE F times(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
INLINE F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
INLINE F loadf(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
#endif

// ---- activations

// Where the parts of prepared activations lie. Int8: q + 128 as the unsigned operand; int4: q, and -8 Σq of each group for
// the 8 in its nibbles; a scale a row. AVX2 keeps int8 as q in 16 bits and bf16 widened, which saves it conversions.
// Rows for AMX lie in tiles [rows/16][k/64][16][64 bytes] (twice as many for bf16); else one after the other, a cache line
// apart so that strides are no powers of two.
struct Act {
  int kind, rows, k, width;  // width: bytes a value takes
  size_t stride;
  uint8_t* data;
  float* scale;
  int32_t* sums;

  Act(int kind, int rows, int k, const void* memory) : kind(kind), rows(rows), k(k), data((uint8_t*)memory) {
#ifdef __AVX512F__
    width = kind == HERD_BF16 ? 2 : 1;
#else
    width = kind == HERD_BF16 ? 4 : kind == HERD_INT8 ? 2 : 1;
#endif
    stride = units(k) * UNIT * width + (tiled(kind) ? 0 : 64);
    size_t values = stride * (tiled(kind) ? up(rows, 16) : rows);
    scale = (float*)(data + values);
    sums = (int32_t*)(data + values + up(rows * 4, 64));
  }
  size_t bytes() const {
    size_t groups = kind == HERD_INT4 ? (size_t)units(k) * 2 : 0;
    return (uint8_t*)sums - data + up(rows * groups * 4, 64);
  }
  // Of unit u of a row, and of the line after it where bf16 tiles need two.
  uint8_t* at(int row, int u) const {
    if (!tiled(kind)) return data + row * stride + (size_t)u * UNIT * width;
    return data + (row / 16 * 16) * stride + (size_t)u * 1024 * width + row % 16 * 64;
  }
};

uint32_t bits(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}

uint16_t to_bf16(float x) {
  uint32_t u = bits(x);
  if ((u & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

float from_bf16(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float x;
  memcpy(&x, &u, 4);
  return x;
}

// x to q = round(x · 127 / absmax), ties to even; returns absmax / 127. NaN for a row with a NaN or infinity in it (as
// integers their bits are above all numbers'), 0 for one too small to divide by.
float quantise(const float* x, int k, int8_t* q) {
  uint32_t top = 0;
  for (int i = 0; i < k; i++) top = std::max(top, bits(x[i]) & 0x7fffffff);
  float absmax;
  memcpy(&absmax, &top, 4);
  if (top >= 0x7f800000 || absmax < 1e-30f) {
    memset(q, 0, k);
    return top >= 0x7f800000 ? __builtin_nanf("") : 0;
  }
  float inverse = 127 / absmax;
  for (int i = 0; i < k; i++) q[i] = (int8_t)bits(x[i] * inverse + 12582912.f);  // 1.5 · 2²³: rounds in the last bits
  return absmax / 127;
}

// ---- inner products of R rows with P panels over one unit; `step` adds to accumulators kept in registers

#ifdef __AVX512F__
INLINE I quad(const uint8_t* p) {
  int32_t x;
  memcpy(&x, p, 4);
  return splat(x);
}

struct Bf16 {
  using Acc = F;
  static constexpr int kind = HERD_BF16, P = PANELS;
  template <int R, int N>
  static INLINE void step(Acc (&acc)[R][N], const uint8_t* w, size_t apart, const uint8_t* a, size_t stride, const int32_t*, size_t) {
    _Pragma("GCC unroll 16") for (int i = 0; i < PAIRS; i++) {
      I line[N];
      each<N>([&](auto p) FLAT { line[p] = load(w + p * apart + i * 64); });
      each<R>([&](auto r) FLAT {
        I pair = quad(a + r * stride + i * 4);
        each<N>([&](auto p) FLAT { acc[r][p] = _mm512_dpbf16_ps(acc[r][p], (__m512bh)pair, (__m512bh)line[p]); });
      });
    }
  }
  static INLINE F finish(Acc acc, const Weight&, int, float) { return acc; }
};

struct Int8 {
  using Acc = I;
  static constexpr int kind = HERD_INT8, P = PANELS;
  template <int R, int N>
  static INLINE void step(Acc (&acc)[R][N], const uint8_t* w, size_t apart, const uint8_t* a, size_t stride, const int32_t*, size_t) {
    each<QUADS>([&](auto i) FLAT {
      I line[N];
      each<N>([&](auto p) FLAT { line[p] = load(w + p * apart + i * 64); });
      each<R>([&](auto r) FLAT {
        I x = quad(a + r * stride + i * 4);
        each<N>([&](auto p) FLAT { acc[r][p] = _mm512_dpbusd_epi32(acc[r][p], x, line[p]); });
      });
    });
  }
  static INLINE F finish(Acc acc, const Weight& w, int n, float scale) {
    return times(times(floats(minus(acc, loadu(w.sum + n))), loadf(w.scale + n)), splat(scale));
  }
};

struct Int4 {
  using Acc = F;
  static constexpr int kind = HERD_INT4, P = 2;
  template <int R, int N>
  static INLINE void step(Acc (&acc)[R][N], const uint8_t* w, size_t apart, const uint8_t* a, size_t stride, const int32_t* sums, size_t groups) {
    const I mask = splat(0x0f0f0f0f);
    for (int g = 0; g < 2; g++) {
      I part[R][N];
      each<R>([&](auto r) FLAT { each<N>([&](auto p) FLAT { part[r][p] = splat(sums[r * groups + g]); }); });
      each<4>([&](auto i) FLAT { each<N>([&](auto p) FLAT {
        I both = load(w + p * apart + 64 + g * 256 + i * 64);
        I low = _mm512_and_si512(both, mask), high = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
        each<R>([&](auto r) FLAT {
          const uint8_t* x = a + r * stride + g * 32 + i * 4;
          part[r][p] = _mm512_dpbusd_epi32(part[r][p], low, quad(x));
          part[r][p] = _mm512_dpbusd_epi32(part[r][p], high, quad(x + 16));
        });
      }); });
      each<N>([&](auto p) FLAT {
        F scale = halves(w + p * apart + g * 32);
        each<R>([&](auto r) FLAT { acc[r][p] = fma(floats(part[r][p]), scale, acc[r][p]); });
      });
    }
  }
  static INLINE F finish(Acc acc, const Weight&, int, float scale) { return times(acc, splat(scale)); }
};
#else
INLINE __m256i half(const uint8_t* p, int i) { return _mm256_load_si256((const __m256i*)p + i); }

struct Bf16 {
  using Acc = F;
  static constexpr int kind = HERD_BF16, P = PANELS;
  template <int R, int N>
  static INLINE void step(Acc (&acc)[R][N], const uint8_t* w, size_t, const uint8_t* a, size_t stride, const int32_t*, size_t) {
    const __m256i top = _mm256_set1_epi32(0xffff0000);
    for (int i = 0; i < PAIRS; i++) {
      __m256i x = half(w + i * 64, 0), y = half(w + i * 64, 1);
      F even = {(__m256)_mm256_slli_epi32(x, 16), (__m256)_mm256_slli_epi32(y, 16)};
      F odd = {(__m256)_mm256_and_si256(x, top), (__m256)_mm256_and_si256(y, top)};
      each<R>([&](auto r) FLAT {
        const float* pair = (const float*)(a + r * stride) + i * 2;
        acc[r][0] = fma(odd, splat(pair[1]), fma(even, splat(pair[0]), acc[r][0]));
      });
    }
  }
  static INLINE F finish(Acc acc, const Weight&, int, float) { return acc; }
};

struct Int8 {
  struct Acc { __m256i v[4]; };  // 4 outputs each, as 2 parts
  static constexpr int kind = HERD_INT8, P = PANELS;
  template <int R, int N>
  static INLINE void step(Acc (&acc)[R][N], const uint8_t* w, size_t, const uint8_t* a, size_t stride, const int32_t*, size_t) {
    for (int i = 0; i < QUADS; i++)
      each<4>([&](auto j) FLAT {
        __m256i line = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i*)(w + i * 64) + j));
        each<R>([&](auto r) FLAT {
          int64_t x;
          memcpy(&x, a + r * stride + i * 8, 8);
          acc[r][0].v[j] = _mm256_add_epi32(acc[r][0].v[j], _mm256_madd_epi16(line, _mm256_set1_epi64x(x)));
        });
      });
  }
  static INLINE __m256i join(__m256i x, __m256i y) {
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(x, y), _MM_SHUFFLE(3, 1, 2, 0));
  }
  static INLINE F finish(Acc acc, const Weight& w, int n, float scale) {
    I sum = {join(acc.v[0], acc.v[1]), join(acc.v[2], acc.v[3])};
    return times(times(floats(sum), loadf(w.scale + n)), splat(scale));
  }
};

struct Int4 {
  using Acc = F;
  static constexpr int kind = HERD_INT4, P = PANELS;
  template <int R, int N>
  static INLINE void step(Acc (&acc)[R][N], const uint8_t* w, size_t, const uint8_t* a, size_t stride, const int32_t* sums, size_t groups) {
    const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    for (int g = 0; g < 2; g++) {
      __m256i part[R][2];  // 16 bits are enough for a group: 8 × 2 × 15 × 127
      each<R>([&](auto r) FLAT { part[r][0] = part[r][1] = _mm256_setzero_si256(); });
      for (int i = 0; i < 4; i++) each<2>([&](auto h) FLAT {
        __m256i both = half(w + 64 + g * 256 + i * 64, h);
        __m256i low = _mm256_and_si256(both, mask), high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
        each<R>([&](auto r) FLAT {
          int32_t x[2];
          memcpy(x, a + r * stride + g * 32 + i * 4, 4);
          memcpy(x + 1, a + r * stride + g * 32 + i * 4 + 16, 4);
          part[r][h] = _mm256_add_epi16(part[r][h], _mm256_maddubs_epi16(low, _mm256_set1_epi32(x[0])));
          part[r][h] = _mm256_add_epi16(part[r][h], _mm256_maddubs_epi16(high, _mm256_set1_epi32(x[1])));
        });
      });
      F scale = halves(w + g * 32);
      each<R>([&](auto r) FLAT {
        I sum = {_mm256_madd_epi16(part[r][0], ones), _mm256_madd_epi16(part[r][1], ones)};
        acc[r][0] = fma(floats(minus(sum, splat(-sums[r * groups + g]))), scale, acc[r][0]);
      });
    }
  }
  static INLINE F finish(Acc acc, const Weight&, int, float scale) { return times(acc, splat(scale)); }
};
#endif

// ---- blocks of rows and panels

void put(float* y, F value, int count, int add) {
  if (count >= PANEL) return store(y, add ? plus(loadf(y), value) : value);
  float lanes[PANEL];
  store(lanes, value);
  for (int i = 0; i < count; i++) y[i] = add ? y[i] + lanes[i] : lanes[i];
}

// What to bring near while computing: `lines` cache lines a unit, from `next` on.
struct Ahead {
  const uint8_t* next;
  int lines;
  INLINE void fetch() {
    for (int i = 0; i < lines; i++, next += 64) _mm_prefetch((const char*)next, _MM_HINT_T0);
  }
};

struct Out {
  float* y;
  int ld, add;
};

template <class K, int R, int N>
void block(const Weight& w, int panel, const Act& act, int row, Out out, Ahead ahead) {
  int count = units(w.k);
  size_t apart = (size_t)count * UNIT_BYTES[K::kind], groups = (size_t)count * 2;
  const uint8_t* data = w.data + panel * apart;
  const uint8_t* a = act.at(row, 0);
  const int32_t* sums = act.sums + row * groups;
  typename K::Acc acc[R][N];
  each<R>([&](auto r) FLAT { each<N>([&](auto p) FLAT { acc[r][p] = typename K::Acc{}; }); });
  for (int u = 0; u < count; u++) {
    K::step(acc, data, apart, a, act.stride, sums, groups);
    ahead.fetch();
    data += UNIT_BYTES[K::kind], a += UNIT * act.width, sums += 2;
  }
  each<R>([&](auto r) FLAT { each<N>([&](auto p) FLAT {
    int n = (panel + p) * PANEL;
    float scale = K::kind == HERD_BF16 ? 1 : act.scale[row + r];
    put(out.y + (size_t)(row + r) * out.ld + n, K::finish(acc[r][p], w, n, scale), w.n - n, out.add);
  }); });
}

template <class K, int N>
void rows_block(int r, const Weight& w, int panel, const Act& act, int row, Out out, Ahead ahead) {
  if (r == 1) block<K, 1, N>(w, panel, act, row, out, ahead);
  if (r == 2) block<K, 2, N>(w, panel, act, row, out, ahead);
  if (r == 3) block<K, 3, N>(w, panel, act, row, out, ahead);
#ifdef __AVX512F__
  if (r == 4) block<K, 4, N>(w, panel, act, row, out, ahead);
  if (r == 5) block<K, 5, N>(w, panel, act, row, out, ahead);
  if (r == 6) block<K, 6, N>(w, panel, act, row, out, ahead);
#endif
}

#ifndef DIST
#define DIST 4096
#endif
const int DISTANCE = DIST;  // bytes between what one row computes with and what it prefetches

// Panels [from, to): all rows pass over a group of panels, fetching the next group meanwhile, each its part.
template <class K>
void multiply(const Weight& w, int from, int to, const Act& act, Out out) {
  size_t panel_bytes = (size_t)units(w.k) * UNIT_BYTES[K::kind];
  int blocks = (act.rows + ROWS - 1) / ROWS;
  for (int panel = from; panel < to;) {
    int count = blocks > 1 && panel + K::P <= to ? K::P : 1;
    const uint8_t* here = w.data + panel * panel_bytes;
    int lines = (UNIT_BYTES[K::kind] / 64 * count + blocks - 1) / blocks;
    for (int b = 0; b < blocks; b++) {
      size_t done = (size_t)b * lines * 64 * units(w.k);
      Ahead ahead = {here + (blocks > 1 ? count * panel_bytes + done : DISTANCE), done < count * panel_bytes ? lines : 0};
      int r = std::min(ROWS, act.rows - b * ROWS);
      if (count == 1) rows_block<K, 1>(r, w, panel, act, b * ROWS, out, ahead);
      else rows_block<K, K::P>(r, w, panel, act, b * ROWS, out, ahead);
    }
    panel += count;
  }
}

#if HERD_AMX
// ---- AMX: eight tiles of 16 rows × 64 bytes. B tiles are the weights as they lie, A tiles 16 rows of activations. TDPBUSD
// is exact; TDPBF16PS sums a tile's even and odd inputs in two chains and adds both to the result: always in this order.

struct alignas(64) TileConfig {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {};
};

#define PRODUCT(c, a, b)                                 \
  if constexpr (K::kind == HERD_INT8) _tile_dpbusd(c, a, b); \
  else _tile_dpbf16ps(c, a, b)

using Tile = uint8_t[16][64];

// One panel, read from front to back; with int8 four sums by turns, as a product takes 52 cycles and could start every 16.
template <class K>
void narrow(int steps, const uint8_t* a, const uint8_t* b, Ahead ahead, Tile* sums) {
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  int s = 0;
  for (; K::kind == HERD_INT8 && s + 4 <= steps; s += 4, a += 4096, b += 4096) {
    _tile_loadd(4, a, 64); _tile_loadd(6, b, 64);
    PRODUCT(0, 4, 6);
    _tile_loadd(5, a + 1024, 64); _tile_loadd(7, b + 1024, 64);
    PRODUCT(1, 5, 7);
    _tile_loadd(4, a + 2048, 64); _tile_loadd(6, b + 2048, 64);
    PRODUCT(2, 4, 6);
    _tile_loadd(5, a + 3072, 64); _tile_loadd(7, b + 3072, 64);
    PRODUCT(3, 5, 7);
    for (int i = 0; i < 4; i++) ahead.fetch();
  }
  for (; s < steps; s++, a += 1024, b += 1024) {
    _tile_loadd(4, a, 64); _tile_loadd(6, b, 64);
    PRODUCT(0, 4, 6);
    ahead.fetch();
  }
  _tile_stored(0, sums[0], 64);
  if (K::kind == HERD_BF16) return;
  _tile_stored(1, sums[1], 64); _tile_stored(2, sums[2], 64); _tile_stored(3, sums[3], 64);
  for (int i = 1; i < 4; i++)
    for (int r = 0; r < 16; r++) _mm512_store_si512(sums[0][r], _mm512_add_epi32(load(sums[0][r]), load(sums[i][r])));
}

// 32 rows × 2 panels: four loads for four products.
template <class K>
void square(int steps, const uint8_t* a0, const uint8_t* a1, const uint8_t* b0, const uint8_t* b1, Ahead ahead, Tile* sums) {
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (int s = 0; s < steps; s++) {
    _tile_loadd(4, a0 + s * 1024, 64); _tile_loadd(6, b0 + s * 1024, 64);
    PRODUCT(0, 4, 6);
    _tile_loadd(7, b1 + s * 1024, 64);
    PRODUCT(1, 4, 7);
    _tile_loadd(5, a1 + s * 1024, 64);
    PRODUCT(2, 5, 6);
    PRODUCT(3, 5, 7);
    ahead.fetch();
  }
  _tile_stored(0, sums[0], 64); _tile_stored(1, sums[1], 64); _tile_stored(2, sums[2], 64); _tile_stored(3, sums[3], 64);
}

template <class K>
void put_tile(const Tile sums, const Weight& w, int panel, const Act& act, int row, Out out) {
  for (int r = 0; r < std::min(16, act.rows - row); r++) {
    typename K::Acc acc;
    memcpy(&acc, sums[r], 64);
    float scale = K::kind == HERD_BF16 ? 1 : act.scale[row + r];
    put(out.y + (size_t)(row + r) * out.ld + panel * PANEL, K::finish(acc, w, panel * PANEL, scale), w.n - panel * PANEL, out.add);
  }
}

template <class K>
void multiply_tiles(const Weight& w, int from, int to, const Act& act, Out out) {
  TileConfig config;
  std::fill_n(config.rows, 8, 16);
  for (int i = 0; i < 6; i++) config.rows[i] = std::min(act.rows, 16);  // results 0 to 3, rows 4 and 5, weights 6 and 7
  asm volatile("" ::"r"(&config) : "memory");  // GCC's intrinsic does not say that it reads all of it
  _tile_loadconfig(&config);
  alignas(64) Tile sums[4];
  int steps = units(w.k) * UNIT_BYTES[K::kind] / 1024, pairs = act.rows / 32 + (act.rows % 32 > 16);
  size_t panel_bytes = (size_t)steps * 1024;
  for (int panel = from, count; panel < to; panel += count) {
    count = pairs && panel + 2 <= to ? 2 : 1;
    const uint8_t* b = w.data + panel * panel_bytes;
    int row = 0, lines = pairs ? (16 * count + pairs - 1) / pairs : 16;
    for (; count == 2 && act.rows - row > 16; row += 32) {
      size_t done = (size_t)(row / 32) * lines * 64 * steps;
      Ahead ahead = {b + 2 * panel_bytes + done, done < 2 * panel_bytes ? lines : 0};
      square<K>(steps, act.at(row, 0), act.at(row + 16, 0), b, b + panel_bytes, ahead, sums);
      for (int i = 0; i < 4; i++) put_tile<K>(sums[i], w, panel + i % 2, act, row + i / 2 * 16, out);
    }
    for (; row < act.rows; row += 16)
      for (int p = 0; p < count; p++) {
        narrow<K>(steps, act.at(row, 0), b + p * panel_bytes, {b + p * panel_bytes + DISTANCE, pairs ? 0 : 16}, sums);
        put_tile<K>(sums[0], w, panel + p, act, row, out);
      }
  }
  _tile_release();
}
#endif

// ---- packing: 16 weight rows at a time

typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t Masks __attribute__((vector_size(64)));

Lanes magnitude(Lanes x) { return (Lanes)((Masks)x & 0x7fffffff); }

// Int4 codes and scales of 16 outputs' groups, one a lane. The largest weight of a group, with its sign, is brought to -8 or
// a little beside it; of these scales, each fitted to its codes by least squares, the one with the smallest error stays.
void pack_int4(const Lanes* x, uint8_t* group, uint16_t* scales) {
  Lanes top = {}, best = {}, scale = {}, q[HERD_GROUP];
  Masks codes[HERD_GROUP] = {};
  for (int i = 0; i < HERD_GROUP; i++) top = magnitude(x[i]) <= magnitude(top) ? top : x[i];
  for (float reach : {-8.f, -8.7f, -7.4f, -6.8f, 7.f}) {
    Lanes inverse = reach / top, xq = {}, qq = {};
    inverse = magnitude(inverse) < 1e30f ? inverse : inverse * 0;
    for (int i = 0; i < HERD_GROUP; i++) {
      Lanes code = (x[i] * inverse + 12582912.f) - 12582912.f;
      code = code > 7.f ? code - code + 7.f : code;
      q[i] = code < -8.f ? code - code - 8.f : code;
      xq += x[i] * q[i], qq += q[i] * q[i];
    }
    Lanes gain = xq * xq / qq;
    Masks better = gain > best;
    best = better ? gain : best, scale = better ? xq / qq : scale;
    for (int i = 0; i < HERD_GROUP; i++) codes[i] = better ? __builtin_convertvector(q[i], Masks) : codes[i];
  }
  scale += top - top;  // NaN where a weight is not finite
  for (int c = 0; c < PANEL; c++) scales[c] = _cvtss_sh(scale[c], 0);
  for (int i = 0; i < HERD_GROUP / 2; i++) {
    Masks both = (codes[i] + 8) | (codes[i + 16] + 8) << 4;
    for (int c = 0; c < PANEL; c++) group[i / 4 * 64 + c * 4 + i % 4] = both[c];
  }
}

void pack_panel(const Weight& w, const void* values, bool is_bf16, int panel) {
  int padded = units(w.k) * UNIT, bytes = UNIT_BYTES[w.kind], first = panel * PANEL;
  std::vector<float> x(PANEL * padded);  // rows past the last are zeros
  std::vector<int8_t> q(padded);
  uint8_t* data = (uint8_t*)w.data + (size_t)panel * units(w.k) * bytes;
  for (int c = 0; c < std::min(PANEL, w.n - first); c++)
    for (int i = 0; i < w.k; i++) {
      size_t at = (size_t)(first + c) * w.k + i;
      x[c * padded + i] = is_bf16 ? from_bf16(((const uint16_t*)values)[at]) : ((const float*)values)[at];
    }
  if (w.kind == HERD_INT4) {
    for (int g = 0; g < padded / HERD_GROUP; g++) {
      Lanes tile[HERD_GROUP];
      for (int c = 0; c < PANEL; c++)
        for (int i = 0; i < HERD_GROUP; i++) tile[i][c] = x[c * padded + g * HERD_GROUP + i];
      uint8_t* unit = data + g / 2 * bytes;
      pack_int4(tile, unit + 64 + g % 2 * 256, (uint16_t*)unit + g % 2 * 16);
    }
    return;
  }
  for (int c = 0; c < PANEL; c++) {
    const float* row = &x[c * padded];
    if (w.kind == HERD_BF16) {
      for (int i = 0; i < padded; i += 2) {
        uint32_t pair = to_bf16(row[i]) | (uint32_t)to_bf16(row[i + 1]) << 16;
        memcpy(data + i * 32 + c * 4, &pair, 4);
      }
    } else {
      int32_t sum = 0;
      ((float*)w.scale)[first + c] = quantise(row, padded, q.data());
      for (int i = 0; i < padded; i++) sum += q[i];
      ((int32_t*)w.sum)[first + c] = 128 * sum;
      for (int i = 0; i < padded; i += 4) memcpy(data + i * 16 + c * 4, &q[i], 4);
    }
  }
}

struct Share { int from, to; };
Share share(int count, int by, int t, int nt) {
  int64_t whole = (count + by - 1) / by;
  return {(int)std::min<int64_t>(whole * t / nt * by, count), (int)std::min<int64_t>(whole * (t + 1) / nt * by, count)};
}

}  // namespace

size_t herd_weight_bytes(int kind, int n, int k) {
  return panels(n) * (size_t)units(k) * UNIT_BYTES[kind] + (kind == HERD_INT8 ? panels(n) * PANEL * 8 : 0);
}

void herd_weight_at(Weight* w, int kind, int n, int k, void* memory) {
  uint8_t* end = (uint8_t*)memory + panels(n) * (size_t)units(k) * UNIT_BYTES[kind];
  *w = {kind, n, k, (uint8_t*)memory, nullptr, nullptr};
  if (kind == HERD_INT8) w->scale = (float*)end, w->sum = (int32_t*)end + panels(n) * PANEL;
}

void herd_pack(const Weight* w, const void* values, int is_bf16, int t, int nt) {
  Share mine = share(panels(w->n), 1, t, nt);
  for (int panel = mine.from; panel < mine.to; panel++) pack_panel(*w, values, is_bf16, panel);
}

void herd_unpack_rows(const Weight* w, const int64_t* rows, int count, float* out, int ldo) {
  for (int i = 0; i < count; i++) {
    int c = rows[i] % PANEL;
    const uint8_t* data = w->data + rows[i] / PANEL * (size_t)units(w->k) * UNIT_BYTES[w->kind];
    for (int j = 0; j < w->k; j++) {
      float* y = out + (size_t)i * ldo + j;
      if (w->kind == HERD_BF16) {
        *y = from_bf16(((const uint16_t*)data)[j / 2 * 32 + c * 2 + j % 2]);
      } else if (w->kind == HERD_INT8) {
        *y = ((const int8_t*)data)[j / 4 * 64 + c * 4 + j % 4] * w->scale[rows[i]];
      } else {
        const uint8_t* unit = data + j / UNIT * UNIT_BYTES[HERD_INT4];
        int g = j % UNIT / HERD_GROUP, in = j % HERD_GROUP;
        int both = unit[64 + g * 256 + in % 16 / 4 * 64 + c * 4 + in % 4];
        *y = ((in < 16 ? both & 15 : both >> 4) - 8) * _cvtsh_ss(((const uint16_t*)unit)[g * 16 + c]);
      }
    }
  }
}

size_t herd_act_bytes(int kind, int rows, int k) { return Act(kind, rows, k, nullptr).bytes(); }

void herd_prepare(int kind, const float* x, int ldx, int rows, int k, void* memory, int t, int nt) {
  Act act(kind, rows, k, memory);
  Share mine = share(rows, 1, t, nt);
  int padded = units(k) * UNIT;
  std::vector<int8_t> codes(padded + 4);
  for (int row = mine.from; row < mine.to; row++) {
    const float* from = x + (size_t)row * ldx;
    if (kind != HERD_BF16) act.scale[row] = quantise(from, k, codes.data());
    for (int u = 0; u < units(k); u++) {
      uint8_t* to = act.at(row, u);
      const int8_t* q = &codes[u * UNIT];
      int count = std::min(UNIT, k - u * UNIT);
      if (kind == HERD_INT4) {
        memcpy(to, q, UNIT);
        for (int g = 0; g < 2; g++) {
          int sum = 0;
          for (int i = 0; i < HERD_GROUP; i++) sum += q[g * HERD_GROUP + i];
          act.sums[((size_t)row * units(k) + u) * 2 + g] = -8 * sum;
        }
      } else if (kind == HERD_INT8) {
        for (int i = 0; i < UNIT; i++)
          if (act.width == 1) to[i] = q[i] ^ 0x80;
          else ((int16_t*)to)[i] = q[i];
      } else {
        for (int i = 0; i < UNIT; i++) {
          uint16_t h = i < count ? to_bf16(from[u * UNIT + i]) : 0;
          if (act.width == 2) memcpy(to + (tiled(kind) ? i / 32 * 1024 + i % 32 * 2 : i * 2), &h, 2);
          else ((float*)to)[i] = from_bf16(h);
        }
      }
    }
  }
}

void herd_linear(const Weight* w, const void* memory, int rows, float* y, int ldy, int add, int t, int nt) {
  Act act(w->kind, rows, w->k, memory);
  Out out = {y, ldy, add};
  Share mine = share(panels(w->n), rows > ROWS ? PANELS : 1, t, nt);
#if HERD_AMX
  if (w->kind == HERD_BF16) return multiply_tiles<Bf16>(*w, mine.from, mine.to, act, out);
  if (w->kind == HERD_INT8) return multiply_tiles<Int8>(*w, mine.from, mine.to, act, out);
#else
  if (w->kind == HERD_BF16) return multiply<Bf16>(*w, mine.from, mine.to, act, out);
  if (w->kind == HERD_INT8) return multiply<Int8>(*w, mine.from, mine.to, act, out);
#endif
  multiply<Int4>(*w, mine.from, mine.to, act, out);
}

namespace {

struct PackCall { const Weight* w; const void* values; int is_bf16; };
struct LinearCall { Team* team; const Weight* w; const float* x; int ldx, rows; void* act; float* y; int ldy; };

}  // namespace

void herd_pack_all(Team* team, const Weight* w, const void* values, int is_bf16) {
  PackCall call = {w, values, is_bf16};
  herd_team_run(team, [](void* context, int t, int nt) {
    PackCall& c = *(PackCall*)context;
    herd_pack(c.w, c.values, c.is_bf16, t, nt);
  }, &call);
}

void herd_linear_all(Team* team, const Weight* w, const float* x, int ldx, int rows, void* act, float* y, int ldy) {
  LinearCall call = {team, w, x, ldx, rows, act, y, ldy};
  herd_team_run(team, [](void* context, int t, int nt) {
    LinearCall& c = *(LinearCall*)context;
    herd_prepare(c.w->kind, c.x, c.ldx, c.rows, c.w->k, c.act, t, nt);
    herd_barrier(c.team, nt);
    herd_linear(c.w, c.act, c.rows, c.y, c.ldy, 0, t, nt);
  }, &call);
}

int herd_init(void) {
#if defined(__AMX_INT8__) && !defined(HERD_EMULATE_AMX)
  const int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA)) return 1;
#endif
  const int n = 75, k = 150, rows = 53;
  std::vector<float> v(n * k), x(rows * k), y(rows * n), row(k);
  uint32_t seed = 1;
  for (float& f : v) f = (int)((seed = seed * 1664525 + 1013904223) >> 24) - 127.5f;
  for (float& f : x) f = (int)((seed = seed * 1664525 + 1013904223) >> 24) - 127.5f;
  for (int kind : {HERD_BF16, HERD_INT8, HERD_INT4}) {
    Weight w;
    std::vector<uint8_t> memory(herd_weight_bytes(kind, n, k) + 64), act(herd_act_bytes(kind, rows, k) + 64);
    auto aligned = [](std::vector<uint8_t>& m) { return (void*)up((size_t)m.data(), 64); };
    herd_weight_at(&w, kind, n, k, aligned(memory));
    herd_pack(&w, v.data(), 0, 0, 1);
    herd_prepare(kind, x.data(), k, rows, k, aligned(act), 0, 1);
    herd_linear(&w, aligned(act), rows, y.data(), n, 0, 0, 1);
    for (int64_t j = 0; j < n; j++) {
      herd_unpack_rows(&w, &j, 1, row.data(), k);
      for (int r = 0; r < rows; r++) {
        double sum = 0, size = 0;
        for (int i = 0; i < k; i++) sum += (double)row[i] * x[r * k + i], size += std::abs((double)row[i] * x[r * k + i]);
        if (!(std::abs(sum - y[r * n + j]) <= size * 0.01)) return 1;
      }
    }
  }
  return 0;
}
