// What this machine can do at most: multiply-adds from registers, and reads from memory.
//
//   g++ -O2 -std=c++17 -pthread peaks.cpp -o peaks && ./peaks [--json] [--threads N] [--runs R]
//
// Prints the median of several runs for 1, 2, 4, ... and N threads. One multiply-accumulate (MAC)
// is a product of two numbers and its addition; GMAC/s are 10^9 of them. An instruction set is
// measured only where the CPU has it.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

// ---------------------------------------------------------------------------------------------
// Multiply-adds. Each loop keeps 12 independent sums, enough to hide an instruction's latency, in
// registers. The loops are written in assembly, for a compiler sees that all sums are equal, or
// puts them into memory.

constexpr int kSums = 12;

#if defined(__x86_64__)

#define ALL_SUMS(step)                                                                        \
    step("0") step("1") step("2") step("3") step("4") step("5") step("6") step("7") step("8") \
        step("9") step("10") step("11")

// Registers 0-11 are sums, 12 stands for a vector of ones, 13 is a product, 14 and 15 are factors.
#define CLEAR(n) "vpxor %%xmm" n ", %%xmm" n ", %%xmm" n "\n"
#define FMA_256(n) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" n "\n"
#define FMA_512(n) "vfmadd231ps %%zmm14, %%zmm15, %%zmm" n "\n"
#define MADDUBS "vpmaddubsw %%ymm14, %%ymm15, %%ymm13\n"
#define MADDUBS_MADDWD(n) \
    MADDUBS "vpmaddwd %%ymm12, %%ymm13, %%ymm13\n vpaddd %%ymm13, %%ymm" n ", %%ymm" n "\n"
#define MADDUBS_ADDW(n) MADDUBS "vpaddw %%ymm13, %%ymm" n ", %%ymm" n "\n"
#define MADDWD(n) "vpmaddwd %%ymm14, %%ymm15, %%ymm13\n vpaddd %%ymm13, %%ymm" n ", %%ymm" n "\n"
#define DPBUSD_VEX(n) "%{vex%} vpdpbusd %%ymm14, %%ymm15, %%ymm" n "\n"
#define DPBUSD_256(n) "%{evex%} vpdpbusd %%ymm14, %%ymm15, %%ymm" n "\n"
#define DPBUSD_512(n) "vpdpbusd %%zmm14, %%zmm15, %%zmm" n "\n"

#define LOOP(name, step)                                                                         \
    void name(int64_t rounds) {                                                                  \
        asm volatile(ALL_SUMS(CLEAR) CLEAR("12") CLEAR("13") CLEAR("14") CLEAR(                  \
                         "15") ".p2align 5\n 1:\n" ALL_SUMS(step) "dec %0\n jnz 1b\n vzeroupper" \
                     : "+r"(rounds)                                                              \
                     :                                                                           \
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",     \
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");    \
    }

LOOP(fma_256, FMA_256)
LOOP(fma_512, FMA_512)
LOOP(maddubs_maddwd_256, MADDUBS_MADDWD)
LOOP(maddubs_addw_256, MADDUBS_ADDW)
LOOP(maddwd_256, MADDWD)
LOOP(dpbusd_avxvnni, DPBUSD_VEX)
LOOP(dpbusd_256, DPBUSD_256)
LOOP(dpbusd_512, DPBUSD_512)

#elif defined(__aarch64__)

#define FMLA(n) "fmla v" n ".4s, v30.4s, v31.4s\n"
#define ALL_SUMS(step)                                                                         \
    step("0") step("1") step("2") step("3") step("4") step("5") step("6") step("7") step("16") \
        step("17") step("18") step("19")

void fmla_128(int64_t rounds) {
    asm volatile(
        "movi v30.4s, #0\n movi v31.4s, #0\n 1:\n" ALL_SUMS(FMLA) "subs %0, %0, #1\n b.ne 1b"
        : "+r"(rounds)
        :
        : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v30",
          "v31");
}

#endif

struct Mix {
    const char* name;
    const char* instructions;
    int macs_per_round;
    void (*run)(int64_t rounds);
};

