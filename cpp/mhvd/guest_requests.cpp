// The side of a guest that client threads use.
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>

#include "mhvd/guest.h"
#include "mhvd/guest_conf.h"

namespace mhv::mhvd {

using namespace std::chrono_literals;

namespace {

constexpr auto kReadyTimeout = 30s;
constexpr auto kAttachTimeout = 60s;
constexpr auto kAskedFor = 5s;

std::string with_hint(const Error& error) {
  return error.hint().empty() ? error.what() : std::string(error.what()) + " (" + error.hint() + ")";
}

}  // namespace

std::string Guest::name() const {
  const std::lock_guard lock(mutex_);
  return conf_.name();
}

Guest::Phase Guest::phase() const {
  const std::lock_guard lock(mutex_);
  return phase_;
}

protocol::GuestStatus Guest::status() const {
  const std::lock_guard lock(mutex_);
  protocol::GuestStatus out = reported_;
  out.set_uuid(uuid_);
  out.set_name(conf_.name());
  *out.mutable_options() = conf_.options();
  out.set_qemu_pid(facts_.qemu_pid());
  out.set_accelerator(facts_.accelerator());
  out.set_own_monitor(facts_.own_monitor());
  out.set_worker_pid(worker_ ? worker_->pid() : 0);
  out.set_worker_restarts(restarts_);
  switch (phase_) {
    case Phase::kDetached: out.set_state("detached"); break;
    case Phase::kStopped: out.set_state("stopped"); break;
    case Phase::kAttaching: out.set_state("attaching"); break;
    case Phase::kFailed: out.set_state("failed"); break;
    case Phase::kUp:
      if (out.state().empty()) out.set_state("attaching");
      break;
  }
  if (failure_ || phase_ != Phase::kUp) out.set_message(failure_ ? with_hint(*failure_) : "");
  show_holds(out);
  return out;
}

void Guest::poke() {
  const std::lock_guard lock(mutex_);
  ++looks_wanted_;
  ::eventfd_write(wake_.get(), 1);
}

bool Guest::wait_for_worker_state(std::unique_lock<std::mutex>& lock, std::chrono::seconds timeout, bool up) {
  return changed_.wait_for(lock, timeout, [&] {
    if (stopping_ || !worker_ || worker_ended_) return true;
    const std::string& state = reported_.state();
    const bool is_up = state == "attached" || state == "held" || state == "restoring";
    return state == "failed" || (up ? is_up || phase_ != Phase::kUp : !is_up && state != "attaching");
  });
}

void Guest::configure(const protocol::ServiceOptions& options) {
  std::unique_lock lock(mutex_);
  protocol::GuestConf conf = conf_;
  *conf.mutable_options() = options;
  drop_holds(conf);
  save_guest_conf(config_.guest_dir(uuid_), conf);
  conf_ = std::move(conf);
  failure_.reset();
  worker_failure_.reset();
  if (conf_.options().services().empty()) asked_until_ = {};
  hand_over_again_ = phase_ == Phase::kUp && reported_.state() == "failed";
  settle(lock);
}

void Guest::leave() {
  const std::lock_guard lock(mutex_);
  conf_.clear_options();
  save_guest_conf(config_.guest_dir(uuid_), conf_);
  ++looks_wanted_;
  ::eventfd_write(wake_.get(), 1);
}

void Guest::wait_attached() {
  std::unique_lock lock(mutex_);
  settle(lock);
  if (phase_ != Phase::kUp) throw Error(Code::kUnavailable, "guest " + conf_.name() + " did not come up", "\"mhvctl status\" says why");
}

void Guest::settle(std::unique_lock<std::mutex>& lock) {
  const std::uint64_t wanted = ++looks_wanted_;
  ::eventfd_write(wake_.get(), 1);
  const bool done = changed_.wait_for(lock, kAttachTimeout, [&] { return looks_done_ >= wanted || stopping_; });
  if (!done)
    throw Error(Code::kUnavailable, "guest " + conf_.name() + " is still being attached", "\"mhvctl status\" shows how it goes on");
  if (failure_) throw Error(*failure_);
  if (phase_ != Phase::kUp) return;
  if (!wait_for_worker_state(lock, kAttachTimeout, true)) {
    throw Error(Code::kUnavailable, "the worker of guest " + conf_.name() + " does not say that it is attached",
                "\"mhvctl status\" shows how it goes on");
  }
  if (worker_failure_) throw Error(*worker_failure_);
  if (reported_.state() == "failed")
    throw Error(Code::kUnsupported, reported_.message(), "put that right, then: mhvctl attach " + conf_.name());
  if (worker_ended_ || !worker_)
    throw Error(Code::kUnavailable, "the worker of guest " + conf_.name() + " ended while it was attached",
                "mhvd's log says why; try again");
}

protocol::Reply Guest::call(protocol::Request request, std::span<const int> fds, const ReplyFn& progress) {
  const std::uint64_t clients_id = request.id();
  auto pending = std::make_shared<Pending>();
  std::shared_ptr<WorkerProcess> worker;
  std::unique_lock lock(mutex_);
  asked_until_ = Clock::now() + kAskedFor;
  if (!worker_) ::eventfd_write(wake_.get(), 1);
  const bool ready = changed_.wait_for(lock, kReadyTimeout, [&] {
    if (stopping_ || (!worker_ && worker_failure_)) return true;
    return worker_ && !worker_ended_ && (phase_ != Phase::kAttaching || failure_);
  });
  if (!worker_ && worker_failure_) throw CannotServe(*worker_failure_);
  if (!ready || stopping_)
    throw Error(Code::kUnavailable, "the worker of guest " + conf_.name() + " is not ready",
                "try again; mhvd's log says why it does not start");
  worker = worker_;
  const std::uint64_t id = next_id_++;
  request.set_id(id);
  pending_[id] = pending;
  lock.unlock();
  protocol::WorkerCommand command;
  *command.mutable_request() = std::move(request);
  try {
    try {
      worker->send(command, fds);
    } catch (const Error& error) {
      if (error.code() != Code::kUnavailable) throw;  // else the worker has ended, and its end is the answer
    }
    worker.reset();
    lock.lock();
    while (!pending->reply) {
      changed_.wait(lock, [&] { return pending->reply || pending->progress || pending->cannot_serve; });
      if (pending->cannot_serve) throw CannotServe(*pending->cannot_serve);
      if (!pending->progress || pending->reply) continue;
      protocol::Reply now = std::move(*pending->progress);
      pending->progress.reset();
      lock.unlock();
      now.set_id(clients_id);
      progress(now);
      lock.lock();
    }
    pending_.erase(id);
    asked_until_ = Clock::now() + kAskedFor;
  } catch (...) {
    if (!lock.owns_lock()) lock.lock();
    pending_.erase(id);
    throw;
  }
  protocol::Reply reply = std::move(*pending->reply);
  reply.set_id(clients_id);
  return reply;
}

// Nobody waits for it: the restore itself finds what is wrong.
void Guest::read_ahead(const std::string& id) {
  std::shared_ptr<WorkerProcess> worker;
  {
    const std::lock_guard lock(mutex_);
    worker = worker_;
  }
  protocol::WorkerCommand command;
  command.set_read_ahead(id);
  try {
    if (worker) worker->send(command);
  } catch (const Error& error) {
    spdlog::debug("guest {}: {}", label(), error.what());
  }
}

void Guest::hold(const protocol::Hold& hold) {
  bool up;
  {
    const std::lock_guard lock(mutex_);
    hold_ = hold;
    hold_until_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(hold.timeout_s()));
    up = phase_ == Phase::kUp;
  }
  if (!up) return;
  protocol::Request request;
  *request.mutable_hold() = hold;
  const protocol::Reply reply = call(std::move(request), {}, [](const protocol::Reply&) {});
  if (reply.has_error()) throw Error(static_cast<Code>(reply.error().code()), reply.error().message(), reply.error().hint());
}

void Guest::release() {
  bool up;
  {
    const std::lock_guard lock(mutex_);
    hold_.reset();
    up = phase_ == Phase::kUp;
  }
  if (!up) return;
  protocol::Request request;
  request.mutable_release()->set_guest(uuid_);
  const protocol::Reply reply = call(std::move(request), {}, [](const protocol::Reply&) {});
  if (reply.has_error()) throw Error(static_cast<Code>(reply.error().code()), reply.error().message(), reply.error().hint());
}

// A worker that has just got the guest is told of a hold that still lasts; nobody waits for its answer.
void Guest::send_hold() {
  std::shared_ptr<WorkerProcess> worker;
  protocol::WorkerCommand command;
  {
    const std::lock_guard lock(mutex_);
    const double left = std::chrono::duration<double>(hold_until_ - Clock::now()).count();
    if (!hold_ || left <= 0 || !worker_) return;
    auto& hold = *command.mutable_request()->mutable_hold();
    hold = *hold_;
    hold.set_timeout_s(left);
    worker = worker_;
  }
  worker->send(command);
}

}  // namespace mhv::mhvd
