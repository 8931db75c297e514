// Weights into their layout and back.
#include "layout.h"

#include <immintrin.h>

#include <vector>

namespace {

#ifdef __AVX512F__
const int LANES = 16;
#else
const int LANES = 8;  // of wider vectors the compiler would choose between each number on its own, ten times slower
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Masks __attribute__((vector_size(4 * LANES)));

Masks magnitude(Lanes x) { return (Masks)x & 0x7fffffff; }  // as integers, so that NaN is the largest of all

// Int4 codes and scales of some outputs' groups, one a lane. The largest weight of a group, with its sign, is brought to -8 or
// a little beside it; of these scales, each fitted to its codes by least squares, the one with the smallest error stays.
void pack_int4(const Lanes* x, uint8_t* group, uint16_t* scales) {
  const Lanes zero = {};
  Lanes top = {}, best = {}, scale = {}, q[HERD_GROUP];
  Masks codes[HERD_GROUP] = {};
  for (int i = 0; i < HERD_GROUP; i++) top = magnitude(x[i]) <= magnitude(top) ? top : x[i];
  for (float reach : {-8.f, -8.7f, -7.4f, -6.8f, 7.f}) {
    Lanes inverse = reach / top, xq = {}, qq = {};
    inverse = (Lanes)magnitude(inverse) < 1e30f ? inverse : zero;
    for (int i = 0; i < HERD_GROUP; i++) {
      Lanes code = (x[i] * inverse + 12582912.f) - 12582912.f;
      code = code > 7.f ? zero + 7.f : code;
      q[i] = code < -8.f ? zero - 8.f : code;
      xq += x[i] * q[i], qq += q[i] * q[i];
    }
    Lanes gain = xq * xq / qq;
    Masks better = gain > best;
    best = better ? gain : best, scale = better ? xq / qq : scale;
    for (int i = 0; i < HERD_GROUP; i++) codes[i] = better ? __builtin_convertvector(q[i], Masks) : codes[i];
  }
  scale += top - top;  // NaN where a weight is not finite
  for (int c = 0; c < LANES; c++) scales[c] = _cvtss_sh(scale[c], 0);
  for (int i = 0; i < HERD_GROUP / 2; i++) {
    Masks both = (codes[i] + 8) | (codes[i + 16] + 8) << 4;
    for (int c = 0; c < LANES; c++) group[i / 4 * 64 + c * 4 + i % 4] = both[c];
  }
}

// A row as fp32; zeros past its end, and for a row past the last.
void widen(const void* row, bool is_bf16, int k, int padded, float* x) {
  int n = row ? k : 0;
  if (is_bf16)
    for (int i = 0; i < n; i++) x[i] = from_bf16(((const uint16_t*)row)[i]);
  else if (row)
    memcpy(x, row, n * sizeof(float));
  std::fill(x + n, x + padded, 0.f);
}

void pack_panel_int4(const Weight& w, const void* const* rows, bool is_bf16, uint8_t* data) {
  int padded = units(w.k) * UNIT;
  std::vector<float> x(PANEL * padded);
  for (int c = 0; c < PANEL; c++) widen(rows[c], is_bf16, w.k, padded, &x[c * padded]);
  for (int g = 0; g < padded / HERD_GROUP; g++) {
    uint8_t* unit = data + g / 2 * UNIT_BYTES[HERD_INT4];
    for (int first = 0; first < PANEL; first += LANES) {
      Lanes tile[HERD_GROUP];
      for (int c = 0; c < LANES; c++)
        for (int i = 0; i < HERD_GROUP; i++) tile[i][c] = x[(first + c) * padded + g * HERD_GROUP + i];
      pack_int4(tile, unit + 64 + g % 2 * 256 + first * 4, (uint16_t*)unit + g % 2 * 16 + first);
    }
  }
}

// Both layouts have four bytes of an output, then those of the next.
void pack_panel(const Weight& w, const void* const* rows, bool is_bf16, uint8_t* data, int first) {
  int padded = units(w.k) * UNIT, words = units(w.k) * UNIT_BYTES[w.kind] / (PANEL * 4);
  std::vector<float> x(padded);
  std::vector<uint8_t> row(4 * words);
  for (int c = 0; c < PANEL; c++) {
    widen(rows[c], is_bf16, w.k, padded, x.data());
    if (w.kind == HERD_BF16) {
      for (int i = 0; i < padded; i++) ((uint16_t*)row.data())[i] = to_bf16(x[i]);
    } else {
      int8_t* q = (int8_t*)row.data();
      int32_t sum = 0;
      const Scale of = scale_of(x.data(), padded);
      ((float*)w.scale)[first + c] = of.scale;
      codes(x.data(), padded, of.inverse, q);
      for (int i = 0; i < padded; i++) sum += q[i];
      ((int32_t*)w.sum)[first + c] = 128 * sum;
    }
    for (int j = 0; j < words; j++) memcpy(data + (j * PANEL + c) * 4, &row[4 * j], 4);
  }
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

void herd_pack(const Weight* w, const void* const* rows, int is_bf16, int t, int nt) {
  Share mine = share(panels(w->n), 1, t, nt);
  for (int panel = mine.from; panel < mine.to; panel++) {
    int first = panel * PANEL;
    const void* of[PANEL] = {};
    std::copy(rows + first, rows + std::min(first + PANEL, w->n), of);
    uint8_t* data = (uint8_t*)w->data + (size_t)panel * units(w->k) * UNIT_BYTES[w->kind];
    if (w->kind == HERD_INT4)
      pack_panel_int4(*w, of, is_bf16, data);
    else
      pack_panel(*w, of, is_bf16, data, first);
  }
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
