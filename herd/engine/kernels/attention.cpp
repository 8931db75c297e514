// Paged attention with grouped queries, for prompts and replies alike.
//
// The cache is [blocks, layers, kv heads, 2, BLOCK · wide] of bf16, keys before values. Both lie in pairs, as
// bf16 dot products take them: keys [wide/2, BLOCK, 2] (pairs of dims), values [wide/32, BLOCK/2, 32, 2] (pairs of
// positions). One panel product then serves both: C [R, 32] += A [R, pairs] · B [pairs, 32].
//
// A row goes through its blocks from position 0 on, with a running maximum (online softmax, Milakov & Gimelshein,
// arXiv:1805.02867). Each block's step is a matter of the row and the block alone: masked keys weigh exactly 0, and
// blocks past the row are left out. So a row's bits depend neither on the rows it is computed with nor on threads.
//
// A row against one block costs 4 · BLOCK · wide operations. A tile of rows reads 4 · BLOCK · wide bytes for it
// once: a reply's group of 4 rows does 4 operations a byte, a prompt's tile of TILE rows 64.
#include <algorithm>
#include <cmath>
#include <utility>

#include "layer.h"
#include "simd.h"

namespace herd {
namespace {

constexpr int TILE = 64;                   // rows that share what they read of a block
constexpr int N = 32 / W;                  // vectors of a panel's row
constexpr int ROWS = W == 16 ? 12 : 2;     // rows of a panel product: 24 (8) accumulators
constexpr int WIDEST = 1024;               // of heads, as Config allows

// odd: the pair of which only the first half exists (the other may hold anything), or -1. ahead: what to fetch while
// b is used.
template <int R>
void panel(const uint16_t* a, int lda, const uint16_t* b, const uint16_t* ahead, int pairs, int odd, float* c,
           int ldc) {
  F acc[R][N];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < N; v++) acc[r][v] = load(c + r * ldc + v * W);
  for (int j = 0; j < pairs; j++, b += 64, ahead += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(ahead + 32), _MM_HINT_T0);
    I bv[N];
    for (int v = 0; v < N; v++) {
      bv[v] = loadi(b + v * 2 * W);
      if (j == odd) bv[v] = both(bv[v], set1i(0xffff));
    }
    for (int r = 0; r < R; r++) {
      uint32_t pair;
      std::memcpy(&pair, a + r * lda + 2 * j, 4);
      const I av = set1i(pair);
      for (int v = 0; v < N; v++) acc[r][v] = dot2(acc[r][v], av, bv[v]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < N; v++) store(c + r * ldc + v * W, acc[r][v]);
}

using Panel = void (*)(const uint16_t*, int, const uint16_t*, const uint16_t*, int, int, float*, int);
template <int... R>
constexpr Panel pick(int rows, std::integer_sequence<int, R...>) {
  constexpr Panel all[] = {panel<R + 1>...};
  return all[rows - 1];
}

// Turn x[i], x[i + head/2] by the row's angles, in fp32.
void rotate(const float* x, const float* angles, int head, float* y) {
  const int half = head / 2;
  const float *cosine = angles, *sine = angles + half;
  for (int i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half];
    y[i] = std::fma(a, cosine[i], -(b * sine[i]));
    y[i + half] = std::fma(b, cosine[i], a * sine[i]);
  }
}

struct Tile {
  alignas(64) float score[ROWS][32], highest[TILE], total[TILE][W];
  alignas(64) uint16_t p[ROWS][32];
};

// Rows [first, last) of the span's heads, token by token, that share key-value head kv.
void tile(const Shape& s, const Chunk& c, const Span& span, int layer, int kv, const uint16_t* cache, int first,
          int last) {
  static thread_local Tile m;
  alignas(64) static thread_local uint16_t q[TILE * WIDEST];
  alignas(64) static thread_local float out[TILE * WIDEST];
  const int G = s.heads / s.kv_heads, D = s.head, wide = s.wide(), rows = last - first;
  const F scale = set1(LOG2E / std::sqrt(float(D)));
  for (int r = 0; r < rows; r++) {
    const int token = (first + r) / G, head = kv * G + (first + r) % G;
    alignas(64) float turned[WIDEST];
    rotate(c.y + size_t(span.start + token) * s.qkv() + head * D, c.angles + size_t(span.past + token) * D, D,
           turned);
    std::memset(turned + D, 0, size_t(wide - D) * 4);
    for (int d = 0; d < wide; d += 32) bf16x32(turned + d, q + r * wide + d);
    m.highest[r] = -INFINITY;
    store(m.total[r], set1(0));
  }
  std::memset(out, 0, size_t(rows) * wide * 4);
  const int end = span.past + (last - 1) / G + 1;  // positions that the last row sees
  const auto find = [&](int block) {
    const size_t at = size_t(c.blocks[span.first + block]) * s.layers + layer;
    return cache + (at * s.kv_heads + kv) * 2 * BLOCK * wide;
  };
  for (int block = 0; block * BLOCK < end; block++) {
    const uint16_t *keys = find(block), *values = keys + BLOCK * wide;
    const bool more = (block + 1) * BLOCK < end;
    const int known = std::min(end - block * BLOCK, BLOCK), pairs = (known + 1) / 2;
    for (int r0 = 0; r0 < rows; r0 += ROWS) {
      const int n = std::min(ROWS, rows - r0);
      if (span.past + (first + r0 + n - 1) / G < block * BLOCK) continue;
      const Panel product = pick(n, std::make_integer_sequence<int, ROWS>());
      std::memset(m.score, 0, sizeof m.score);
      const uint16_t* ahead = more && r0 == 0 ? find(block + 1) : keys;
      product(q + r0 * wide, wide, keys, ahead, wide / 2, -1, m.score[0], 32);
      for (int i = 0; i < n; i++) {
        const int r = r0 + i, sees = span.past + (first + r) / G - block * BLOCK;
        float* score = m.score[i];
        if (sees < 0) {  // p is 0: its sums stay what they are
          std::memset(m.p[i], 0, 64);
          continue;
        }
        for (int j = sees + 1; j < BLOCK; j++) score[j] = -INFINITY;
        F top = set1(-INFINITY);
        for (int v = 0; v < BLOCK; v += W) top = max(load(score + v), top);
        const float before = m.highest[r], now = std::max(before, highest(top));
        m.highest[r] = now;
        const F shift = mul(set1(-now), scale);
        for (int v = 0; v < BLOCK; v += W) store(score + v, exp2(fma(load(score + v), scale, shift)));
        bf16x32(score, m.p[i]);
        F total = load(m.total[r]);
        if (now > before) {
          const F fade = exp2(fma(set1(before), scale, shift));
          total = mul(total, fade);
          for (int d = 0; d < wide; d += W) store(out + r * wide + d, mul(load(out + r * wide + d), fade));
        }
        for (int v = 0; v < BLOCK; v += 2 * W) total = dot2(total, loadi(m.p[i] + v), set1i(0x3f803f80));
        store(m.total[r], total);
      }
      for (int d = 0; d < wide; d += 32)
        product(m.p[0], 32, values + d * BLOCK, ahead + (wide + d) * BLOCK, pairs, known % 2 ? pairs - 1 : -1, out + r0 * wide + d, wide);
    }
  }
  for (int r = 0; r < rows; r++) {
    const int token = (first + r) / G, head = kv * G + (first + r) % G;
    float* y = c.h + (size_t(span.start + token) * s.heads + head) * D;
    const float total = sum(load(m.total[r]));
    for (int d = 0; d < D; d++) y[d] = out[r * wide + d] / total;
  }
}

}  // namespace

