// A team of threads that stays alive between tasks.
//
// Cores are shared with other processes, so a task goes through phases whose parts are taken by whoever is free: nobody
// waits for a thread that is not there, but for the part that it was in the middle of. Who waits spins for some 40 µs, less
// than a kernel of a small model takes, then offers its core round by round. It does not sleep (futex) but between tasks,
// after a millisecond: an idle team must cost nothing, but who sleeps comes late.
#include "herd_kernels.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include <atomic>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace {

const uint64_t SPIN = 100000, SOON = 20 * SPIN;  // cycles of the time stamp counter
const int64_t LITTLE = 1 << 22;  // multiply-adds that one thread has done before a second is awake, some 30 µs
const int NUMBER = 32, DONE = 16;  // where the parts of a phase's word begin: its number, parts done, parts taken

thread_local bool inside = false;

// Until is() holds, for so many cycles at most.
template <class Condition>
void await(Condition is, uint64_t most = UINT64_MAX) {
  const uint64_t start = __rdtsc();
  for (uint64_t took = 0; !is() && took < most; took = __rdtsc() - start)
    if (took < SPIN) _mm_pause();
    else sched_yield();
}

}  // namespace

struct Team {
  alignas(64) std::atomic<uint64_t> phase{0};
  alignas(64) std::atomic<uint32_t> begun{0};  // tasks; only grows
  std::atomic<uint32_t> sleepers{0};           // until it does
  alignas(64) std::atomic<bool> open{false};   // whether others may still come
  std::atomic<int> guests{0};                  // who did, and may be looking at the task
  Task task = nullptr;
  void* context = nullptr;
  uint32_t first = 0;  // phase of the task
  std::mutex turn;
  std::vector<std::thread> others;
  int core = -1;  // the caller's
  pid_t process = getpid();

  void begin(Task what, void* with) {
    task = what;
    context = with;
    first = uint32_t(phase.load() >> NUMBER);
    open = true;
    begun.fetch_add(1);
    if (sleepers.load()) syscall(SYS_futex, &begun, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
  }

  void work(int t) {
    inside = true;
    for (uint32_t seen = 0;;) {
      await([&] { return begun.load(std::memory_order_acquire) != seen; }, SOON);
      sleepers.fetch_add(1);
      while (begun.load() == seen) syscall(SYS_futex, &begun, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
      sleepers.fetch_sub(1);
      guests.fetch_add(1);
      seen = begun.load();
      if (open.load()) {  // and so it stays until this guest has gone
        if (!task) return;
        Turn place{this, first, t, herd_team_size(this)};
        task(context, &place);
      }
      guests.fetch_sub(1);
    }
  }

  // Linux may wake threads on the caller's core while another lies idle, where both then go on by turns.
  void keep_off(int now) {
    if (now == core) return;
    core = now;
    cpu_set_t all;
    if (sched_getaffinity(0, sizeof all, &all) || CPU_COUNT(&all) < 2) return;
    CPU_CLR(core, &all);
    for (std::thread& other : others) pthread_setaffinity_np(other.native_handle(), sizeof all, &all);
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
    team->begin(nullptr, nullptr);
  }
  for (std::thread& other : team->others) other.join();
  delete team;
}

int herd_team_size(const Team* team) { return (int)team->others.size() + 1; }

void herd_team_run(Team* team, Task task, void* context, int64_t work) {
  if (work <= LITTLE || inside || team->others.empty() || team->process != getpid()) {
    Turn alone{nullptr, 0, 0, 1};
    return task(context, &alone);
  }
  std::lock_guard<std::mutex> lock(team->turn);
  team->keep_off(sched_getcpu());
  team->begin(task, context);
  Turn place{team, team->first, 0, herd_team_size(team)};
  inside = true;
  task(context, &place);
  inside = false;
  team->open = false;
  await([&] { return !team->guests.load(); });
}

int herd_part(Turn* turn, int count, int last) {
  if (!turn->team || !count) return last + 1 < count ? last + 1 : -1;
  std::atomic<uint64_t>& phase = turn->team->phase;
  const uint64_t next = uint64_t(turn->phase + 1) << NUMBER;
  if (last >= 0 && int(phase.fetch_add(1 << DONE) >> DONE & 0xffff) + 1 == count) phase.store(next);
  for (uint64_t now = phase.load(); now >> NUMBER == turn->phase && int(now & 0xffff) < count;)
    if (phase.compare_exchange_weak(now, now + 1)) return int(now & 0xffff);
  await([&] { return phase.load(std::memory_order_acquire) >> NUMBER != turn->phase; });
  turn->phase++;
  return -1;
}
