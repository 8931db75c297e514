// How weights lie in memory, and how numbers are rounded into it.
//
// Panels of 16 outputs; along a panel, units of 64 inputs, read once from front to back:
//   int8  [16 quads of inputs][16 outputs][4 inputs], 1,024 bytes: an AMX B tile, or 16 operands of vpdpbusd
//   bf16  [32 pairs of inputs][16 outputs][2 inputs], 2,048 bytes: two B tiles, or 32 operands of vdpbf16ps
//   int4  2 × 16 fp16 scales, then twice 256 bytes: 64-byte line j holds quad j in its low nibbles, quad j + 4 in its
//         high ones, each as q + 8. 576 bytes
#pragma once
#include "herd_kernels.h"

#include <string.h>

#include <algorithm>

namespace {

constexpr int PANEL = 16, UNIT = 64, QUADS = UNIT / 4, PAIRS = UNIT / 2;
constexpr int UNIT_BYTES[] = {2048, 1024, 576};
inline size_t up(size_t x, size_t to) { return (x + to - 1) / to * to; }
inline int panels(int n) { return (int)up(n, PANEL) / PANEL; }
inline int units(int k) { return (int)up(k, UNIT) / UNIT; }

inline uint32_t bits(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}

inline uint16_t to_bf16(float x) {
  uint32_t u = bits(x);
  if ((u & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

inline float from_bf16(uint16_t h) {
  uint32_t u = (uint32_t)h << 16;
  float x;
  memcpy(&x, &u, 4);
  return x;
}

// For codes q = round(x · 127 / absmax), ties to even. scale: absmax / 127; NaN for a row with a NaN or infinity in it (as
// integers their bits are above all numbers'), whose codes may be anything, 0 for one too small to divide by.
struct Scale { float scale, inverse; };
inline Scale scale_of(const float* x, int k) {
  uint32_t top = 0;
  for (int i = 0; i < k; i++) top = std::max(top, bits(x[i]) & 0x7fffffff);
  float absmax;
  memcpy(&absmax, &top, 4);
  if (top >= 0x7f800000 || absmax < 1e-30f) return {top >= 0x7f800000 ? __builtin_nanf("") : 0, 0};
  return {absmax / 127, 127 / absmax};
}
inline void codes(const float* x, int count, float inverse, int8_t* q) {
  for (int i = 0; i < count; i++) q[i] = (int8_t)bits(x[i] * inverse + 12582912.f);  // 1.5 · 2²³: rounds in the last bits
}

struct Share { int from, to; };
inline Share share(int count, int by, int t, int nt) {
  int64_t whole = (count + by - 1) / by;
  return {(int)std::min<int64_t>(whole * t / nt * by, count), (int)std::min<int64_t>(whole * (t + 1) / nt * by, count)};
}

}  // namespace
