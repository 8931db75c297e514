// The layers of a step, and the head, each in one task of the threads: to wake them takes longer than a small layer.
#include <algorithm>
#include <chrono>
#include <initializer_list>

#include "layer.h"

namespace herd {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto LONG = std::chrono::milliseconds(10);  // a task goes no further than the layer in which it has taken so long
constexpr int64_t PART = 1 << 21;  // multiply-adds of a part of a product, in the mean; some 20 µs
constexpr int64_t FINE = 1024;     // in these shares of a product parts are measured

struct Visit {
  const Model& model;
  const Chunk* chunks;
  int count, layer, stop;  // of chunks; the first layer, and the one behind the last
  uint16_t* cache;
  const Clock::time_point began = Clock::now();
};

// A phase: y [rows, n] = or += from Wᵀ. Where there are more parts than threads they become ever smaller, so that all
// threads end at once (trapezoid self-scheduling, Tzen & Ni, 1993).
void multiply(Turn& turn, const Weight& w, const void* act, int rows, float* y, bool add) {
  const int64_t nt = turn.nt, most = std::min(int64_t(w.n) * w.k * rows / PART, 8 * nt), n = most < 2 * nt ? nt : most;
  const auto begin = [&](int64_t i) { return int(n == nt ? FINE * i / n : FINE - FINE * (n - i) * (n - i) / (n * n)); };
  parts(turn, int(n), [&](int i) { herd_linear(&w, act, rows, y, w.n, add, begin(i), begin(i + 1), FINE); });
}

// One thread's way through a layer. With few rows each thread has an h and act of its own, which saves a phase for a product;
// what is computed is the same.
struct Way {
  Visit& v;
  const int index;
  const Chunk c;
  Turn& turn;
  const Shape& s = v.model.shape;
  const bool few = c.rows <= FEW;
  uint8_t* const own = c.own + size_t(turn.t) * c.own_size;
  float* const h = few ? reinterpret_cast<float*>(own + c.own_act) : c.h;
  void* const act = few ? own : c.act;

  // fill(r) makes row r of `from`; then y [rows, n] = or += from Wᵀ.
  template <typename Fill>
  void product(int which, const Weight& w, const float* from, bool add, Fill fill) const {
    const auto prepare = [&](int t, int nt) {
      for (int r = share(c.rows, t, nt); r < share(c.rows, t + 1, nt); r++) fill(size_t(r));
      herd_prepare(w.kind, from, w.k, c.rows, w.k, act, t, nt);
    };
    const int shares = std::min(c.rows, 4 * turn.nt);
    float* y = add ? c.x : c.y;
    if (few) prepare(0, 1);
    else parts(turn, shares, [&](int i) { prepare(i, shares); });
    if (c.loras) parts(turn, turn.nt, [&](int i) { low_rank(c, which, from, w.k, i, turn.nt); });
    multiply(turn, w, act, c.rows, y, add);
    if (c.loras) parts(turn, turn.nt, [&](int i) { add_low_rank(c, which, y, w.n, i, turn.nt); });
  }

