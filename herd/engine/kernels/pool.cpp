// A team of threads that stays alive between kernels.
//
// Waiting spins for about 50 µs, less than a kernel of a small model takes, then sleeps in the kernel (futex): cores are
// shared with other processes, and an idle team must cost nothing.
#include "herd_kernels.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace {

const uint64_t SPIN = 100000;  // cycles of the time stamp counter
// Multiply-adds that one thread has done before a second is awake, some 30 µs; and those, some 300 µs, for which it is not
// worth while to wait for a thread whose core another process has.
const int64_t LITTLE = 1 << 22, MUCH = 1 << 26;
const int ALONE = 200;  // tasks up to MUCH that one thread does when a thread came late

// A number that only grows, and those who sleep until it does.
struct alignas(64) Phase {
  std::atomic<uint32_t> value{0};
  std::atomic<uint32_t> sleepers{0};

  // The cycles that it took.
  uint64_t wait(uint32_t old) {
    const uint64_t start = __rdtsc();
    for (; __rdtsc() - start < SPIN; _mm_pause())
      if (value.load(std::memory_order_acquire) != old) return __rdtsc() - start;
    sleepers.fetch_add(1);
    while (value.load() == old) syscall(SYS_futex, &value, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
    sleepers.fetch_sub(1);
    return __rdtsc() - start;
  }
  void advance() {
    value.fetch_add(1);
    if (sleepers.load()) syscall(SYS_futex, &value, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
  }
};

thread_local bool inside = false, is_other = false;

}  // namespace

struct Team {
  Phase start, middle, end;
  std::atomic<int> arrived{0}, working{0};
  Task task = nullptr;
  void* context = nullptr;
  std::mutex turn;
  std::atomic<uint64_t> longest{0};  // cycles that thread 0 waited for others in this task
  std::atomic<int> alone{0};         // tasks to come, as ALONE says
  std::vector<std::thread> others;
  pid_t process = getpid();

  void work(int t) {
    inside = is_other = true;
    for (uint32_t seen = 0;; seen++) {
      start.wait(seen);
      if (!task) return;
      task(context, t, (int)others.size() + 1);
      if (working.fetch_sub(1) == 1) end.advance();
    }
  }
};

Team* herd_team_new(int threads) {
  Team* team = new Team;
  team->others.reserve(threads > 1 ? threads - 1 : 0);
  try {
    for (int t = 1; t < threads; t++) team->others.emplace_back(&Team::work, team, t);
  } catch (const std::system_error&) {  // no more threads to be had: work with those there are
  }
  return team;
}

void herd_team_free(Team* team) {
  if (team->process != getpid()) return;  // a forked child has no threads to join; the memory goes with it
  {
    std::lock_guard<std::mutex> lock(team->turn);
    team->task = nullptr;
    team->start.advance();
  }
  for (std::thread& other : team->others) other.join();
  delete team;
}

int herd_team_size(const Team* team) { return (int)team->others.size() + 1; }

void herd_team_run(Team* team, Task task, void* context) {
  if (inside || team->others.empty() || team->process != getpid()) return task(context, 0, 1);
  std::lock_guard<std::mutex> lock(team->turn);
  int nt = herd_team_size(team);
  team->task = task;
  team->context = context;
  team->working.store(nt - 1);
  uint32_t ended = team->end.value.load();
  team->start.advance();
  inside = true;
  task(context, 0, nt);
  inside = false;
  team->longest = std::max(team->longest.load(), team->end.wait(ended));
}

void herd_team_work(Team* team, Task task, void* context, int64_t work) {
  if (work <= LITTLE) return task(context, 0, 1);
  if (work <= MUCH && team->alone > 0) {
    team->alone--;
    return task(context, 0, 1);
  }
  team->longest = 0;
  herd_team_run(team, task, context);
  if (work <= MUCH && team->longest > 8 * SPIN) team->alone = ALONE;
}

void herd_barrier(Team* team, int nt) {
  if (nt == 1) return;
  uint32_t now = team->middle.value.load();
  if (team->arrived.fetch_add(1) + 1 == nt) {
    team->arrived.store(0);
    team->middle.advance();
  } else {
    const uint64_t took = team->middle.wait(now);
    if (!is_other) team->longest = std::max(team->longest.load(), took);
  }
}
