// Paged attention with grouped queries, for prompts and replies alike.
//
// The cache is [blocks, layers, kv heads, 2, BLOCK · wide] of bf16, keys before values. Both lie in pairs, as
// bf16 dot products take them: keys [wide/2, BLOCK, 2] (pairs of dims), values [wide/32, BLOCK/2, 32, 2] (pairs of
// positions). One panel product then serves both: C [R, 32] += A [R, pairs] · B [pairs, 32].
//
// A row goes through its blocks from position 0 on, STEP at a time, with a running maximum (online softmax, Milakov &
// Gimelshein, arXiv:1805.02867). A step is a matter of the row and its blocks alone: masked keys weigh exactly 0, and
// blocks past the row are left out. So a row's bits depend neither on the rows it is computed with nor on threads.
//
// A row against one block costs 4 · BLOCK · wide operations. A tile of rows reads 4 · BLOCK · wide bytes for it
// once: a reply's group of 4 rows does 4 operations a byte, a prompt's tile of TILE rows as many as it has rows.
#include <algorithm>
#include <cmath>
#include <utility>

#include "layer.h"
#include "simd.h"

namespace herd {
namespace {

constexpr int ROWS = W == 16 ? 12 : 4;  // of a group, which a panel product computes: 24 (8) accumulators
constexpr int TILE = 4 * ROWS;          // rows that share what they read of a block
constexpr int STEP = 4;                 // blocks that a row takes at a time
constexpr int KEYS = STEP * BLOCK;
constexpr int WIDEST = 1024;            // of heads, as Config allows
constexpr float NEVER = -1e30f;         // a masked score: its weight is 0

// C = fade C + A B, or A B without fade; B goes on in the next block after `each` pairs. ahead: what to fetch
// meanwhile.
template <int R>
void panel(const Left* a, int lda, const uint16_t* const* b, const uint16_t* const* ahead, int offset, int pairs,
           int each, const float* fade, float* c, int ldc) {
  constexpr int V = R <= 2 ? 32 / W : 2;  // vectors at once
  for (int column = 0; column < 32; column += V * W, c += V * W, offset += 2 * V * W) {
    F acc[R][V];
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) acc[r][v] = fade ? mul(load(c + r * ldc + v * W), set1(fade[r])) : set1(0);
    for (int i = 0; i * each < pairs; i++) {
      const uint16_t *line = b[i] + offset, *next = ahead[i] + offset;
      const Left* pair = a + 2 * i * each;
      for (int j = std::min(pairs - i * each, each); j > 0; j--, line += 64, next += 64, pair += 2) {
        _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T1);
        if (V * W == 32) _mm_prefetch(reinterpret_cast<const char*>(next + 32), _MM_HINT_T1);
        Right both[V];
        for (int v = 0; v < V; v++) both[v] = right(line + v * 2 * W);
        for (int r = 0; r < R; r++)
          for (int v = 0; v < V; v++) acc[r][v] = dot2(acc[r][v], pair + r * lda, both[v]);
      }
    }
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) store(c + r * ldc + v * W, acc[r][v]);
  }
}

using Panel = void (*)(const Left*, int, const uint16_t* const*, const uint16_t* const*, int, int, int,
                       const float*, float*, int);
template <int... R>
constexpr Panel pick(int rows, std::integer_sequence<int, R...>) {
  constexpr Panel all[] = {panel<R + 1>...};
  return all[rows - 1];
}

// x [head] to bf16 [wide], filled up with zeros; as fp32 where products take it so.
template <typename To>
void round(const float* x, int head, int wide, To* y) {
  alignas(64) float filled[WIDEST];
  std::memcpy(filled, x, size_t(head) * 4);
  std::memset(filled + head, 0, size_t(wide - head) * 4);
  for (int d = 0; d < wide; d += 32) bf16x32(filled + d, y + d);
}

