// y = x Wᵀ for packed weights: bf16 × bf16, int8 × int8, int4 × int8.
//
// Int8 and the inside of an int4 group accumulate exactly in int32. What is summed in fp32 (int4 groups, bf16) is summed
// in one chain per output along k, the same for any number of rows.
//
// Work: 2 n k operations a row. Bytes: the weight once per call (n k × 1, 2 or 0.5625), since all rows pass over a panel
// group while it is in the caches; rows × k × (1 or 2) of activations and rows × n × 4 of results. So one row is bound by
// memory (2 operations a byte at int8), and some tens of rows by the multipliers.
#include "inner.h"

#if defined(HERD_EMULATE_AMX)
#include "emulate_amx.h"
#define HERD_AMX 1
#elif defined(__AMX_INT8__)
#define HERD_AMX 1
#else
#define HERD_AMX 0
#endif

namespace {

bool tiled(int kind) { return HERD_AMX && kind != HERD_INT4; }

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

// ---- blocks of rows and panels

void put(float* y, herd::F value, int count, int add) {
  if (count >= herd::W) return herd::store(y, add ? herd::add(herd::load(y), value) : value);
  float lanes[herd::W];
  herd::store(lanes, value);
  for (int i = 0; i < count; i++) y[i] = add ? y[i] + lanes[i] : lanes[i];
}
#ifndef __AVX512F__
void put(float* y, F value, int count, int add) {
  put(y, value.a, count, add);
  put(y + herd::W, value.b, count - herd::W, add);
}
#endif

struct Out {
  float* y;
  int ld, add;
};

// What to bring near while computing: in each unit `lines` cache lines from `next` on, or where several panels are read, as
// many of each panel; at unit `jump` their places in the next panels are reached.
struct Ahead {
  const uint8_t* next;
  int lines, jump;
};

template <class K, int R, int N>
void block(const Weight& w, int panel, const Act& act, int row, Out out, Ahead ahead) {
  int count = units(w.k);
  size_t apart = (size_t)count * UNIT_BYTES[K::kind], groups = (size_t)count * 2;
  using Acc = typename K::template Acc<R>;
  constexpr int width = sizeof(K::finish(Acc{}, w, 0, 0)) / 4;  // outputs that a pass over the panel makes
  for (int first = 0; first < PANEL; first += width, ahead.lines = 0) {
    const uint8_t* data = w.data + panel * apart + first * 4;
    const uint8_t* a = act.at(row, 0);
    const int32_t* sums = act.sums + row * groups;
    Acc acc[R][N];
    each<R>([&](auto r) FLAT { each<N>([&](auto p) FLAT { acc[r][p] = Acc{}; }); });
    for (int u = 0; u < count; u++) {
      if (u == ahead.jump) ahead.next += (N - 1) * apart;
      K::step(acc, data, apart, a, act.stride, sums, groups, [&](int i) FLAT {
        if (i < ahead.lines) each<N>([&](auto p) FLAT { _mm_prefetch((const char*)ahead.next + p * apart + i * 64, _MM_HINT_T0); });
      });
      ahead.next += ahead.lines * 64;
      data += UNIT_BYTES[K::kind], a += UNIT * act.width, sums += 2;
    }
    each<R>([&](auto r) FLAT { each<N>([&](auto p) FLAT {
      int n = (panel + p) * PANEL + first;
      float scale = K::kind == HERD_BF16 ? 1 : act.scale[row + r];
      put(out.y + (size_t)(row + r) * out.ld + n, K::finish(acc[r][p], w, n, scale), w.n - n, out.add);
    }); });
  }
}

template <class K, int R = K::R>
void rows_block(int r, int wide, const Weight& w, int panel, const Act& act, int row, Out out, Ahead ahead) {
  if (r == R && wide == 1) return block<K, R, 1>(w, panel, act, row, out, ahead);
  if constexpr (K::together(1) == 2 || K::together(2 * K::R) == 2)
    if (r == R) return block<K, R, 2>(w, panel, act, row, out, ahead);
  if constexpr (R > 1) rows_block<K, R - 1>(r, wide, w, panel, act, row, out, ahead);
}

const int DISTANCE = 4096;  // bytes between what one block of rows computes with and what it prefetches, all panels together

// Panels [from, to). One block of rows reads them from front to back, which memory likes best, and prefetches as it goes; but
// two at once for bf16, where each sum waits some cycles for its last product, too long for a single one to keep pace with
// the caches. Where several blocks pass over panels, they fetch the next ones meanwhile, each its part; but the first of all,
// for which nobody has.
template <class K>
void multiply(const Weight& w, int from, int to, const Act& act, Out out) {
  const int bytes = UNIT_BYTES[K::kind], count = units(w.k);
  size_t panel_bytes = (size_t)count * bytes;
  int blocks = (act.rows + K::R - 1) / K::R, lines = (bytes / 64 + blocks - 1) / blocks;
  const int together = K::together(act.rows);
  for (int panel = from, wide; panel < to; panel += wide) {
    wide = panel + together <= to ? together : 1;
    const uint8_t* here = w.data + panel * panel_bytes;
    int near = std::min(DISTANCE / wide, count * bytes);
    for (int b = 0, row = 0; b < blocks; b++) {
      size_t done = (size_t)b * lines * 64 * count;
      Ahead ahead = {here + near, bytes / 64, count - near / bytes};
      if (blocks > 1 && (b > 0 || panel > from))
        ahead = {here + wide * panel_bytes + done, done < panel_bytes ? lines : 0, count};
      int r = (act.rows - row + blocks - b - 1) / (blocks - b);
      rows_block<K>(r, wide, w, panel, act, row, out, ahead);
      row += r;
    }
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

INLINE void fetch(Ahead& ahead) {
  for (int i = 0; i < ahead.lines; i++, ahead.next += 64) _mm_prefetch((const char*)ahead.next, _MM_HINT_T0);
}

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
    for (int i = 0; i < 4; i++) fetch(ahead);
  }
  for (; s < steps; s++, a += 1024, b += 1024) {
    _tile_loadd(4, a, 64); _tile_loadd(6, b, 64);
    PRODUCT(0, 4, 6);
    fetch(ahead);
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
    fetch(ahead);
  }
  _tile_stored(0, sums[0], 64); _tile_stored(1, sums[1], 64); _tile_stored(2, sums[2], 64); _tile_stored(3, sums[3], 64);
}

template <class K>
void put_tile(const Tile sums, const Weight& w, int panel, const Act& act, int row, Out out) {
  for (int r = 0; r < std::min(16, act.rows - row); r++) {
    typename K::template Acc<1> acc;
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
      Ahead ahead = {b + 2 * panel_bytes + done, done < 2 * panel_bytes ? lines : 0, 0};
      square<K>(steps, act.at(row, 0), act.at(row + 16, 0), b, b + panel_bytes, ahead, sums);
      for (int i = 0; i < 4; i++) put_tile<K>(sums[i], w, panel + i % 2, act, row + i / 2 * 16, out);
    }
    for (; row < act.rows; row += 16)
      for (int p = 0; p < count; p++) {
        narrow<K>(steps, act.at(row, 0), b + p * panel_bytes, {b + p * panel_bytes + DISTANCE, pairs ? 0 : 16, 0}, sums);
        put_tile<K>(sums[0], w, panel + p, act, row, out);
      }
  }
  _tile_release();
}
#endif

}  // namespace