std::vector<Mix> mixes() {
    std::vector<Mix> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
    if (avx2 && __builtin_cpu_supports("fma")) {
        found.push_back({"fma", "vfmadd, 256 bits", kSums * 8, fma_256});
    }
    if (avx512) found.push_back({"fma_512", "vfmadd, 512 bits", kSums * 16, fma_512});
    if (avx2) {
        found.push_back({"maddubs_maddwd", "vpmaddubsw + vpmaddwd + vpaddd, 256 bits", kSums * 32,
                         maddubs_maddwd_256});
        found.push_back({"maddubs_addw", "vpmaddubsw + vpaddw (int16 sums), 256 bits", kSums * 32,
                         maddubs_addw_256});
        found.push_back({"maddwd", "vpmaddwd + vpaddd, 256 bits", kSums * 16, maddwd_256});
    }
    if (__builtin_cpu_supports("avxvnni")) {
        found.push_back(
            {"dpbusd_avxvnni", "vpdpbusd, AVX-VNNI, 256 bits", kSums * 32, dpbusd_avxvnni});
    }
    if (avx512 && __builtin_cpu_supports("avx512vnni")) {
        found.push_back({"dpbusd_256", "vpdpbusd, AVX-512-VNNI, 256 bits", kSums * 32, dpbusd_256});
        found.push_back({"dpbusd_512", "vpdpbusd, AVX-512-VNNI, 512 bits", kSums * 64, dpbusd_512});
    }
#elif defined(__aarch64__)
    found.push_back({"fma", "fmla, 128 bits", kSums * 4, fmla_128});
#endif
    return found;
}

// ---------------------------------------------------------------------------------------------
// Reads. Each thread sums up its own stretch of one buffer, front to back.

template <typename Vector>
inline __attribute__((always_inline)) void read_as(const char* data, size_t size) {
    Vector s0 = {}, s1 = {}, s2 = {}, s3 = {};
    auto end = reinterpret_cast<const Vector*>(data + size);
    for (auto p = reinterpret_cast<const Vector*>(data); p + 4 <= end; p += 4) {
        s0 += p[0], s1 += p[1], s2 += p[2], s3 += p[3];
    }
    s0 += s1 + s2 + s3;
    asm volatile("" ::"m"(s0));  // Somebody may look at the sum.
}

typedef int64_t Int2 __attribute__((vector_size(16)));
typedef int64_t Int4 __attribute__((vector_size(32)));

void read_portable(const char* data, size_t size) { read_as<Int2>(data, size); }

#if defined(__x86_64__)
__attribute__((target("avx2"))) void read_avx2(const char* data, size_t size) {
    read_as<Int4>(data, size);
}
#endif

void read_all(const char* data, size_t size) {
#if defined(__x86_64__)
    static const bool avx2 = __builtin_cpu_supports("avx2");
    if (avx2) return read_avx2(data, size);
#endif
    read_portable(data, size);
}

// ---------------------------------------------------------------------------------------------
// Measuring

// Runs `work(thread)` on all threads at once and returns the seconds from the first one's start
// to the last one's end.
template <typename Work>
double seconds_together(int threads, const Work& work) {
    std::atomic<int> waiting{threads};
    std::vector<Clock::time_point> starts(threads), ends(threads);
    std::vector<std::thread> others;
    auto body = [&](int thread) {
        --waiting;
        while (waiting > 0) std::this_thread::yield();
        starts[thread] = Clock::now();
        work(thread);
        ends[thread] = Clock::now();
    };
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(body, thread);
    body(0);
    for (std::thread& other : others) other.join();
    auto first = *std::min_element(starts.begin(), starts.end());
    auto last = *std::max_element(ends.begin(), ends.end());
    return std::chrono::duration<double>(last - first).count();
}

struct Peak {
    std::string name, what, unit;
    int threads;
    double median, best;
};

Peak peak_of(std::string name, std::string what, std::string unit, int threads,
             std::vector<double> rates) {
    std::sort(rates.begin(), rates.end());
    size_t middle = rates.size() / 2;
    double median = rates.size() % 2 ? rates[middle] : (rates[middle - 1] + rates[middle]) / 2;
    return {std::move(name), std::move(what), std::move(unit), threads, median, rates.back()};
}

constexpr double kSecondsPerRun = 0.05;

Peak measure_mix(const Mix& mix, int threads, int runs) {
    int64_t rounds = 100000;
    for (double took = 0; took < kSecondsPerRun / 4; rounds *= 2) {
        took = seconds_together(1, [&](int) { mix.run(rounds); });
    }
    rounds *= 2;
    std::vector<double> rates;
    for (int run = 0; run < runs; ++run) {
        double took = seconds_together(threads, [&](int) { mix.run(rounds); });
        rates.push_back(1e-9 * rounds * mix.macs_per_round * threads / took);
    }
    return peak_of(mix.name, mix.instructions, "GMAC/s", threads, rates);
}

struct Level {
    const char* name;
    size_t bytes;      // Read by all threads together, or by each
    bool each_thread;  // true for a cache that every core has for itself
};

