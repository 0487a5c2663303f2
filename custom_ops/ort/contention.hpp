// Whether waiting for the session's other threads pays off.
//
// If another program keeps a core busy, the operating system suspends a thread of the pool in the
// middle of a task, for milliseconds: as long as a whole token takes. After such waits, calls work
// alone for a while. Results do not depend on the number of threads.
#pragma once

#include <chrono>

namespace resq::ort {

using Clock = std::chrono::steady_clock;

// Whether calls should currently use no other threads.
bool works_alone(Clock::time_point now);

// Reports how long a call that ends now waited for other threads, and how long one of its tasks
// took.
void report_wait(Clock::duration wait, Clock::duration task, Clock::time_point now);

}  // namespace resq::ort
