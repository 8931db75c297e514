// What lies between the products, row by row or number by number. All of it reads and writes fp32 once: 8 bytes a
// number, against k/2 to 2k bytes of weights for each number of a product.
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

static float wide(uint16_t bf16) {
  const uint32_t bits = uint32_t(bf16) << 16;
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}

// LoRA, first half: low = A x for each row of each adapter of the product, adapters one after the other. Threads
// share the ranks, so that a thread reads its part of A once for all rows.
void low_rank(const Chunk& c, int product, const float* h, int k, int t, int nt) {
  float* low = c.low;
  for (int i = 0; i < c.loras; i++) {
    const Lora& l = c.lora[i];
    if (l.product != product) continue;
    for (int r = share(l.rank, t, nt); r < share(l.rank, t + 1, nt); r++)
      for (int row = l.start; row < l.stop; row++) {
        const uint16_t* a = l.a + size_t(r) * k;
        const float* x = h + size_t(row) * k;
        F dot[4] = {set1(0), set1(0), set1(0), set1(0)};
        int j = 0;
        for (; j + 4 * W <= k; j += 4 * W)
          for (int v = 0; v < 4; v++) dot[v] = fma(widen(a + j + v * W), load(x + j + v * W), dot[v]);
        float total = sum(add(add(dot[0], dot[1]), add(dot[2], dot[3])));
        for (; j < k; j++) total = std::fma(wide(a[j]), x[j], total);
        low[size_t(row - l.start) * l.rank + r] = total;
      }
    low += size_t(l.stop - l.start) * l.rank;
  }
}

// Second half: y += B low, columns shared between the threads.
void add_low_rank(const Chunk& c, int product, float* out, int ldy, int t, int nt) {
  const float* low = c.low;
  for (int i = 0; i < c.loras; i++) {
    const Lora& l = c.lora[i];
    if (l.product != product) continue;
    const int first = share(l.n, t, nt), last = share(l.n, t + 1, nt);
    for (int row = l.start; row < l.stop; row++) {
      float* y = out + size_t(row) * ldy + l.column;
      const float* x = low + size_t(row - l.start) * l.rank;
      int j = first;
      for (; j + W <= last; j += W) {
        F total = load(y + j);
        for (int r = 0; r < l.rank; r++) total = fma(set1(x[r]), widen(l.b + size_t(r) * l.n + j), total);
        store(y + j, total);
      }
      for (; j < last; j++)
        for (int r = 0; r < l.rank; r++) y[j] = std::fma(x[r], wide(l.b[size_t(r) * l.n + j]), y[j]);
    }
    low += size_t(l.stop - l.start) * l.rank;
  }
}

}  // namespace herd
