// Remembers lost cores for all sessions of the process, as they share its cores.
#include "contention.hpp"

#include <algorithm>
#include <atomic>

namespace resq::ort {
namespace {

using std::chrono::milliseconds;
using Ticks = Clock::duration::rep;

// A wait as long as a few tasks, or as a page fault, is normal, and so is a task that is several
// times as long as the others; a thread that lost its core is away for longer. Once is chance,
// twice within a short time is contention.
constexpr int kTasksOfWait = 4, kTasksOfTask = 10;
constexpr Clock::duration kShortWait = milliseconds(1);
constexpr Clock::duration kTwiceWithin = milliseconds(50);

// How long calls then work alone. Soon after that, a single lost core is enough to start again, for
// twice as long.
constexpr Clock::duration kFirstRest = milliseconds(50), kLongestRest = milliseconds(1600);
constexpr Clock::duration kSoon = milliseconds(100);

// Threads may overwrite these at the same time; either value will do.
std::atomic<Ticks> last_loss{0};
std::atomic<Ticks> alone_until{0};
std::atomic<Ticks> last_rest{0};

bool lost_a_core(const CallTimes& times) {
    if (times.wait > std::max(kShortWait, times.all / times.tasks * kTasksOfWait)) {
        return true;
    }
    if (times.tasks < 2) {
        return false;
    }
    const Clock::duration other = (times.all - times.longest) / (times.tasks - 1);
    return times.longest > std::max(kShortWait, other * kTasksOfTask);
}

Clock::duration exchange(std::atomic<Ticks>* ticks, Clock::duration time) {
    return Clock::duration(ticks->exchange(time.count(), std::memory_order_relaxed));
}

}  // namespace

bool works_alone(Clock::time_point now) {
    return now.time_since_epoch().count() < alone_until.load(std::memory_order_relaxed);
}

void report_times(const CallTimes& times, Clock::time_point now) {
    if (!lost_a_core(times)) {
        return;
    }
    const Clock::duration time = now.time_since_epoch();
    const Clock::duration until(alone_until.load(std::memory_order_relaxed));
    const bool again = time - until < kSoon;
    if (time - exchange(&last_loss, time) > kTwiceWithin && !again) {
        return;
    }
    const Clock::duration before(last_rest.load(std::memory_order_relaxed));
    const Clock::duration rest =
        again ? std::clamp(2 * before, kFirstRest, kLongestRest) : kFirstRest;
    exchange(&last_rest, rest);
    exchange(&alone_until, time + rest);
}

}  // namespace resq::ort
