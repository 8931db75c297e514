// Drawing tokens, and log-probabilities, from rows of fp32 logits [n, V], without sorting them.
//
// The distribution is that of herd/engine/sampler.py: temperature, then top-k, then top-p on what is left, then
// min-p; of equals at a limit the lowest ids stay. Weights e^((l - max)/T) are fp32, their sums fp64. A row takes two
// passes over its logits (8 V bytes read, 4 V written), plus work on the candidates that a bound leaves over:
//   top-k: the k-th largest of the maxima of V/64 stretches is at most the k-th largest of all;
//   top-p: tokens below (1 - p) Z / V cannot make up more than 1 - p together;
//   min-p: the limit itself.
#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "layer.h"
#include "simd.h"

namespace herd {
namespace {

constexpr int STRETCH = 64;
constexpr int COST = 64;  // multiply-adds of a product that take as long as a logit here, or so

struct Candidate {
  float weight;
  int32_t id;
};

bool likelier(const Candidate& a, const Candidate& b) {
  return a.weight > b.weight || (a.weight == b.weight && a.id < b.id);
}

double mass(const Candidate* first, const Candidate* last) {
  double total = 0;
  for (; first != last; first++) total += first->weight;
  return total;
}

// The first W of n numbers, filled up with -inf.
F load_some(const float* x, int n) {
  if (n >= W) return load(x);
  float part[W];
  for (int j = 0; j < W; j++) part[j] = j < n ? x[j] : -INFINITY;
  return load(part);
}

// The lowest id of the largest, or -1 if that is infinite or anything is NaN.
int best(const float* x, int n, float* largest) {
  F top = set1(-INFINITY), odd = set1(0);
  for (int i = 0; i < n; i += W) {
    const F v = load_some(x + i, n - i);
    top = max(v, top);                     // passes over NaN
    odd = add(odd, mul(v, set1(0.0f)));  // NaN of NaN and of infinities
  }
  const float peak = highest(top);
  *largest = peak;
  if (!std::isfinite(peak)) return -1;
  if (sum(odd) != 0)
    for (int j = 0; j < n; j++)
      if (std::isnan(x[j])) return -1;
  for (int i = 0;; i += W)
    if (const uint32_t mask = least(load_some(x + i, n - i), set1(peak))) return i + __builtin_ctz(mask);
}

struct Stretch {
  float most;
  double sum;
};

// w = e^((x - peak) · steep), its sum, and the stretches of w.
double weigh(const float* x, int n, float peak, float steep, float* w, Stretch* stretch) {
  double total = 0;
  const F top = set1(peak), rate = set1(steep * LOG2E);
  for (int first = 0; first < n; first += STRETCH, stretch++) {
    F most = set1(0), part = set1(0);
    for (int i = first; i < std::min(first + STRETCH, n); i += W) {
      const F v = exp2(mul(sub(load_some(x + i, n - i), top), rate));
      store(w + i, v);
      most = max(most, v);
      part = add(part, v);
    }
    *stretch = {highest(most), sum(part)};
    total += stretch->sum;
  }
  return total;
}

struct Room {
  std::vector<float> w, maxima;
  std::vector<Stretch> stretches;
  std::vector<Candidate> found, ranked;
};

const double COLD = 1e-6;  // as in sampler.py

struct Limits {
  double temperature, top_p, min_p, top_k;
};

// The first id at which the running sum of all weights exceeds u · (their sum).
int invert(const float* w, int n, const std::vector<Stretch>& stretches, double total, double u) {
  double running = 0;
  size_t s = 0;
  while (s + 1 < stretches.size() && running + stretches[s].sum <= u * total) running += stretches[s++].sum;
  for (int i = int(s) * STRETCH; i < n; i++)
    if ((running += w[i]) > u * total) return i;
  while (w[--n] <= 0) {  // u · total was rounded up to the very end
  }
  return n;
}

int draw(const float* x, int n, const Limits& limit, double u, Room& room) {
  float peak;
  const int greedy = best(x, n, &peak);
  if (greedy < 0 || limit.temperature < COLD) return greedy;
  const int stretches = (n + STRETCH - 1) / STRETCH;
  room.w.resize(size_t(n) + W);
  room.stretches.resize(size_t(stretches));
  float* w = room.w.data();
  const double total = weigh(x, n, peak, float(1 / limit.temperature), w, room.stretches.data());
  const bool by_rank = 0 < limit.top_k && limit.top_k < n;
  if (!by_rank && limit.top_p >= 1 && limit.min_p <= 0) return invert(w, n, room.stretches, total, u);

  // What min-p rules out still counts in the sum that top-p is a share of, which after top-k is a sum of candidates.
  float bound = by_rank && limit.top_p < 1 ? 0 : float(limit.min_p * 0.999999);
  bound = std::max(bound, 1e-45f);
  const size_t top_k = by_rank ? size_t(limit.top_k) : size_t(n);
  if (top_k <= size_t(stretches)) {
    std::vector<float>& m = room.maxima;
    m.clear();
    for (const Stretch& s : room.stretches) m.push_back(s.most);
    std::nth_element(m.begin(), m.begin() + top_k - 1, m.end(), std::greater<float>());
    bound = std::max(bound, m[top_k - 1]);
  } else if (!by_rank && limit.top_p < 1) {
    bound = std::max(bound, float((1 - limit.top_p) * total / n * 0.999));
  }
  std::vector<Candidate>& found = room.found;
  found.clear();
  for (int i = 0; i < n; i += W)
    for (uint32_t mask = least(load(w + i), set1(bound)); mask; mask &= mask - 1)
      if (const int j = i + __builtin_ctz(mask); j < n) found.push_back({w[j], j});

  // A prefix of the ranking is kept: [0, kept) of `ranked`, whose last member is the limit.
  std::vector<Candidate>& ranked = room.ranked;
  ranked = found;
  Candidate* const begin = ranked.data();
  size_t kept = ranked.size();
  double whole = total;
  if (by_rank) {
    if (top_k < kept) {
      kept = top_k;
      std::nth_element(begin, begin + kept - 1, begin + ranked.size(), likelier);
    }
    whole = mass(begin, begin + kept);
  }
  if (limit.top_p < 1) {  // halve what is undecided until the sum reaches top_p
    size_t low = 0, high = kept;
    double before = 0;
    while (high - low > 1) {
      const size_t middle = low + (high - low) / 2;
      std::nth_element(begin + low, begin + middle, begin + high, likelier);
      const double half = mass(begin + low, begin + middle);
      if (before + half >= limit.top_p * whole) {
        high = middle;
      } else {
        before += half;
        low = middle;
      }
    }
    kept = high;
  }
  const Candidate end = *std::max_element(begin, begin + kept, likelier);
  found.erase(std::remove_if(found.begin(), found.end(),
                             [&](const Candidate& c) { return likelier(end, c) || c.weight < limit.min_p; }),
              found.end());
  double running = 0;
  const double goal = u * mass(found.data(), found.data() + found.size());
  for (const Candidate& c : found)
    if ((running += c.weight) > goal) return c.id;
  return found.back().id;
}

struct Draws {
  const float* logits;
  const int32_t* at;
  int rows, size;
  const Limits* limits;
  const double* u;
  int32_t* tokens;
};

void visit_draws(void* what, Turn* turn) {
  static thread_local Room room;
  const Draws& d = *static_cast<Draws*>(what);
  parts(*turn, d.rows, [&](int r) {
    d.tokens[r] = draw(d.logits + size_t(d.at[r]) * d.size, d.size, d.limits[r], d.u[r], room);
  });
}

struct Scores {
  const float* logits;
  int rows, size, k;
  const int32_t* chosen;
  float* values;  // [rows, 1 + k]: the chosen token's, then the best
  int32_t* ids;   // [rows, k]
};

void score(const float* x, int n, int chosen, int k, float* values, int32_t* ids) {
  float peak;
  best(x, n, &peak);
  double total = 0;
  for (int i = 0; i < n; i += W) total += sum(exp2(mul(sub(load_some(x + i, n - i), set1(peak)), set1(LOG2E))));
  const float all = peak + float(std::log(total));
  values[0] = x[chosen] - all;
  int have = 0;
  for (int first = 0; first < n && k; first += W) {
    uint32_t mask = have < k ? ~0u : above(load_some(x + first, n - first), set1(x[ids[k - 1]]));
    for (; mask; mask &= mask - 1) {
      const int i = first + __builtin_ctz(mask);
      if (i >= std::min(first + W, n)) break;
      if (have == k && !(x[i] > x[ids[k - 1]])) continue;
      int at = have < k ? have++ : k - 1;
      for (; at > 0 && x[i] > x[ids[at - 1]]; at--) ids[at] = ids[at - 1];
      ids[at] = i;
    }
  }
  for (int i = 0; i < k; i++) values[1 + i] = x[ids[i]] - all;
}

void visit_scores(void* what, Turn* turn) {
  const Scores& s = *static_cast<Scores*>(what);
  parts(*turn, s.rows, [&](int r) {
    score(s.logits + size_t(r) * s.size, s.size, s.chosen[r], s.k, s.values + size_t(r) * (1 + s.k),
          s.ids + size_t(r) * s.k);
  });
}

}  // namespace

extern "C" {

// A token from each of the rows `at`, by its own limits and its own uniform number; -1 where the logits are NaN or their
// largest is not finite.
void herd_draw(Team* team, const float* logits, const int32_t* at, int rows, int size, const Limits* limits,
               const double* u, int32_t* tokens) {
  Draws d{logits, at, rows, size, limits, u, tokens};
  herd_team_run(team, visit_draws, &d, int64_t(rows) * size * COST);
}

// Log-probabilities of one chosen token a row, and of the k best with their ids (of equals the lowest first).
void herd_score(Team* team, const float* logits, int rows, int size, const int32_t* chosen, int k, float* values,
                int32_t* ids) {
  Scores s{logits, rows, size, k, chosen, values, ids};
  herd_team_run(team, visit_scores, &s, int64_t(rows) * size * COST);
}

}  // extern "C"
}  // namespace herd