// The same of x with x[i], x[i + head/2] turned by the row's angles, in fp32.
template <typename To>
void rotate(const float* x, const float* angles, int head, int wide, To* y) {
  alignas(64) float turned[WIDEST];
  const int half = head / 2;
  const float *cosine = angles, *sine = angles + half;
  for (int i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half];
    turned[i] = std::fma(a, cosine[i], -(b * sine[i]));
    turned[i + half] = std::fma(b, cosine[i], a * sine[i]);
  }
  round(turned, head, wide, y);
}

// Rows [first, last) of the span's heads, token by token, that share key-value head kv.
void tile(const Shape& s, const Chunk& c, const Span& span, int layer, int kv, const uint16_t* cache, int first,
          int last) {
  alignas(64) static thread_local Left q[TILE * WIDEST];
  alignas(64) static thread_local float out[TILE * WIDEST];
  alignas(64) float score[ROWS][KEYS], now[W], fade[W];
  alignas(64) Left p[ROWS][KEYS];
  struct { alignas(64) float highest[W], total[ROWS][W]; } groups[TILE / ROWS];
  const int G = s.heads / s.kv_heads, D = s.head, wide = s.wide(), rows = last - first;
  const F scale = set1(LOG2E / std::sqrt(float(D)));
  const auto sees = [&](int r) { return span.past + (first + r) / G + 1; };  // positions that row r sees
  const auto head = [&](int r) { return kv * G + (first + r) % G; };
  for (int r = 0; r < rows; r++) {
    const int token = (first + r) / G;
    rotate(c.y + size_t(span.start + token) * s.qkv() + head(r) * D, c.angles + size_t(span.past + token) * D, D, wide,
           q + r * wide);
  }
  for (auto& g : groups) {
    store(g.highest, set1(NEVER));
    for (auto& total : g.total) store(total, set1(0));
  }
  const int blocks = (sees(rows - 1) + BLOCK - 1) / BLOCK;
  const uint16_t* keys[2 * STEP];  // of a step's blocks, and of the next's; values lie behind them
  const auto find = [&](int block) {
    const size_t at = size_t(c.blocks[span.first + std::min(block, blocks - 1)]) * s.layers + layer;
    return cache + (at * s.kv_heads + kv) * 2 * BLOCK * wide;
  };
  for (int i = 0; i < STEP; i++) keys[STEP + i] = find(i);
  for (int start = 0; start < blocks * BLOCK; start += KEYS) {
    for (int i = 0; i < STEP; i++) keys[i] = keys[STEP + i], keys[STEP + i] = find(start / BLOCK + STEP + i);
    for (int r0 = 0; r0 < rows; r0 += ROWS) {
      const int n = std::min(ROWS, rows - r0), known = std::min(sees(r0 + n - 1) - start, KEYS);
      if (known <= 0) continue;
      const Panel product = pick(n, std::make_integer_sequence<int, ROWS>());
      auto& g = groups[r0 / ROWS];
      const int end = (known + BLOCK - 1) / BLOCK * BLOCK;
      const uint16_t* const* ahead = keys + (r0 == 0 ? STEP : 0);
      for (int i = 0; i * BLOCK < end; i++)
        product(q + r0 * wide, wide, keys + i, ahead + i, 0, wide / 2, wide / 2, nullptr, score[0] + i * BLOCK, KEYS);
      store(now, load(g.highest));
      for (int i = 0; i < n; i++) {
        for (int j = std::max(sees(r0 + i) - start, 0); j < end; j++) score[i][j] = NEVER;
        F top = load(score[i]);
        for (int j = W; j < end; j += W) top = max(load(score[i] + j), top);
        now[i] = std::max(now[i], highest(top));
      }
      store(fade, exp2(mul(sub(load(g.highest), load(now)), scale)));
      store(g.highest, load(now));
      for (int i = 0; i < n; i++) {
        const F shift = mul(set1(-now[i]), scale);
        F total = mul(load(g.total[i]), set1(fade[i]));
        for (int j = 0; j < end; j += 32) {
          for (int v = j; v < j + 32; v += W) store(score[i] + v, exp2_rough(fma(load(score[i] + v), scale, shift)));
          bf16x32(score[i] + j, p[i] + j);
          total = total32(total, p[i] + j);
        }
        store(g.total[i], total);
      }
      for (int d = 0; d < wide; d += 32)
        product(p[0], KEYS, keys, ahead, (wide + d) * BLOCK, (known + 1) / 2, BLOCK / 2, start ? fade : nullptr,
                out + r0 * wide + d, wide);
    }
  }
  for (int r = 0; r < rows; r++) {
    float* y = c.h + (size_t(span.start + (first + r) / G) * s.heads + head(r)) * D;
    const float total = sum(load(groups[r / ROWS].total[r % ROWS]));
    for (int d = 0; d < D; d++) y[d] = out[r * wide + d] / total;
  }
}

