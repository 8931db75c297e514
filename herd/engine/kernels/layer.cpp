// A transformer layer, and the head, each in one visit of the threads.
#include <initializer_list>

#include "layer.h"

namespace herd {
namespace {

void run(Team* team, Task task, void* context, bool alone) {
  if (alone)
    task(context, 0, 1);
  else
    herd_team_run(team, task, context);
}

struct Visit {
  Team* team;
  const Shape& shape;
  const Layer& layer;
  const Chunk& chunk;
  int index;
  uint16_t* cache;
  std::atomic<int> next{0};  // tile of attention
};

// One thread's way through a layer. With few rows each thread has an h and act of its own, which saves two of three
// waits for a product; what is computed is the same.
struct Way {
  Visit& v;
  const int t, nt;
  const Shape& s = v.shape;
  const Chunk& c = v.chunk;
  const bool few = c.rows <= FEW;
  float* const h = c.h + (few ? size_t(t) * c.h_size : 0);
  void* const act = c.act + (few ? size_t(t) * c.act_size : 0);

  void wait() const { herd_barrier(v.team, nt); }

  // fill(r) makes row r of h; then y [rows, n] = or += h Wᵀ.
  template <typename Fill>
  void product(int which, const Weight& w, bool add, Fill fill) const {
    const int me = few ? 0 : t, all = few ? 1 : nt;
    for (int r = share(c.rows, me, all); r < share(c.rows, me + 1, all); r++) fill(size_t(r));
    if (!few) wait();
    multiply(which, w, h, add);
  }

  void multiply(int which, const Weight& w, const float* from, bool add) const {
    float* y = add ? c.x : c.y;
    herd_prepare(w.kind, from, w.k, c.rows, w.k, act, few ? 0 : t, few ? 1 : nt);
    if (c.loras) low_rank(c, which, from, w.k, t, nt);
    if (!few) wait();
    herd_linear(&w, act, c.rows, y, w.n, add, t, nt);
    wait();
    if (c.loras) {
      add_low_rank(c, which, y, w.n, t, nt);
      wait();
    }
  }

  void go() const {
    const Layer& l = v.layer;
    product(0, l.qkv, false, [&](size_t r) { norm(c.x + r * s.dim, l.attn_norm, s.dim, s.eps, h + r * s.dim); });
    write_cache(s, c, v.index, v.cache, t, nt);
    wait();
    attend(s, c, v.index, v.cache, v.next);
    wait();
    multiply(1, l.o, c.h, true);
    product(2, l.gate_up, false, [&](size_t r) { norm(c.x + r * s.dim, l.ffn_norm, s.dim, s.eps, h + r * s.dim); });
    product(3, l.down, true, [&](size_t r) { gate(c.y + r * 2 * s.ffn, s.ffn, h + r * s.ffn); });
  }
};

void visit(void* what, int t, int nt) { Way{*static_cast<Visit*>(what), t, nt}.go(); }

struct Norm {
  const float *x, *weight;
  int rows, dim;
  float eps;
  float* y;
};

void visit_norm(void* what, int t, int nt) {
  const Norm& n = *static_cast<Norm*>(what);
  for (int r = share(n.rows, t, nt); r < share(n.rows, t + 1, nt); r++)
    norm(n.x + size_t(r) * n.dim, n.weight, n.dim, n.eps, n.y + size_t(r) * n.dim);
}

struct Head {
  Team* team;
  const Weight* weight;
  const float* h;
  int rows;
  uint8_t* act;
  float* y;
};

void visit_head(void* what, int t, int nt) {
  const Head& v = *static_cast<Head*>(what);
  const Weight& w = *v.weight;
  herd_prepare(w.kind, v.h, w.k, v.rows, w.k, v.act, t, nt);
  herd_barrier(v.team, nt);
  herd_linear(&w, v.act, v.rows, v.y, w.n, 0, t, nt);
}

}  // namespace

extern "C" {

// x [rows, dim] through layer `index`; keys and values go to the cache.
void herd_layer(Team* team, const Shape* shape, const Layer* layer, const Chunk* chunk, int index, uint16_t* cache) {
  Visit v{team, *shape, *layer, *chunk, index, cache};
  int64_t weights = 0;
  for (const Weight* w : {&layer->qkv, &layer->o, &layer->gate_up, &layer->down}) weights += int64_t(w->n) * w->k;
  run(team, visit, &v, little(chunk->rows, weights));
}

// y [rows, dim] = norm(x), which may be the same memory.
void herd_norm(Team* team, const float* x, const float* weight, int rows, int dim, float eps, float* y) {
  Norm n{x, weight, rows, dim, eps, y};
  run(team, visit_norm, &n, little(rows, 64 * dim));
}

// Logits y [rows, n] of states h [rows, k].
void herd_head(Team* team, const Weight* weight, const float* h, int rows, uint8_t* act, float* y) {
  Head v{team, weight, h, rows, act, y};
  run(team, visit_head, &v, little(rows, int64_t(weight->n) * weight->k));
}

// The attention of a layer alone: y's queries, keys and values through the cache to h.
void herd_attend(const Shape* shape, const Chunk* chunk, int index, uint16_t* cache) {
  std::atomic<int> next{0};
  write_cache(*shape, *chunk, index, cache, 0, 1);
  attend(*shape, *chunk, index, cache, next);
}

}  // extern "C"
}  // namespace herd
