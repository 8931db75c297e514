// The layers of a step, and the head, each in one visit of the threads: to wake them takes longer than a small layer.
#include <algorithm>
#include <chrono>
#include <initializer_list>

#include "layer.h"

namespace herd {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto LONG = std::chrono::milliseconds(10);  // a visit goes no further than the layer that ends after so long

struct Visit {
  Team* team;
  const Model& model;
  const Chunk* chunks;
  int count, layer;  // of chunks; where it begins, and in the end the first layer that is left
  uint16_t* cache;
  const Clock::time_point began = Clock::now();
  bool late = false;
  std::atomic<int> next{0};  // tile of attention
};

// One thread's way through a layer. With few rows each thread has an h and act of its own, which saves two of three
// waits for a product; what is computed is the same.
struct Way {
  Visit& v;
  const int index;
  Chunk c;
  const int t, nt;
  const Shape& s = v.model.shape;
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
    const Layer& l = v.model.layers[index];
    product(0, l.qkv, false, [&](size_t r) { norm(c.x + r * s.dim, l.attn_norm, s.dim, s.eps, h + r * s.dim); });
    if (t == 0) {  // nobody looks at these before the next wait
      v.next = 0;
      v.late = Clock::now() - v.began > LONG;
    }
    write_cache(s, c, index, v.cache, t, nt);
    wait();
    attend(s, c, index, v.cache, v.next);
    wait();
    multiply(1, l.o, c.h, true);
    product(2, l.gate_up, false, [&](size_t r) { norm(c.x + r * s.dim, l.ffn_norm, s.dim, s.eps, h + r * s.dim); });
    product(3, l.down, true, [&](size_t r) { gate(c.y + r * 2 * s.ffn, s.ffn, h + r * s.ffn); });
  }
};

void visit(void* what, int t, int nt) {
  Visit& v = *static_cast<Visit*>(what);
  const Model& m = v.model;
  const auto rows = [&](auto work) {  // (chunk, its first row, the one behind its last) of what is this thread's
    for (int i = 0; i < v.count; i++) work(v.chunks[i], share(v.chunks[i].rows, t, nt), share(v.chunks[i].rows, t + 1, nt));
  };
  const int dim = m.shape.dim;
  int layer = v.layer;
  if (layer == 0)
    rows([&](const Chunk& c, int from, int to) {
      herd_unpack_rows(&m.embed, c.ids + from, to - from, c.x + size_t(from) * dim, dim);
    });
  herd_barrier(v.team, nt);  // behind which nobody looks at where the visit began
  do {
    for (int i = 0; i < v.count; i++) {
      Chunk c = v.chunks[i];
      if (c.first) {
        c.lora += c.first[layer];
        c.loras = c.first[layer + 1] - c.first[layer];
      }
      Way{v, layer, c, t, nt}.go();
    }
  } while (++layer < m.shape.layers && !v.late);
  if (layer == m.shape.layers)
    rows([&](const Chunk& c, int from, int to) {
      for (int r = from; r < to; r++) norm(c.x + size_t(r) * dim, m.norm, dim, m.shape.eps, c.x + size_t(r) * dim);
    });
  if (t == 0) v.layer = layer;
}

// Lays a chunk's scratch out from `room` on; its bytes.
size_t lay_out(const Shape& s, int kind, int threads, Chunk& c, uint8_t* room) {
  const int copies = c.rows <= FEW ? threads : 1;
  c.h_size = c.act_size = 0;
  for (int k : {s.dim, s.heads * s.head, s.ffn}) {
    c.h_size = std::max(c.h_size, size_t(c.rows) * k);
    c.act_size = std::max(c.act_size, (herd_act_bytes(kind, c.rows, k) + 63) / 64 * 64);
  }
  const size_t h = c.act_size * copies, y = h + c.h_size * copies * 4;
  c.act = room;
  c.h = reinterpret_cast<float*>(room + h);
  c.y = reinterpret_cast<float*>(room + y);
  return y + size_t(c.rows) * std::max(s.qkv(), 2 * s.ffn) * 4;
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

// Bytes of 64-byte aligned scratch that layers and head need for up to so many rows.
size_t herd_room(const Team* team, const Model* model, int rows) {
  size_t most = herd_act_bytes(model->head.kind, rows, model->head.k);
  for (int n : {std::min(rows, FEW), rows}) {
    Chunk c{n};
    most = std::max(most, lay_out(model->shape, model->layers->qkv.kind, herd_team_size(team), c, nullptr));
  }
  return most;
}

// Makes each chunk's x [rows, dim] from its tokens, and takes it through the layers from `first` on and at last through
// the final norm; keys and values go to the cache. Returns the first layer that is left since it took long.
int herd_layers(Team* team, const Model* model, Chunk* chunks, int count, int first, uint8_t* room, uint16_t* cache) {
  const Layer& l = *model->layers;
  int64_t rows = 0, weights = 0;
  for (const Weight* w : {&l.qkv, &l.o, &l.gate_up, &l.down}) weights += int64_t(w->n) * w->k;
  for (int i = 0; i < count; i++) {
    lay_out(model->shape, l.qkv.kind, herd_team_size(team), chunks[i], room);
    rows += chunks[i].rows;
  }
  Visit v{team, *model, chunks, count, first, cache};
  herd_team_work(team, visit, &v, rows * weights * (model->shape.layers - first));
  return v.layer;
}

// Logits y [rows, vocabulary] of states h [rows, dim].
void herd_head(Team* team, const Model* model, const float* h, int rows, uint8_t* room, float* y) {
  Head v{team, &model->head, h, rows, room, y};
  herd_team_work(team, visit_head, &v, int64_t(rows) * model->head.n * model->head.k);
}

// The attention of a layer alone: y's queries, keys and values through the cache to h.
void herd_attend(const Shape* shape, const Chunk* chunk, int index, uint16_t* cache) {
  std::atomic<int> next{0};
  write_cache(*shape, *chunk, index, cache, 0, 1);
  attend(*shape, *chunk, index, cache, next);
}

}  // extern "C"
}  // namespace herd
