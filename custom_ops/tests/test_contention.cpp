// test_contention: which waits and tasks make later calls work alone, and for how long.
//
// Prints each fact that is false, and exits with 1 if there is any.
#include <chrono>
#include <cstdio>

#include "ort/contention.hpp"

namespace {

using resq::ort::Clock;
using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;

bool all_true = true;

void expect(bool fact, const char* sentence) {
    if (!fact) {
        std::printf("false: %s\n", sentence);
        all_true = false;
    }
}

// Ends a call of ten tasks on the calling thread, each as long as `task`, and then a wait.
void report_wait(Clock::duration wait, Clock::duration task, Clock::time_point now) {
    resq::ort::report_times({10, 10 * task, task, wait}, now);
}

// Ends a call of ten tasks, the last of which is longer than the others, without a wait.
void report_task(Clock::duration longest, Clock::duration task, Clock::time_point now) {
    resq::ort::report_times({10, 9 * task + longest, longest, Clock::duration(0)}, now);
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
    using resq::ort::works_alone;
    Clock::time_point now = Clock::time_point() + hours(1);  // no real time passes
    const auto wait_twice = [&] {
        report_wait(milliseconds(3), microseconds(10), now);
        report_wait(milliseconds(3), microseconds(10), now += milliseconds(10));
    };
    const auto rest = [&] {
        const Clock::time_point from = now;
        now = together_again(now);
        return now - from;
    };
    expect(!works_alone(now), "at first, calls share their work");
    for (int i = 0; i < 3; ++i) {
        report_wait(microseconds(900), microseconds(1), now);
        report_wait(milliseconds(3), milliseconds(1), now);
    }
    expect(!works_alone(now), "waits below a millisecond, or as long as a few tasks, do not count");
    report_wait(milliseconds(3), microseconds(10), now);
    report_wait(milliseconds(3), microseconds(10), now += milliseconds(100));
    expect(!works_alone(now), "nor do rare long ones");
    now += milliseconds(100);
    wait_twice();
    expect(works_alone(now), "two long ones in a short time make calls work alone");
    const auto first_rest = rest();
    expect(first_rest == milliseconds(50), "for 50 milliseconds");
    report_wait(milliseconds(3), microseconds(10), now += milliseconds(10));
    expect(rest() == 2 * first_rest, "and for twice as long if it soon happens again");
    now += milliseconds(500);
    wait_twice();
    expect(rest() == first_rest, "but not if it happens much later");
    for (int i = 0; i < 20; ++i) {
        wait_twice();
        expect(rest() <= milliseconds(1600), "and never for more than 1.6 seconds");
    }
    now += milliseconds(500);
    for (int i = 0; i < 3; ++i) {
        report_task(microseconds(900), microseconds(1), now);
        report_task(milliseconds(9), milliseconds(1), now);
        resq::ort::report_times({1, milliseconds(9), milliseconds(9), Clock::duration(0)}, now);
    }
    expect(!works_alone(now), "a task of its own may be longer than the others, or the only one");
    report_task(milliseconds(3), microseconds(10), now);
    report_task(milliseconds(3), microseconds(10), now += milliseconds(10));
    expect(works_alone(now), "but not by milliseconds that others do not take, twice");
    std::printf("contention: %s\n", all_true ? "all facts true" : "FAILED");
    return all_true ? 0 : 1;
}