  void go() const {
    const Layer& l = v.model.layers[index];
    product(0, l.qkv, h, false, [&](size_t r) { norm(c.x + r * s.dim, l.attn_norm, s.dim, s.eps, h + r * s.dim); });
    parts(turn, turn.nt, [&](int i) {
      if (i == 0 && Clock::now() - v.began > LONG) v.stop = index + 1;
      write_cache(s, c, index, v.cache, i, turn.nt);
    });
    parts(turn, tiles(s, c), [&](int i) { attend(s, c, index, v.cache, i); });
    product(1, l.o, c.h, true, [](size_t) {});
    product(2, l.gate_up, h, false, [&](size_t r) { norm(c.x + r * s.dim, l.ffn_norm, s.dim, s.eps, h + r * s.dim); });
    product(3, l.down, h, true, [&](size_t r) { gate(c.y + r * 2 * s.ffn, s.ffn, h + r * s.ffn); });
  }
};

// Whoever comes late goes the same way and finds nothing to do: what it prepares of a phase that is over is used by nobody.
void visit(void* what, Turn* turn) {
  Visit& v = *static_cast<Visit*>(what);
  const Model& m = v.model;
  const int dim = m.shape.dim;
  const auto rows = [&](auto work) {
    for (const Chunk* c = v.chunks; c < v.chunks + v.count; c++)
      shares(*turn, c->rows, [&](int from, int to) { work(*c, from, to); });
  };
  if (v.layer == 0)
    rows([&](const Chunk& c, int from, int to) {
      herd_unpack_rows(&m.embed, c.ids + from, to - from, c.x + size_t(from) * dim, dim);
    });
  for (int layer = v.layer; layer < v.stop; layer++)
    for (int i = 0; i < v.count; i++) {
      Chunk c = v.chunks[i];
      if (c.first) {
        c.lora += c.first[layer];
        c.loras = c.first[layer + 1] - c.first[layer];
      }
      Way{v, layer, c, *turn}.go();
    }
  if (v.stop == m.shape.layers)
    rows([&](const Chunk& c, int from, int to) {
      for (int r = from; r < to; r++) norm(c.x + size_t(r) * dim, m.norm, dim, m.shape.eps, c.x + size_t(r) * dim);
    });
}

// Lays a chunk's scratch out from `room` on; its bytes. What is a thread's own lies at the same place for all chunks: one that
// comes late writes there, and nowhere else.
size_t lay_out(const Shape& s, int kind, int threads, Chunk& c, uint8_t* room) {
  const int widest = std::max({s.dim, s.heads * s.head, s.ffn});
  const auto act = [&](int rows) {
    size_t most = 0;
    for (int k : {s.dim, s.heads * s.head, s.ffn}) most = std::max(most, herd_act_bytes(kind, rows, k));
    return (most + 63) / 64 * 64;
  };
  const auto floats = [](int rows, int n) { return (size_t(rows) * n * 4 + 63) / 64 * 64; };
  c.own_act = act(FEW);
  c.own_size = c.own_act + floats(FEW, widest);
  const size_t all = threads * c.own_size, h = all + act(c.rows), y = h + floats(c.rows, widest);
  c.own = room;
  c.act = room + all;
  c.h = reinterpret_cast<float*>(room + h);
  c.y = reinterpret_cast<float*>(room + y);
  return y + floats(c.rows, std::max(s.qkv(), 2 * s.ffn));
}

struct Head {
  const Weight* weight;
  const float* h;
  int rows;
  uint8_t* act;
  float* y;
};

void visit_head(void* what, Turn* turn) {
  const Head& v = *static_cast<Head*>(what);
  const Weight& w = *v.weight;
  const int shares = std::min(v.rows, 4 * turn->nt);
  parts(*turn, shares, [&](int i) { herd_prepare(w.kind, v.h, w.k, v.rows, w.k, v.act, i, shares); });
  multiply(*turn, w, v.act, v.rows, v.y, false);
}

}  // namespace

extern "C" {

// Bytes of 64-byte aligned scratch that layers and head need for up to so many rows.
size_t herd_room(const Team* team, const Model* model, int rows) {
  const size_t most = herd_act_bytes(model->head.kind, rows, model->head.k);
  Chunk c{rows};
  return std::max(most, lay_out(model->shape, model->layers->qkv.kind, herd_team_size(team), c, nullptr));
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
  Visit v{*model, chunks, count, first, model->shape.layers, cache};
  herd_team_run(team, visit, &v, rows * weights * (model->shape.layers - first));
  return v.stop;
}

// Logits y [rows, vocabulary] of states h [rows, dim].
void herd_head(Team* team, const Model* model, const float* h, int rows, uint8_t* room, float* y) {
  Head v{&model->head, h, rows, room, y};
  herd_team_run(team, visit_head, &v, int64_t(rows) * model->head.n * model->head.k);
}

// The attention of a layer alone: y's queries, keys and values through the cache to h.
void herd_attend(const Shape* shape, const Chunk* chunk, int index, uint16_t* cache) {
  write_cache(*shape, *chunk, index, cache, 0, 1);
  for (int i = 0; i < tiles(*shape, *chunk); i++) attend(*shape, *chunk, index, cache, i);
}

}  // extern "C"
}  // namespace herd
