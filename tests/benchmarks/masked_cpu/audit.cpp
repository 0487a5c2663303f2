// Lets a process see a CPU with AVX2, and nothing of AVX-512, AVX-VNNI and AMX; and counts what
// it executes. x86-64 Linux with glibc.
//
//   c++ -O2 -std=c++17 -shared -fPIC audit.cpp -o audit.so
//   LD_AUDIT=audit.so LD_PRELOAD=audit.so MASKED_CPU_…=… program
//
// As an audit library (man rtld-audit) it hears of each shared object after that is mapped, and
// before its relocations (which call ifunc resolvers) and constructors. There it overwrites each
// cpuid (0F A2) by ud2 (0F 0B); the signal handler then answers in the place of the CPU. Where
// these instructions are, cpuid_sites.py found by disassembly.
//
// As a preloaded library it opens another file where /proc/cpuinfo is asked for.
//
// | variable           | what                                                               |
// |--------------------|--------------------------------------------------------------------|
// | MASKED_CPU_SITES   | file; a line for each cpuid: hexadecimal address, space, object    |
// | MASKED_CPU_OBJECTS | file that gets the path of each object that is loaded, a line each |
// | MASKED_CPU_COUNTS  | file with a Counts, which is added to                              |
// | MASKED_CPU_SAMPLES | microseconds of CPU time between two samples; none without it      |
// | MASKED_CPU_INFO    | file that is read for /proc/cpuinfo                                |

#include <cpuid.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

namespace {

// counts.py reads these, as little-endian 64-bit integers in this order.
struct Counts {
    uint64_t answered;  // cpuid instructions that this library answered.
    uint64_t samples;   // Of the program counter.
    uint64_t vex;       // Samples at an instruction of AVX, AVX2, FMA, ...: prefix C4 or C5.
    uint64_t evex;      // Samples at an instruction of AVX-512: prefix 62.
    uint64_t vnni;      // Samples at a dot product of VNNI, with either prefix.
};

struct Site {
    uintptr_t address;  // Before its object is loaded, relative to where that will be.
    char* object;       // Path.
};

Counts ignored;
Counts* counts = &ignored;
int objects = -1;  // A file.

constexpr int kMostSites = 4096;
constexpr int kMostPatched = 4096;
Site sites[kMostSites];
uintptr_t patched[kMostPatched];
int site_count = 0, patched_count = 0;

[[noreturn]] void give_up(const char* why, const char* what) {
    dprintf(2, "audit.cpp: %s: %s\n", why, what);
    _exit(70);
}

// ---------------------------------------------------------------------------------------------
// The masked CPU. Of leaf 7 only those features stay that AVX2-only CPUs have, and that are not
// about vectors wider than theirs: GFNI, VAES and VPCLMULQDQ go, too.

constexpr uint32_t kAvx512InEbx = 1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 |
                                  1u << 30 | 1u << 31;                   // F DQ IFMA PF ER CD BW VL
constexpr uint32_t kKeptInEcx = 1u << 2 | 1u << 3 | 1u << 4 | 1u << 22;  // UMIP PKU OSPKE RDPID
constexpr uint32_t kKeptInEdx = 1u << 4 | 1u << 10 | 0xfc000000u;  // FSRM MD_CLEAR, mitigations

void mask(uint32_t leaf, uint32_t subleaf, uint32_t (&r)[4]) {
    if (leaf == 7 && subleaf == 0) {
        r[0] = 0;  // The last sub-leaf: AVX-VNNI and what came after it are in sub-leaf 1.
        r[1] &= ~kAvx512InEbx;
        r[2] &= kKeptInEcx;
        r[3] &= kKeptInEdx;
    } else if (leaf == 7 || leaf == 0x1d || leaf == 0x1e || leaf == 0x24) {  // AMX, AMX, AVX10
        r[0] = r[1] = r[2] = r[3] = 0;
    } else if (leaf == 0xd && subleaf == 0) {
        r[0] &= ~0x600e0u;  // State of mask registers, upper halves, registers 16-31; tiles.
    }
}

void restore_default(int signal_number) {
    struct sigaction action = {};
    action.sa_handler = SIG_DFL;
    sigaction(signal_number, &action, nullptr);
}

void answer(int, siginfo_t*, void* context) {
    greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    const uintptr_t address = static_cast<uintptr_t>(registers[REG_RIP]);
    bool ours = false;
    for (int i = 0; i < patched_count && !ours; ++i) ours = patched[i] == address;
    if (!ours) {
        restore_default(SIGILL);  // Not ours: the instruction traps again, and ends the process.
        return;
    }
    const uint32_t leaf = static_cast<uint32_t>(registers[REG_RAX]);
    const uint32_t subleaf = static_cast<uint32_t>(registers[REG_RCX]);
    uint32_t r[4];
    __cpuid_count(leaf, subleaf, r[0], r[1], r[2], r[3]);
    mask(leaf, subleaf, r);
    registers[REG_RAX] = r[0];
    registers[REG_RBX] = r[1];
    registers[REG_RCX] = r[2];
    registers[REG_RDX] = r[3];
    registers[REG_RIP] += 2;
    __atomic_fetch_add(&counts->answered, 1, __ATOMIC_RELAXED);
}

// ---------------------------------------------------------------------------------------------
// Samples.

// C4 RXB.mmmmm W.vvvv.L.pp opcode; 62 …mmm W.vvvv.1.pp … opcode: map 0F38, prefix 66, opcode
// 50-53 is VPDPBUSD, VPDPBUSDS, VPDPWSSD, VPDPWSSDS.
bool is_vnni(const uint8_t* code, bool evex) {
    const int map = code[1] & (evex ? 0x07 : 0x1f);
    return map == 2 && (code[2] & 3) == 1 && (code[evex ? 4 : 3] & 0xfc) == 0x50;
}

void sample(int, siginfo_t*, void* context) {
    const greg_t address = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP];
    const uint8_t* code = reinterpret_cast<const uint8_t*>(address);
    __atomic_fetch_add(&counts->samples, 1, __ATOMIC_RELAXED);
    // In 64-bit mode these bytes begin no other instruction, and no legacy prefix precedes them.
    if (code[0] == 0xc4 || code[0] == 0xc5) {
        __atomic_fetch_add(&counts->vex, 1, __ATOMIC_RELAXED);
    } else if (code[0] == 0x62) {
        __atomic_fetch_add(&counts->evex, 1, __ATOMIC_RELAXED);
    }
    if ((code[0] == 0xc4 && is_vnni(code, false)) || (code[0] == 0x62 && is_vnni(code, true))) {
        __atomic_fetch_add(&counts->vnni, 1, __ATOMIC_RELAXED);
    }
}

