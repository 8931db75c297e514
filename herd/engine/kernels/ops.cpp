// What lies between the products, row by row or number by number. All of it reads and writes fp32 once: 8 bytes a
// number, against k/2 to 2k bytes of weights for each number of a product.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "layer.h"
#include "simd.h"

namespace herd {

// x / √(mean(x²) + ε) · weight. Lanes are summed in one order whatever the row.
void norm(const float* x, const float* weight, int dim, float eps, float* y) {
  F squares = set1(0);
  int i = 0;
  for (; i + W <= dim; i += W) squares = fma(load(x + i), load(x + i), squares);
  float total = sum(squares);
  for (int j = i; j < dim; j++) total = std::fma(x[j], x[j], total);
  const float scale = 1 / std::sqrt(total / float(dim) + eps);
  for (int j = 0; j < dim; j++) y[j] = x[j] * scale * weight[j];
}

// silu(gate) · up, silu(g) = g / (1 + e^-g). Relative error below 1e-6 · (1 + |g| / 10).
void gate(const float* gate_up, int ffn, float* y) {
  const float* up = gate_up + ffn;
  const F one = set1(1);
  const auto step = [&](const float* g, const float* u, float* out) {
    const F v = load(g), e = exp2(mul(v, set1(-LOG2E)));
    store(out, mul(divide(v, add(one, e)), load(u)));
  };
  int i = 0;
  for (; i + W <= ffn; i += W) step(gate_up + i, up + i, y + i);
  if (i == ffn) return;
  float rest[3][W] = {};
  for (int j = i; j < ffn; j++) rest[0][j - i] = gate_up[j], rest[1][j - i] = up[j];
  step(rest[0], rest[1], rest[2]);
  for (int j = i; j < ffn; j++) y[j] = rest[2][j - i];
}

// LoRA. A batch of many adapters waits for their memory, in pieces too small for the processor to foresee: so the next
// piece is fetched while one is used.
static void fetch(const uint16_t* from, size_t count) {
  for (size_t i = 0; i < count; i += 32) _mm_prefetch(reinterpret_cast<const char*>(from + i), _MM_HINT_T1);
}

// visit(lora, the next or null, low) for the product's adapters, which lie side by side; low: what is between their
// halves, one after the other.
template <typename Visit>
static void each(const Chunk& c, int product, Visit visit) {
  uint16_t* low = c.low;
  const Lora *l = c.lora, *end = l + c.loras;
  while (l < end && l->product < product) l++;
  for (; l < end && l->product == product; low += size_t(l->stop - l->start) * l->rank, l++)
    visit(*l, l + 1 < end && l[1].product == product ? l + 1 : nullptr, low);
}

// First half: low = A x for each row; x, and what comes of it, is rounded to bf16. Threads share the ranks by fours.
void low_rank(const Chunk& c, int product, const float* h, int k, int t, int nt) {
  const int whole = k / 32 * 32, lda = (k + 31) / 32 * 32;
  const auto from = [&](const Lora& l) { return share(l.rank / 4, t, nt) * 4; };
  const auto to = [&](const Lora& l) { return share(l.rank / 4, t + 1, nt) * 4; };
  each(c, product, [&](const Lora& l, const Lora* next, uint16_t* low) {
    if (next) fetch(next->a + size_t(from(*next)) * lda, size_t(to(*next) - from(*next)) * lda);
    for (int row = l.start; row < l.stop; row++, low += l.rank)
      for (int r = from(l); r < to(l); r += 4) {
        const uint16_t* a = l.a + size_t(r) * lda;
        const float* x = h + size_t(row) * k;
        F dot[4] = {set1(0), set1(0), set1(0), set1(0)};
        const auto step = [&](const float* x, int j) {
          alignas(64) uint16_t rounded[32];
          bf16x32(x, rounded);
          for (int v = 0; v < 32; v += 2 * W)
            for (int q = 0; q < 4; q++) dot[q] = dot2(dot[q], loadi(a + size_t(q) * lda + j + v), loadi(rounded + v));
        };
        for (int j = 0; j < whole; j += 32) step(x + j, j);
        if (whole < k) {
          float rest[32] = {};
          std::memcpy(rest, x + whole, size_t(k - whole) * 4);
          step(rest, whole);
        }
        for (int q = 0; q < 4; q++) low[r + q] = bf16(sum(dot[q]));
      }
  });
}

// Second half: y += B low. Threads share panels of 16 columns.
void add_low_rank(const Chunk& c, int product, float* out, int ldy, int t, int nt) {
  const auto from = [&](const Lora& l) { return share((l.n + 15) / 16, t, nt); };
  const auto to = [&](const Lora& l) { return share((l.n + 15) / 16, t + 1, nt); };
  each(c, product, [&](const Lora& l, const Lora* next, const uint16_t* low) {
    if (next) fetch(next->b + size_t(from(*next)) * 16 * next->rank, size_t(to(*next) - from(*next)) * 16 * next->rank);
    for (int row = l.start; row < l.stop; row++, low += l.rank)
      for (int p = from(l); p < to(l); p++) {
        const uint16_t* b = l.b + size_t(p) * 16 * l.rank;
        float* y = out + size_t(row) * ldy + l.column + p * 16;
        const int n = std::min(16, l.n - p * 16);
        float rest[16] = {};
        float* const sums = n == 16 ? y : rest;
        if (n < 16) std::memcpy(rest, y, size_t(n) * 4);
        for (int v = 0; v < 16; v += W) {
          F total = load(sums + v);
          for (int r = 0; r < l.rank; r += 2) {
            uint32_t pair;
            std::memcpy(&pair, low + r, 4);
            total = dot2(total, set1i(pair), loadi(b + r * 16 + v * 2));
          }
          store(sums + v, total);
        }
        if (n < 16) std::memcpy(y, rest, size_t(n) * 4);
      }
  });
}

}  // namespace herd
