// A fibre: a function with its own stack, which can pause in the middle.
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

    // Sets the function to run; the previous one must have ended.
    void begin(std::function<void()> work);
    // Runs it until it pauses or ends. Called from outside.
    void resume();
    // Returns to the caller of `resume`. Called from inside.
    void pause();
    bool has_ended() const { return has_ended_; }

  private:
    static void enter(Fibre* fibre);

    std::function<void()> work_;
    bool has_ended_ = true;
    std::byte* stack_;
    void* inside_ = nullptr;   // stack pointer of the fibre while it is paused
    void* outside_ = nullptr;  // that of the caller of `resume`
    // State of AddressSanitizer, which must know about stacks.
    void* fake_inside_ = nullptr;
    void* fake_outside_ = nullptr;
    const void* outer_stack_ = nullptr;
    std::size_t outer_bytes_ = 0;
};

}  // namespace simt