void handle(int signal_number, void (*handler)(int, siginfo_t*, void*)) {
    struct sigaction action = {};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER;
    if (sigaction(signal_number, &action, nullptr)) give_up("sigaction", "failed");
}

// ---------------------------------------------------------------------------------------------
// Patches.

void read_sites(const char* path) {
    FILE* file = fopen(path, "r");
    if (!file) give_up("cannot read", path);
    char* line = nullptr;
    size_t room = 0;
    while (getline(&line, &room, file) > 0) {
        line[strcspn(line, "\n")] = 0;
        char* object = nullptr;
        const uintptr_t address = strtoull(line, &object, 16);
        if (*object != ' ' || site_count == kMostSites) give_up("bad or too many lines", path);
        sites[site_count++] = {address, strdup(object + 1)};
    }
    free(line);
    fclose(file);
}

// Pages are copied on writing; the file stays as it is.
void patch(uint8_t* code, const char* object) {
    if (code[0] != 0x0f || code[1] != 0xa2) give_up("no cpuid where one was found", object);
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = reinterpret_cast<uintptr_t>(code) & ~(page - 1);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(code) + 2 + page - 1) & ~(page - 1);
    void* pages = reinterpret_cast<void*>(begin);
    if (mprotect(pages, end - begin, PROT_READ | PROT_WRITE | PROT_EXEC)) {
        give_up("cannot write to", object);
    }
    patched[patched_count++] = reinterpret_cast<uintptr_t>(code);
    code[1] = 0x0b;
    if (mprotect(pages, end - begin, PROT_READ | PROT_EXEC)) give_up("cannot protect", object);
}

}  // namespace

extern "C" {

unsigned la_version(unsigned version) {
    if (const char* path = getenv("MASKED_CPU_COUNTS")) {
        const int file = open(path, O_RDWR);
        void* data = mmap(nullptr, sizeof(Counts), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (data == MAP_FAILED) give_up("cannot map", path);
        counts = static_cast<Counts*>(data);
        close(file);
    }
    if (const char* path = getenv("MASKED_CPU_OBJECTS")) {
        objects = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
        if (objects < 0) give_up("cannot write to", path);
    }
    if (const char* path = getenv("MASKED_CPU_SITES")) {
        read_sites(path);
        handle(SIGILL, answer);
    }
    if (const char* microseconds = getenv("MASKED_CPU_SAMPLES")) {
        handle(SIGPROF, sample);
        const timeval every = {0, atoi(microseconds)};
        const itimerval timer = {every, every};
        setitimer(ITIMER_PROF, &timer, nullptr);
    }
    return version;
}

unsigned la_objopen(link_map* map, Lmid_t, uintptr_t*) {
    char path[4096];
    if (!realpath(*map->l_name ? map->l_name : "/proc/self/exe", path)) return 0;  // The vDSO.
    if (objects >= 0) dprintf(objects, "%s\n", path);
    for (int i = 0; i < site_count; ++i) {
        if (strcmp(sites[i].object, path)) continue;
        if (patched_count == kMostPatched) give_up("too many instructions", path);
        patch(reinterpret_cast<uint8_t*>(map->l_addr + sites[i].address), path);
    }
    return 0;  // No calls between objects are audited.
}

// ---------------------------------------------------------------------------------------------
// /proc/cpuinfo, by whichever function it is opened.

static const char* instead_of(const char* path) {
    const char* other = getenv("MASKED_CPU_INFO");
    return other && path && !strcmp(path, "/proc/cpuinfo") ? other : path;
}

#define THE_REAL(name) reinterpret_cast<decltype(&name)>(dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                            \
    int name(const char* path, int flags, ...) {              \
        va_list more;                                         \
        va_start(more, flags);                                \
        const mode_t mode = va_arg(more, mode_t);             \
        va_end(more);                                         \
        return THE_REAL(name)(instead_of(path), flags, mode); \
    }
#define OPENAT(name)                                                  \
    int name(int folder, const char* path, int flags, ...) {          \
        va_list more;                                                 \
        va_start(more, flags);                                        \
        const mode_t mode = va_arg(more, mode_t);                     \
        va_end(more);                                                 \
        return THE_REAL(name)(folder, instead_of(path), flags, mode); \
    }
#define FOPEN(name)                                    \
    FILE* name(const char* path, const char* mode) {   \
        return THE_REAL(name)(instead_of(path), mode); \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
FOPEN(fopen)
FOPEN(fopen64)

}  // extern "C"
