// Whether waiting for the session's other threads pays off.
//
// If another program keeps a core busy, the operating system suspends a thread in the middle of a
// task, for milliseconds: as long as a whole token takes. If that is another thread of the pool,
// the calling one waits; if it is the calling one, the others wait and take its core from it. After
// either, calls work alone for a while. Results do not depend on the number of threads.
#pragma once

#include <chrono>

namespace resq::ort {

using Clock = std::chrono::steady_clock;

// Whether calls should currently use no other threads.
bool works_alone(Clock::time_point now);

// One call, on the thread that made it: how many tasks this thread did itself, how long all of
// these and the longest took, and how long it then waited for other threads.
struct CallTimes {
    int tasks;
    Clock::duration all, longest, wait;
};

// Reports a call that ends now.
void report_times(const CallTimes& times, Clock::time_point now);

}  // namespace resq::ort
