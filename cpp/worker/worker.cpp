#include "worker/worker.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <thread>

#include "worker/convert.h"

namespace mhv::worker {
namespace {

protocol::Reply done() {
  protocol::Reply reply;
  reply.mutable_done();
  return reply;
}

}  // namespace

Worker::Worker(engine::Control& control, const protocol::WorkerStart& start)
    : control_(control), guest_(start.guest()), name_(start.name()), options_(start.options()), layers_(control, packets_, layers_owner()) {
  layers_.configure({start.layers().begin(), start.layers().end()});
}

void Worker::serve() {
  report("stopped");
  std::thread engine([this] { run(); });
  try {
    while (std::optional<engine::Command> command = control_.receive()) dispatch(std::move(*command));
  } catch (const Error& error) {
    spdlog::error("guest {} ({}): {}", name_, guest_, error.what());
  }
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_one();
  engine.join();
}

// ---------------------------------------------------------------- control thread

void Worker::dispatch(engine::Command command) {
  using Kind = protocol::WorkerCommand;
  switch (command.message.body_case()) {
    case Kind::kMemoryUp:
      enqueue([this, up = command.message.memory_up(), fds = std::make_shared<std::vector<Fd>>(std::move(command.fds))] {
        memory_up(up, *fds);
      });
      break;
    case Kind::kGuestUp:
      enqueue([this, up = command.message.guest_up(), fds = std::make_shared<std::vector<Fd>>(std::move(command.fds))] {
        guest_up(up, std::move(*fds));
      });
      break;
    case Kind::kGuestDown:
      packets_.remove_all_taps();  // at once, too: those that come next are another QEMU's
      enqueue([this, down = command.message.guest_down()] {
        if (down.detach()) leave_guest();
        guest_down(down.reason());
      });
      break;
    // At once: what the guest sends does not wait for what the engine thread does.
    case Kind::kTaps: packets_.change_taps(command.message.taps(), std::move(command.fds)); break;
    case Kind::kReadAhead:
      enqueue([this, id = command.message.read_ahead()] {
        for (const auto& service : services_) service->read_ahead(id);
      });
      break;
    case Kind::kOptions:
      enqueue([this, options = command.message.options().options(), layers = command.message.options().layers()] {
        options_ = options;
        layers_.configure({layers.begin(), layers.end()});
        for (const auto& service : services_) service->configure(options_);
      });
      break;
    case Kind::kLayerEnded:
      enqueue([this, end = command.message.layer_ended()] { layers_.ended(end.name(), end.generation(), end.reason()); });
      break;
    case Kind::kRequest: dispatch(command.message.request(), std::move(command.fds)); break;
    default: spdlog::warn("guest {} ({}): mhvd sent a command that this worker does not know", name_, guest_);
  }
}

void Worker::dispatch(const protocol::Request& request, std::vector<Fd> fds) {
  using Kind = protocol::Request;
  switch (request.body_case()) {
    case Kind::kLayerCall: layers_.call(request.id(), request.layer_call()); return;
    case Kind::kHold: enqueue(request, [this, wanted = request.hold()] { return hold(wanted); }); return;
    case Kind::kRelease: enqueue(request, [this] { return release(); }); return;
    case Kind::kForget: enqueue(request, [this] { return forget(); }); return;
    default: break;
  }
  if (std::ranges::any_of(services_, [&](const auto& service) { return service->dispatch(request, fds); })) return;
  control_.fail(request.id(),
                Error(Code::kInvalid, "this worker does not know that request", "run the same release of mhvd and mhv-worker"));
}

void Worker::enqueue(Task task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  changed_.notify_one();
}

void Worker::enqueue(const protocol::Request& request, std::function<protocol::Reply()> work) {
  enqueue([this, id = request.id(), work = std::move(work)] {
    try {
      control_.reply(id, work());
    } catch (const Error& error) {
      spdlog::warn("guest {} ({}): {}", name_, guest_, error.what());
      control_.fail(id, error);
      if (error.code() == Code::kGone || error.code() == Code::kUnavailable) give_up(error);
    }
  });
}

// ---------------------------------------------------------------- engine thread

bool Worker::has_memory_to_come() const {
  return std::ranges::any_of(services_, [](const auto& service) { return service->has_memory_to_come(); });
}

// Whoever waits longest is first, so that nobody who is always due keeps the others waiting. nullptr: the layers, which have no turn
// while memory is to come: they would take what is not there yet for content (ARCHITECTURE.md, invariant 6).
std::pair<Worker::Clock::time_point, engine::Service*> Worker::first_due() const {
  std::pair<Clock::time_point, engine::Service*> out{has_memory_to_come() ? Clock::time_point::max() : layers_.due(), nullptr};
  for (const auto& service : services_) {
    if (const auto due = service->due(); due <= out.first) out = {due, service.get()};
  }
  return out;
}

std::optional<Worker::Task> Worker::next_task() {
  const auto [until, service] = first_due();
  std::unique_lock lock(mutex_);
  const auto ready = [this] { return closing_ || !tasks_.empty(); };
  if (until == Clock::time_point::max()) {
    changed_.wait(lock, ready);
  } else {
    changed_.wait_until(lock, until, ready);
  }
  if (!tasks_.empty()) {
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    return task;
  }
  if (closing_) return std::nullopt;
  if (service == nullptr) return [this] { tick_layers(); };
  return [service] { service->tick(); };
}

void Worker::run() {
  while (std::optional<Task> task = next_task()) {
    try {
      (*task)();
    } catch (const Error& error) {
      give_up(error);
    } catch (const std::exception& error) {
      give_up(Error(Code::kInternal, error.what()));
    }
  }
  for (const auto& service : services_) service->finish();
}

void Worker::give_up(const Error& error) {
  spdlog::error("guest {} ({}): {}; a new worker takes over", name_, guest_, error.what());
  report("failed", error.what());
  // Not exit(): the threads still stand where they are. What a death leaves behind is recovered by the next worker.
  std::_Exit(1);
}

void Worker::memory_up(const protocol::WorkerGuestUp& up, const std::vector<Fd>& fds) {
  for (const auto& service : services_) service->memory_up(up, to_missing_pages(up, fds));
}

void Worker::guest_up(const protocol::WorkerGuestUp& up, std::vector<Fd> fds) {
  drop_live();
  report("attaching");
  paused_us_ = 0;
  try {
    memory_up(up, fds);
    live_ = to_live_guest(up, std::move(fds));
    for (const auto& service : services_) service->guest_up(*live_, up);
  } catch (const Error& error) {
    if (error.code() == Code::kUnsupported || error.code() == Code::kInvalid) {
      spdlog::error("guest {} ({}): cannot attach: {}", name_, guest_, error.what());
      drop_live();
      report("failed", fmt::format("{}{}{}", error.what(), error.hint().empty() ? "" : "; ", error.hint()));
      return;
    }
    throw;
  }
  spdlog::info("guest {} ({}): attached, {} MiB in {} blocks, qemu pid {}", name_, guest_, live_->ram.bytes() >> 20,
               live_->ram.blocks().size(), up.qemu_pid());
  report("attached");
  memory_has_come();
}

void Worker::memory_has_come() {
  if (live_ && !has_memory_to_come()) layers_.guest_up(*live_);
}

void Worker::drop_live() {
  layers_.guest_down();
  for (const auto& service : services_) service->detach();
  live_.reset();
  held_.reset();
}

void Worker::guest_down(const std::string& reason) {
  drop_live();
  for (const auto& service : services_) service->guest_down();
  if (!reason.empty()) {
    spdlog::info("guest {} ({}): {}", name_, guest_, reason);
    report("stopped", reason);
  }
}

void Worker::leave_guest() {
  for (const auto& service : services_) service->leave();
  if (live_) live_->tracker.detach();
}

void Worker::require_live(const char* for_what) const {
  if (!live_) {
    throw Error(Code::kInvalid, fmt::format("guest {} is not attached: it cannot be {}", name_, for_what),
                "start the guest, and see: mhvctl status " + name_);
  }
}

Worker::Clock::time_point Worker::held_until() const { return held_ ? held_->until : Clock::time_point{}; }

void Worker::refuse_while_held() const {
  if (is_held()) {
    throw Error(Code::kBusy, fmt::format("guest {} is held for {}", name_, held_->reason),
                "try again when that is over, or: mhvctl release " + name_);
  }
}

protocol::Reply Worker::hold(const protocol::Hold& hold) {
  const auto timeout =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(std::clamp(hold.timeout_s(), 0.0, 86400.0)));
  held_ = Holding{hold.reason(), Clock::now() + timeout};
  if (live_) report("held", "held for " + hold.reason());
  return done();
}

protocol::Reply Worker::release() {
  held_.reset();
  if (live_) report("attached");
  return done();
}

protocol::Reply Worker::forget() {
  for (const auto& service : services_) service->forget();
  leave_guest();
  guest_down("forgotten");
  return done();
}

void Worker::report(const std::string& state, const std::string& message) {
  state_name_ = state;
  protocol::WorkerReport report;
  protocol::GuestStatus& out = *report.mutable_status();
  out.set_uuid(guest_);
  out.set_name(name_);
  out.set_state(state);
  out.set_message(message);
  out.set_paused_us(paused_us_);
  *out.mutable_options() = options_;
  if (live_) out.set_ram_bytes(live_->ram.bytes());
  for (const auto& service : services_) service->add_status(out);
  for (protocol::LayerStatus& layer : layers_.status()) *out.add_layers() = std::move(layer);
  control_.send(report);
}

}  // namespace mhv::worker