int tiles(const Shape& s, const Span& span) {
  return ((span.stop - span.start) * s.heads / s.kv_heads + TILE - 1) / TILE;
}

}  // namespace

// Keys (turned) and values of the chunk's rows, from y to the cache. The row at an even position writes the values of
// its pair, with zeros for the second while there is none, so that a pair is read whole; one at an odd position writes
// its own only where its pair began in an earlier chunk.
void write_cache(const Shape& s, const Chunk& c, int layer, uint16_t* cache, int t, int nt) {
  const int D = s.head, wide = s.wide(), first = share(c.rows, t, nt), last = share(c.rows, t + 1, nt);
  alignas(64) uint16_t key[WIDEST], value[2][WIDEST];
  for (int i = 0; i < c.spans; i++) {
    const Span& span = c.span[i];
    for (int row = std::max(first, span.start); row < std::min(last, span.stop); row++) {
      const int position = span.past + row - span.start, p = position % BLOCK, second = p % 2;
      const size_t at = size_t(c.blocks[span.first + position / BLOCK]) * s.layers + layer;
      for (int kv = 0; kv < s.kv_heads; kv++) {
        uint16_t* keys = cache + (at * s.kv_heads + kv) * 2 * BLOCK * wide;
        const float* k = c.y + size_t(row) * s.qkv() + (s.heads + kv) * D;
        const float* v = k + s.kv_heads * D;
        rotate(k, c.angles + size_t(position) * D, D, wide, key);
        for (int d = 0; d < wide; d += 2) std::memcpy(keys + d * BLOCK + p * 2, key + d, 4);
        if (second && row > span.start) continue;
        round(v, D, wide, value[second]);
        if (!second) round(v + s.qkv(), row + 1 < span.stop ? D : 0, wide, value[1]);
        for (int d = 0; d < wide; d += 32) {
          uint16_t* pairs = keys + (wide + d) * BLOCK + p / 2 * 64;
          for (int j = 0; j < 32; j++) {
            if (!second) pairs[2 * j] = value[0][d + j];
            pairs[2 * j + 1] = value[1][d + j];
          }
        }
      }
    }
  }
}

int tiles(const Shape& s, const Chunk& c) {
  int count = 0;
  for (int i = 0; i < c.spans; i++) count += tiles(s, c.span[i]) * s.kv_heads;
  return count;
}

// One tile of all rows' heads, from y and the cache to h [rows, heads · head]; of each span the longest come first.
void attend(const Shape& s, const Chunk& c, int layer, const uint16_t* cache, int which) {
  const Span* span = c.span;
  for (int n; which >= (n = tiles(s, *span) * s.kv_heads); span++) which -= n;
  const int first = (tiles(s, *span) - 1 - which / s.kv_heads) * TILE, rows = (span->stop - span->start) * s.heads / s.kv_heads;
  tile(s, c, *span, layer, which % s.kv_heads, cache, first, std::min(first + TILE, rows));
}

}  // namespace herd
