// What a step's parts hand each other. native.py mirrors these structures.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "herd_kernels.h"

namespace herd {

constexpr int FEW = 4;  // rows of which each thread prepares its own copy sooner than it waits for another's
constexpr int BLOCK = 32;  // positions of a cache block; also the dims of one panel of values

// Part t of nt are the things from share(n, t, nt) up to share(n, t + 1, nt).
static inline int share(int n, int t, int nt) { return int(int64_t(n) * t / nt); }

// A phase: work(i) for each of its parts.
template <typename Work>
void parts(Turn& turn, int count, Work work) {
  for (int i = -1; (i = herd_part(&turn, count, i)) >= 0;) work(i);
}

// A phase of n things in a few shares for each thread: work(first, behind the last).
template <typename Work>
void shares(Turn& turn, int n, Work work) {
  const int count = std::min(n, 4 * turn.nt);
  parts(turn, count, [&](int i) { work(share(n, i, count), share(n, i + 1, count)); });
}

struct Shape {
  int32_t dim, heads, kv_heads, head, ffn, layers;
  float eps;
  int wide() const { return (head + 31) / 32 * 32; }  // a head in the cache, filled up with zeros
  int qkv() const { return (heads + 2 * kv_heads) * head; }
  size_t block() const { return size_t(layers) * kv_heads * 2 * BLOCK * wide(); }  // bf16 numbers
};

struct Layer {
  Weight qkv, o, gate_up, down;
  const float *attn_norm, *ffn_norm;
};

struct Model {
  Shape shape;
  const Layer* layers;
  Weight embed, head;
  const float* norm;
};

// Rows [start, stop) of a chunk: one sequence from position `past` on, its blocks' numbers at blocks[first].
struct Span {
  int32_t start, stop, past, first;
};

// A LoRA adapter of one product: rows [start, stop) get y += Σ_r (a_r · x) b_r in columns [column, column + n).
struct Lora {
  const uint16_t *a, *b;  // bf16 [rank, k up to 32s]; scaled [n/16, rank/2, 16, 2]. rank is a multiple of 4
  int32_t product;     // 0 qkv, 1 o, 2 gate and up, 3 down
  int32_t start, stop, rank, column, n;
};

// Rows that go through a layer together.
struct Chunk {
  int32_t rows, spans;
  const Span* span;
  const int32_t* blocks;
  const Lora* lora;     // layer by layer
  const int32_t* first;  // layer i has lora[first[i]] up to lora[first[i + 1]]; null: there are none
  const float* angles;  // [positions, head]: cosines, then sines
  const int64_t* ids;   // [rows]: tokens
  float *x;             // [rows, dim]
  uint16_t *low;        // bf16 [Σ rows · rank] of any product's adapters
  // Scratch, which herd_layers lays out:
  float *y;             // [rows, widest output]
  float *h;             // [rows, widest input]
  uint8_t* act;         // room for any input's activations
  uint8_t* own;         // an act and an h of FEW rows for each thread
  size_t own_act, own_size;  // bytes of that act, and of both
  int32_t loras;        // of the layer at hand, as is `lora` then
};

void norm(const float* x, const float* weight, int dim, float eps, float* y);
void gate(const float* gate_up, int ffn, float* y);
void low_rank(const Chunk&, int product, const float* h, int k, int t, int nt);
void add_low_rank(const Chunk&, int product, float* y, int ldy, int t, int nt);
void write_cache(const Shape&, const Chunk&, int layer, uint16_t* cache, int t, int nt);
int tiles(const Shape&, const Chunk&);  // of attention: its parts
void attend(const Shape&, const Chunk&, int layer, const uint16_t* cache, int which);

}  // namespace herd
