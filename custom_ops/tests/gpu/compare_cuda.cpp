// compare_cuda [--quick] [--every N] [--seed N] [--only TEXT] [--first]: compares the kernels for
// CUDA with the scalar kernels for CPUs, over all cases of compare_kernels and in each type.
//
//   --quick      the cases of compare_kernels --quick
//   --every N    of these, one in N
//   --seed N     with other options and numbers; 0 unless it is given
//   --only TEXT  what has this in its name, such as "attention float16"
//   --first      each ends at its first mismatch
//
// compare_cuda --time [--once] < SHAPES: times kernels and layers instead, see timing.hpp.
//
// Prints a line for each operator and type, and a summary. Exit code 1 if anything differs or CUDA
// fails, 2 if the arguments are wrong.
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <iostream>

#include "compare.hpp"
#include "timing.hpp"

namespace resq::tests::gpu {
namespace {

struct Operator {
    const char* name;
    void (*compare)(const Choice&, Score&);
};
const Operator kOperators[] = {{"attention", compare_attentions},
                               {"matmul", compare_matmuls},
                               {"hadamard", compare_hadamards}};

struct Options {
    Selection cases;
    std::int64_t every = 1;
    std::string only;
    bool first = false, times = false, once = false;
};

// One operator in one type, in a thread of its own.
struct Job {
    std::string name;
    std::future<Score> score;
};

std::vector<Job> start(const Options& options) {
    std::vector<Job> jobs;
    for (const Operator& one : kOperators) {
        for (const Float type : {Float::kSingle, Float::kHalf, Float::kBFloat16}) {
            const std::string name = std::string(one.name) + " " + name_of(type);
            if (name.find(options.only) == std::string::npos) {
                continue;
            }
            const Choice choice{type, options.cases, options.every};
            const auto compare = [&one, choice, name, stops = options.first] {
                Score score(name);
                try {
                    score.stops = stops;
                    one.compare(choice, score);
                } catch (const Stopped&) {
                } catch (const Failure& failure) {
                    score.stops = false;
                    score.expect(false, std::string("CUDA: ") + failure.what());
                }
                return score;
            };
            jobs.push_back({name, std::async(std::launch::async, compare)});
        }
    }
    return jobs;
}

int compare_all(const Options& options) {
    const Device device = gpu::device();
    std::int64_t comparisons = 0, mismatches = 0;
    for (Job& job : start(options)) {
        const Score score = job.score.get();
        std::printf("%-18s %8" PRId64 " comparisons, %" PRId64 " mismatches\n", job.name.c_str(),
                    score.comparisons, score.mismatches);
        std::fflush(stdout);
        comparisons += score.comparisons;
        mismatches += score.mismatches;
    }
    std::printf("compare_cuda on %s (sm_%d), seed %" PRIu64 ": %" PRId64 " comparisons, %" PRId64
                " mismatches\n",
                device.name.c_str(), device.capability, options.cases.seed, comparisons,
                mismatches);
    return comparisons > 0 && mismatches == 0 ? 0 : 1;
}

// Whether the arguments are valid.
bool parse(int argc, char** argv, Options& options) {
    for (int i = 1; i < argc; ++i) {
        const bool has_value = i + 1 < argc;
        if (std::strcmp(argv[i], "--quick") == 0) {
            options.cases.quick = true;
        } else if (std::strcmp(argv[i], "--first") == 0) {
            options.first = true;
        } else if (std::strcmp(argv[i], "--time") == 0) {
            options.times = true;
        } else if (std::strcmp(argv[i], "--once") == 0) {
            options.once = true;
        } else if (std::strcmp(argv[i], "--every") == 0 && has_value) {
            options.every = std::atoll(argv[++i]);
        } else if (std::strcmp(argv[i], "--seed") == 0 && has_value) {
            options.cases.seed = std::strtoull(argv[++i], nullptr, 10);
        } else if (std::strcmp(argv[i], "--only") == 0 && has_value) {
            options.only = argv[++i];
        } else {
            return false;
        }
    }
    return options.every > 0;
}

}  // namespace
}  // namespace resq::tests::gpu

int main(int argc, char** argv) {
    using namespace resq::tests::gpu;
    Options options;
    if (!parse(argc, argv, options)) {
        std::fprintf(stderr,
                     "usage: %s [--quick] [--every N] [--seed N] [--only TEXT] [--first]\n       "
                     "%s --time [--once]\n",
                     argv[0], argv[0]);
        return 2;
    }
    try {
        if (options.times) {
            time_shapes(std::cin, options.once);
            return 0;
        }
        return compare_all(options);
    } catch (const Failure& failure) {
        std::fprintf(stderr, "CUDA: %s\n", failure.what());
        return 1;
    } catch (const std::invalid_argument& wrong) {
        std::fprintf(stderr, "%s: %s\n", argv[0], wrong.what());
        return 2;
    }
}
