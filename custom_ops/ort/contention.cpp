// Remembers waits for all sessions of the process, as they share its cores.
#include "contention.hpp"

#include <algorithm>
#include <atomic>

namespace resq::ort {
namespace {

using std::chrono::milliseconds;
using Ticks = Clock::duration::rep;

// A wait as long as a few tasks, or as a page fault, is normal; a thread that lost its core is away
// for longer. One long wait is chance, two within a short time are contention.
constexpr int kTasksOfWait = 4;
constexpr Clock::duration kShortWait = milliseconds(1);
constexpr Clock::duration kTwiceWithin = milliseconds(50);

// How long calls then work alone. Soon after that, a single long wait is enough to start again, for
// twice as long.
constexpr Clock::duration kFirstRest = milliseconds(50), kLongestRest = milliseconds(1600);
constexpr Clock::duration kSoon = milliseconds(100);

// Threads may overwrite these at the same time; either value will do.
std::atomic<Ticks> last_wait{0};
std::atomic<Ticks> alone_until{0};
std::atomic<Ticks> last_rest{0};

Clock::duration exchange(std::atomic<Ticks>* ticks, Clock::duration time) {
    return Clock::duration(ticks->exchange(time.count(), std::memory_order_relaxed));
}

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
    const bool again = time - until < kSoon;
    if (time - exchange(&last_wait, time) > kTwiceWithin && !again) {
        return;
    }
    const Clock::duration before(last_rest.load(std::memory_order_relaxed));
    const Clock::duration rest =
        again ? std::clamp(2 * before, kFirstRest, kLongestRest) : kFirstRest;
    exchange(&last_rest, rest);
    exchange(&alone_until, time + rest);
}

}  // namespace resq::ort
