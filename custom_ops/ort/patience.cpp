// The memory of waits, shared by all sessions of the process: they share its cores.
#include "patience.hpp"

#include <algorithm>
#include <atomic>

namespace resq::ort {
namespace {

using std::chrono::milliseconds;
using Ticks = Clock::duration::rep;

// A wait is normal up to some tasks' time, and up to what the scheduler may take to look elsewhere.
constexpr int kTasksOfWait = 4;
constexpr Clock::duration kShortWait = std::chrono::microseconds(300);

// Time alone after a wait; twice as long each time that going back together soon fails again.
constexpr Clock::duration kFirstRest = milliseconds(50), kLongestRest = milliseconds(1600);
constexpr Clock::duration kSoon = milliseconds(100);

// Two numbers that threads may overwrite at the same time: either one's is good.
std::atomic<Ticks> alone_until{0};
std::atomic<Ticks> last_rest{0};

}  // namespace

bool works_alone(Clock::time_point now) {
    return now.time_since_epoch().count() < alone_until.load(std::memory_order_relaxed);
}

void report_wait(Clock::duration wait, Clock::duration task, Clock::time_point now) {
    if (wait <= std::max(kShortWait, task * kTasksOfWait)) {
        return;
    }
    const Clock::duration time = now.time_since_epoch();
    const Clock::duration until(alone_until.load(std::memory_order_relaxed));
    const Clock::duration before(last_rest.load(std::memory_order_relaxed));
    const bool again = time - wait - until < kSoon;
    const Clock::duration rest =
        again ? std::clamp(2 * before, kFirstRest, kLongestRest) : kFirstRest;
    last_rest.store(rest.count(), std::memory_order_relaxed);
    alone_until.store((time + rest).count(), std::memory_order_relaxed);
}

}  // namespace resq::ort
