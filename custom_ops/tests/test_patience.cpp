// test_patience: when a call that had to wait makes the next ones work alone, and for how long.
//
// Prints what is not so; exit code 1 then.
#include <chrono>
#include <cstdio>

#include "ort/patience.hpp"

namespace {

using resq::ort::Clock;
using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;

bool all_true = true;

void expect(bool fact, const char* sentence) {
    if (!fact) {
        std::printf("not so: %s\n", sentence);
        all_true = false;
    }
}

// The first moment from `now` on, in steps of a millisecond, at which calls share their work.
Clock::time_point together_again(Clock::time_point now) {
    while (resq::ort::works_alone(now)) {
        now += milliseconds(1);
    }
    return now;
}

}  // namespace

int main() {
    using resq::ort::report_wait;
    using resq::ort::works_alone;
    const Clock::time_point start = Clock::time_point() + hours(1);  // no real time goes by here
    expect(!works_alone(start), "at first, calls share their work");
    report_wait(microseconds(200), microseconds(1), start);
    expect(!works_alone(start), "a wait of 200 microseconds is nothing");
    report_wait(milliseconds(3), milliseconds(1), start);
    expect(!works_alone(start), "a wait of some tasks' time is nothing");
    report_wait(milliseconds(3), microseconds(10), start);
    expect(works_alone(start), "a wait of many tasks' time makes calls work alone");
    const Clock::time_point second = together_again(start);
    const auto first_rest = second - start;
    expect(first_rest >= milliseconds(50), "for a while");
    report_wait(milliseconds(3), microseconds(10), second + milliseconds(5));
    const Clock::time_point third = together_again(second + milliseconds(5));
    expect(third - second > 2 * first_rest, "and for twice as long where it happens again soon");
    const Clock::time_point later = third + milliseconds(500);
    report_wait(milliseconds(3), microseconds(10), later);
    expect(together_again(later) - later == first_rest, "but not where it happens much later");
    Clock::time_point now = later;
    for (int i = 0; i < 20; ++i) {
        now = together_again(now);
        report_wait(milliseconds(3), microseconds(10), now);
    }
    expect(together_again(now) - now <= milliseconds(1600), "and never for more than 1.6 seconds");
    std::printf("patience: %s\n", all_true ? "as it should be" : "FAILED");
    return all_true ? 0 : 1;
}
