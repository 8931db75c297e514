// Each kernel alone with a team, for ctypes, and the check of a library when it is loaded.
#include "layer.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <vector>

#ifdef HERD_SOURCES
const char herd_sources[] = HERD_SOURCES;
#endif

namespace {

struct PackCall { const Weight* w; const void* const* rows; int is_bf16; };
struct LinearCall { const Weight* w; const float* x; int ldx, rows; void* act; float* y; int ldy; };

}  // namespace

void herd_pack_all(Team* team, const Weight* w, const void* const* rows, int is_bf16) {
  PackCall call = {w, rows, is_bf16};
  herd_team_run(team, [](void* context, Turn* turn) {
    PackCall& c = *(PackCall*)context;
    const int parts = 16 * turn->nt;
    herd::parts(*turn, parts, [&](int i) { herd_pack(c.w, c.rows, c.is_bf16, i, parts); });
  }, &call, INT64_MAX);
}

void herd_linear_all(Team* team, const Weight* w, const float* x, int ldx, int rows, void* act, float* y, int ldy) {
  LinearCall call = {w, x, ldx, rows, act, y, ldy};
  herd_team_run(team, [](void* context, Turn* turn) {
    LinearCall& c = *(LinearCall*)context;
    const int parts = 4 * turn->nt;
    herd::parts(*turn, parts, [&](int i) { herd_prepare(c.w->kind, c.x, c.ldx, c.rows, c.w->k, c.act, i, parts); });
    herd::parts(*turn, parts, [&](int i) { herd_linear(c.w, c.act, c.rows, c.y, c.ldy, 0, i, i + 1, parts); });
  }, &call, INT64_MAX);
}

int herd_init(void) {
#if defined(__AMX_INT8__) && !defined(HERD_EMULATE_AMX)
  const int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA)) return 1;
#endif
  const int n = 75, k = 150, rows = 53;
  std::vector<float> v(n * k), x(rows * k), y(rows * n), row(k);
  uint32_t seed = 1;
  for (float& f : v) f = (int)((seed = seed * 1664525 + 1013904223) >> 24) - 127.5f;
  for (float& f : x) f = (int)((seed = seed * 1664525 + 1013904223) >> 24) - 127.5f;
  std::vector<const void*> of(n);
  for (int i = 0; i < n; i++) of[i] = &v[i * k];
  for (int kind : {HERD_BF16, HERD_INT8, HERD_INT4}) {
    Weight w;
    std::vector<uint8_t> memory(herd_weight_bytes(kind, n, k) + 64), act(herd_act_bytes(kind, rows, k) + 64);
    auto aligned = [](std::vector<uint8_t>& m) { return (void*)(((size_t)m.data() + 63) / 64 * 64); };
    herd_weight_at(&w, kind, n, k, aligned(memory));
    herd_pack(&w, of.data(), 0, 0, 1);
    herd_prepare(kind, x.data(), k, rows, k, aligned(act), 0, 1);
    herd_linear(&w, aligned(act), rows, y.data(), n, 0, 0, 1, 1);
    for (int64_t j = 0; j < n; j++) {
      herd_unpack_rows(&w, &j, 1, row.data(), k);
      for (int r = 0; r < rows; r++) {
        double sum = 0, size = 0;
        for (int i = 0; i < k; i++) sum += (double)row[i] * x[r * k + i], size += std::abs((double)row[i] * x[r * k + i]);
        if (!(std::abs(sum - y[r * n + j]) <= size * 0.01)) return 1;
      }
    }
  }
  return 0;
}