Peak measure_read(const Level& level, const char* buffer, int threads, int runs) {
    size_t stretch = level.each_thread ? level.bytes : level.bytes / threads;
    stretch = stretch / 4096 * 4096;
    size_t total = stretch * threads;
    size_t passes = std::max<size_t>(1, (size_t{1} << 30) / total);
    auto work = [&](int thread) {
        for (size_t pass = 0; pass < passes; ++pass) read_all(buffer + stretch * thread, stretch);
    };
    seconds_together(threads, work);  // Brings a cache's share into it.
    std::vector<double> rates;
    for (int run = 0; run < runs; ++run) {
        rates.push_back(1e-9 * total * passes / seconds_together(threads, work));
    }
    std::string what = std::to_string(level.bytes >> 10) + " KiB" +
                       (level.each_thread ? " for each thread" : " for all threads");
    return peak_of(level.name, what, "GB/s", threads, rates);
}

// ---------------------------------------------------------------------------------------------
// The machine

size_t cache_bytes(int level, size_t otherwise) {
    for (int index = 0; index < 8; ++index) {
        std::string folder =
            "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
        int found = 0;
        size_t kilobytes = 0;
        std::ifstream(folder + "level") >> found;
        std::ifstream(folder + "size") >> kilobytes;  // "1024K"
        if (found == level && kilobytes) return kilobytes << 10;
    }
    return otherwise;
}

std::string cpu_name() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
    }
    return "unknown";
}

std::vector<int> thread_counts(int most) {
    std::vector<int> counts;
    for (int count = 1; count < most; count *= 2) counts.push_back(count);
    counts.push_back(most);
    return counts;
}

void print_json(const std::vector<Peak>& peaks, size_t l2, size_t l3) {
    std::printf(
        "{\"cpu\": \"%s\", \"cores\": %u, \"l2_bytes\": %zu, \"l3_bytes\": %zu, \"peaks\": [",
        cpu_name().c_str(), std::thread::hardware_concurrency(), l2, l3);
    const char* separator = "\n";
    for (const Peak& peak : peaks) {
        std::printf(
            "%s{\"name\": \"%s\", \"what\": \"%s\", \"threads\": %d, \"unit\": \"%s\", "
            "\"median\": %.4g, \"best\": %.4g}",
            separator, peak.name.c_str(), peak.what.c_str(), peak.threads, peak.unit.c_str(),
            peak.median, peak.best);
        separator = ",\n";
    }
    std::printf("\n]}\n");
}

void print_table(const std::vector<Peak>& peaks) {
    std::printf("%s, %u cores\n", cpu_name().c_str(), std::thread::hardware_concurrency());
    std::printf("%-16s %-46s %7s %9s %9s\n", "name", "what", "threads", "median", "best");
    for (const Peak& peak : peaks) {
        std::printf("%-16s %-46s %7d %9.1f %9.1f %s\n", peak.name.c_str(), peak.what.c_str(),
                    peak.threads, peak.median, peak.best, peak.unit.c_str());
    }
}

int usage() {
    std::fprintf(stderr, "usage: peaks [--json] [--threads N] [--runs R], N and R at least 1\n");
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    bool json = false;
    int threads = std::max(1u, std::thread::hardware_concurrency()), runs = 9;
    for (int i = 1; i < argc; ++i) {
        if (!std::strcmp(argv[i], "--json")) {
            json = true;
        } else if (!std::strcmp(argv[i], "--threads") && i + 1 < argc) {
            threads = std::atoi(argv[++i]);
        } else if (!std::strcmp(argv[i], "--runs") && i + 1 < argc) {
            runs = std::atoi(argv[++i]);
        } else {
            return usage();
        }
    }
    if (threads < 1 || runs < 1) return usage();

    // Half a cache, so that what else runs does not push the data out.
    size_t l2 = cache_bytes(2, size_t{512} << 10), l3 = cache_bytes(3, 0);
    std::vector<Level> levels = {{"read_l2", l2 / 2, true}};
    if (l3) levels.push_back({"read_l3", std::min(l3 / 2, size_t{16} << 20), false});
    levels.push_back({"read_dram", std::max(size_t{512} << 20, 4 * l3), false});

    size_t size = std::max(levels.back().bytes, threads * l2);
    void* buffer = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED) {
        std::fprintf(stderr, "peaks: no memory for a buffer of %zu bytes\n", size);
        return 1;
    }
    std::memset(buffer, 1, size);  // Pages never written to are all one page of zeros.

    std::vector<Peak> peaks;
    for (int count : thread_counts(threads)) {
        for (const Mix& mix : mixes()) peaks.push_back(measure_mix(mix, count, runs));
        for (const Level& level : levels) {
            peaks.push_back(measure_read(level, static_cast<char*>(buffer), count, runs));
        }
    }
    munmap(buffer, size);
    json ? print_json(peaks, l2, l3) : print_table(peaks);
    return 0;
}
