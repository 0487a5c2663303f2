// Switches stacks: pushes the callee-saved registers and exchanges the stack pointers.
#include "fibre.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>

#if !defined(__x86_64__)
#error "the SIMT layer switches stacks on x86-64 only"
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define RESQ_TELL_SANITIZER(call) call
#else
#define RESQ_TELL_SANITIZER(call)
#endif

// void resq_switch_stack(void** save, void* restore): System V's callee-saved registers.
asm(R"(
    .text
    .hidden resq_switch_stack
    .globl resq_switch_stack
    .type resq_switch_stack, @function
resq_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size resq_switch_stack, .-resq_switch_stack

    .hidden resq_start_fibre
    .globl resq_start_fibre
    .type resq_start_fibre, @function
resq_start_fibre:
    movq %r12, %rdi
    callq *%r13
    ud2
    .size resq_start_fibre, .-resq_start_fibre
)");

extern "C" void resq_switch_stack(void** save, void* restore);
extern "C" void resq_start_fibre();

namespace simt {
namespace {

// Frames are large, as sanitizers put space around each variable. Untouched memory costs nothing.
constexpr std::size_t kStackBytes = 512 * 1024;

}  // namespace

Fibre::Fibre() {
    void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        std::fputs("simt: cannot allocate a stack\n", stderr);
        std::abort();
    }
    stack_ = static_cast<std::byte*>(memory);
    // What `resq_switch_stack` restores first: r15, r14, r13, r12, rbx, rbp and the return address.
    // On entry to a function, the stack pointer is 8 bytes off a multiple of 16.
    auto* top = reinterpret_cast<std::uint64_t*>(stack_ + kStackBytes) - 2;
    *--top = reinterpret_cast<std::uint64_t>(&resq_start_fibre);
    *--top = 0;                                               // rbp
    *--top = 0;                                               // rbx
    *--top = reinterpret_cast<std::uint64_t>(this);           // r12
    *--top = reinterpret_cast<std::uint64_t>(&Fibre::enter);  // r13
    *--top = 0;                                               // r14
    *--top = 0;                                               // r15
    inside_ = top;
}

Fibre::~Fibre() { munmap(stack_, kStackBytes); }

void Fibre::begin(std::function<void()> work) {
    work_ = std::move(work);
    has_ended_ = false;
}

void Fibre::resume() {
    RESQ_TELL_SANITIZER(__sanitizer_start_switch_fiber(&fake_outside_, stack_, kStackBytes));
    resq_switch_stack(&outside_, inside_);
    RESQ_TELL_SANITIZER(__sanitizer_finish_switch_fiber(fake_outside_, nullptr, nullptr));
}

void Fibre::pause() {
    RESQ_TELL_SANITIZER(__sanitizer_start_switch_fiber(&fake_inside_, outer_stack_, outer_bytes_));
    resq_switch_stack(&inside_, outside_);
    RESQ_TELL_SANITIZER(
        __sanitizer_finish_switch_fiber(fake_inside_, &outer_stack_, &outer_bytes_));
}

void Fibre::enter(Fibre* fibre) {
    RESQ_TELL_SANITIZER(
        __sanitizer_finish_switch_fiber(nullptr, &fibre->outer_stack_, &fibre->outer_bytes_));
    for (;;) {
        fibre->work_();
        fibre->has_ended_ = true;
        fibre->pause();
    }
}

}  // namespace simt
