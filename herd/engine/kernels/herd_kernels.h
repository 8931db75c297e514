// The kernels' plain C interface. One source is compiled once per instruction set (AMX, AVX-512, AVX2) and Python
// loads the file that this CPU can run, so nothing here is dispatched at run time.
//
// A kernel takes (t, nt): it does part t of nt, for nt any number, and returns without waiting. What one kernel writes
// may be read by the next only in a later phase. A result never depends on nt, nor a row's result on how many rows there
// are.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// ---- pool.cpp: a team of threads

typedef struct Team Team;
// A thread in a task: which of how many, and the phase that it has come to.
typedef struct Turn {
  Team* team;
  uint32_t phase;
  int t, nt;
} Turn;
typedef void (*Task)(void* context, Turn* turn);

Team* herd_team_new(int threads);  // threads - 1 are started: the caller of herd_team_run is thread 0
void herd_team_free(Team* team);
int herd_team_size(const Team* team);
// Returns when the task is done, `work` multiply-adds or so: the caller goes through it, and as many others as come in
// time, all by the same way through the same phases. Callers from several threads take turns. Little work, a call from
// inside a task, or one in a forked child, is done by the caller alone.
void herd_team_run(Team* team, Task task, void* context, int64_t work);
// In a task, for a phase of parts 0 … count - 1 (at most 65,535), each of which is done once by whoever is free: ends part
// `last` (-1: none yet) and returns another, or -1 when all are done. Until then those who find none left spin.
int herd_part(Turn* turn, int count, int last);

// ---- linear.cpp: y = x Wᵀ with W packed

enum { HERD_BF16 = 0, HERD_INT8 = 1, HERD_INT4 = 2 };
enum { HERD_GROUP = 32 };  // inputs that share an int4 scale

// W [n,k], packed. Padded to panels of 16 outputs and to a multiple of 64 inputs with zeros.
typedef struct Weight {
  int32_t kind, n, k;
  const uint8_t* data;  // [n/16][k/64] units: 1,024 bytes int8, 2,048 bf16, 576 int4; see linear.cpp
  const float* scale;   // int8: per output; else null (int4 scales lie in their units)
  const int32_t* sum;   // int8: 128 Σ_k w per output, which activations stored as q + 128 add; else null
} Weight;

size_t herd_weight_bytes(int kind, int n, int k);
// Lays a weight out over 64-byte aligned memory of herd_weight_bytes bytes.
void herd_weight_at(Weight* w, int kind, int n, int k, void* memory);
// Rounds or quantises n rows of k values, bf16 or fp32, into w's memory.
void herd_pack(const Weight* w, const void* const* rows, int is_bf16, int t, int nt);
// out[i,:k] = the packed weight's row rows[i] as it is used (dequantised).
void herd_unpack_rows(const Weight* w, const int64_t* rows, int count, float* out, int ldo);

// Activations as a kind of weight wants them: 64-byte aligned memory of herd_act_bytes bytes, opaque.
size_t herd_act_bytes(int kind, int rows, int k);
// x [rows,k] fp32 with row stride ldx. Parts share rows; with few rows it is cheaper that each thread prepares an act of
// its own (t = 0, nt = 1) than that all wait for one.
void herd_prepare(int kind, const float* x, int ldx, int rows, int k, void* act, int t, int nt);
// y [rows,n] fp32 with row stride ldy; y += where add is not 0. Parts, here from t up to `end`, share outputs.
void herd_linear(const Weight* w, const void* act, int rows, float* y, int ldy, int add, int t, int end, int nt);

// ---- each alone, for ctypes: the whole team works

// Returns 0, or 1 if this file's products differ from plain C (a wrong CPU or compiler): do not use it then.
// On Linux asks for permission to use AMX tiles; call it before any other function.
int herd_init(void);
extern const char herd_sources[];  // a hash of the sources that it was built from, where setup.py built it
void herd_pack_all(Team* team, const Weight* w, const void* const* rows, int is_bf16);
void herd_linear_all(Team* team, const Weight* w, const float* x, int ldx, int rows, void* act, float* y, int ldy);

#ifdef __cplusplus
}
#endif
