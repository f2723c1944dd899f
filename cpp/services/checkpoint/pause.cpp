#include "checkpoint/pause.h"

#include <spdlog/spdlog.h>

#include <exception>

namespace mhv::checkpoint {

Pause::Pause(guest::Machine& machine, RunState& state)
    : machine_(machine), state_(state), from_(std::chrono::steady_clock::now()), to_(from_) {
  if (!machine_.running()) return;
  stopped_ = true;
  state_.set_phase(RunState::Phase::kStopped);
  from_ = std::chrono::steady_clock::now();
  try {
    machine_.stop();
  } catch (...) {
    resume();  // a stop that timed out may still come into effect
    throw;
  }
}

Pause::~Pause() {
  try {
    resume();
  } catch (const std::exception& error) {
    // The run state still says stopped: whoever takes over resumes it.
    spdlog::error("cannot resume the guest: {}", error.what());
  }
}

void Pause::resume() {
  if (!stopped_) return;
  machine_.resume();
  to_ = std::chrono::steady_clock::now();
  stopped_ = false;
  state_.set_phase(RunState::Phase::kRunning);
}

std::uint64_t Pause::microseconds() const {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(to_ - from_).count());
}

}  // namespace mhv::checkpoint