// Keys (turned) and values of the chunk's rows, from y to the cache.
void write_cache(const Shape& s, const Chunk& c, int layer, uint16_t* cache, int t, int nt) {
  const int D = s.head, wide = s.wide(), first = share(c.rows, t, nt), last = share(c.rows, t + 1, nt);
  for (int i = 0; i < c.spans; i++) {
    const Span& span = c.span[i];
    for (int row = std::max(first, span.start); row < std::min(last, span.stop); row++) {
      const int position = span.past + row - span.start, p = position % BLOCK;
      const size_t at = size_t(c.blocks[span.first + position / BLOCK]) * s.layers + layer;
      for (int kv = 0; kv < s.kv_heads; kv++) {
        uint16_t* keys = cache + (at * s.kv_heads + kv) * 2 * BLOCK * wide;
        uint16_t* values = keys + BLOCK * wide;
        const float* k = c.y + size_t(row) * s.qkv() + (s.heads + kv) * D;
        const float* v = k + s.kv_heads * D;
        float turned[WIDEST];
        rotate(k, c.angles + size_t(position) * D, D, turned);
        for (int d = 0; d < wide; d++) {
          keys[d / 2 * 64 + p * 2 + d % 2] = d < D ? bf16(turned[d]) : 0;
          values[d / 32 * 1024 + p / 2 * 64 + d % 32 * 2 + p % 2] = d < D ? bf16(v[d]) : 0;
        }
      }
    }
  }
}

// All rows' heads, from y and the cache to h [rows, heads · head]. Threads take tiles as they come, the longest
// first; who computes a tile does not matter to its bits.
void attend(const Shape& s, const Chunk& c, int layer, const uint16_t* cache, std::atomic<int>& next) {
  const int G = s.heads / s.kv_heads;
  int skipped = 0;
  for (int i = 0, task = next++; i < c.spans; i++) {
    const Span& span = c.span[i];
    const int rows = (span.stop - span.start) * G, tiles = (rows + TILE - 1) / TILE;
    for (; task < skipped + tiles * s.kv_heads; task = next++) {
      const int first = (tiles - 1 - (task - skipped) / s.kv_heads) * TILE;
      tile(s, c, span, layer, (task - skipped) % s.kv_heads, cache, first, std::min(first + TILE, rows));
    }
    skipped += tiles * s.kv_heads;
  }
}

}  // namespace herd
