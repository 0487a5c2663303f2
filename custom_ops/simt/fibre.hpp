// A fibre: a function with a stack of its own, which gives the processor back in the middle.
#pragma once

#include <cstddef>
#include <functional>

namespace simt {

class Fibre {
  public:
    Fibre();
    Fibre(const Fibre&) = delete;
    Fibre& operator=(const Fibre&) = delete;
    ~Fibre();

    // Gives it a function to run; what it did before must have ended.
    void begin(std::function<void()> work);
    // Runs it until it pauses or ends. Called from outside.
    void resume();
    // Goes back to whoever resumed it. Called from inside.
    void pause();
    bool has_ended() const { return has_ended_; }

  private:
    static void enter(Fibre* fibre);

    std::function<void()> work_;
    bool has_ended_ = true;
    std::byte* stack_;
    void* inside_ = nullptr;   // stack pointer of the fibre while it rests
    void* outside_ = nullptr;  // that of who resumed it
    // What AddressSanitizer is told of stacks.
    void* fake_inside_ = nullptr;
    void* fake_outside_ = nullptr;
    const void* outer_stack_ = nullptr;
    std::size_t outer_bytes_ = 0;
};

}  // namespace simt