size_t herd_act_bytes(int kind, int rows, int k) { return Act(kind, rows, k, nullptr).bytes(); }

void herd_prepare(int kind, const float* x, int ldx, int rows, int k, void* memory, int t, int nt) {
  Act act(kind, rows, k, memory);
  Share mine = share(rows, 1, t, nt);
  for (int row = mine.from; row < mine.to; row++) {
    const float* from = x + (size_t)row * ldx;
    for (int u = 0; u < units(k); u++) __builtin_prefetch(act.at(row, u), 1);  // other cores have read what is there
    const Scale of = kind == HERD_BF16 ? Scale{} : scale_of(from, k);
    if (kind != HERD_BF16) act.scale[row] = of.scale;
    for (int u = 0; u < units(k); u++) {
      uint8_t* to = act.at(row, u);
      int count = std::min(UNIT, k - u * UNIT);
      alignas(64) int8_t q[UNIT];
      if (kind != HERD_BF16) {
        if (count < UNIT) memset(q, 0, UNIT);
        codes(from + u * UNIT, count, of.inverse, q);
      }
      if (kind == HERD_INT4) {
        memcpy(to, q, UNIT);
        for (int g = 0; g < 2; g++) {
          int sum = 0;
          for (int i = 0; i < HERD_GROUP; i++) sum += q[g * HERD_GROUP + i];
          act.sums[((size_t)row * units(k) + u) * 2 + g] = -8 * sum;
        }
      } else if (kind == HERD_INT8) {
        if (act.width == 1) for (int i = 0; i < UNIT; i++) to[i] = q[i] ^ 0x80;
        else for (int i = 0; i < UNIT; i++) ((int16_t*)to)[i] = q[i];
      } else {
        alignas(64) float x[UNIT] = {};
        memcpy(x, from + u * UNIT, count * sizeof(float));
        for (int i = 0; i < 2; i++) herd::bf16x32(x + i * 32, (Bf16::Left*)(to + i * (tiled(kind) ? 1024 : 32 * act.width)));
      }
    }
  }
}

void herd_linear(const Weight* w, const void* memory, int rows, float* y, int ldy, int add, int t, int end, int nt) {
  if (!rows) return;
  Act act(w->kind, rows, w->k, memory);
  Out out = {y, ldy, add};
  const auto begin = [&](int part) { return share(panels(w->n), 2, part, nt).from; };
  Share mine = {begin(t), begin(end)};
#if HERD_AMX
  if (w->kind == HERD_BF16) return multiply_tiles<Bf16>(*w, mine.from, mine.to, act, out);
  if (w->kind == HERD_INT8) return multiply_tiles<Int8>(*w, mine.from, mine.to, act, out);
#else
  if (w->kind == HERD_BF16) return multiply<Bf16>(*w, mine.from, mine.to, act, out);
  if (w->kind == HERD_INT8) return multiply<Int8>(*w, mine.from, mine.to, act, out);
#endif
  multiply<Int4>(*w, mine.from, mine.to, act, out);
}

