// Whether the session's other threads are worth waiting for.
//
// Where another program keeps a core busy, a thread of the pool is taken off it in the middle of a
// task, for milliseconds: as long as a whole token. A call that had to wait so is the sign to go on
// alone for a while; results do not depend on the number of threads.
#pragma once

#include <chrono>

namespace resq::ort {

using Clock = std::chrono::steady_clock;

// Whether calls should do without other threads for now.
bool works_alone(Clock::time_point now);

// Tells how long a call that ends now waited for other threads, and what one of its tasks took.
void report_wait(Clock::duration wait, Clock::duration task, Clock::time_point now);

}  // namespace resq::ort
