#include "worker/layers.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <utility>

#include "guest/vcpus.h"
#include "stack/charter.h"

namespace mhv::worker {
namespace {

using namespace std::chrono_literals;

constexpr auto kDelayFirst = 100ms;
constexpr auto kDelayLast = 5s;
constexpr auto kForgivenAfter = 1min;
constexpr auto kLookAgain = 500ms;
constexpr auto kSayAgain = 1s;  // how many epochs there were
constexpr auto kCallTimeout = 30s;
constexpr auto kMachineReadyIn = 2min;     // it boots
constexpr int kFirstMemoryDescriptor = 6;  // in the layer, behind its channel and its two eventfds
constexpr std::size_t kRangesMax = 4096;

std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count());
}

// Those that have the same period, or multiples of it, share their epochs, and so the guest's pause for it.
Layers::Clock::time_point next_on_grid(Layers::Clock::duration every) {
  if (every == 0ms) return Layers::Clock::time_point::max();
  const auto since = Layers::Clock::now().time_since_epoch();
  return Layers::Clock::time_point(since - since % every + every);
}

bool same(const protocol::LayerSpec& a, const protocol::LayerSpec& b) {
  return a.manifest() == b.manifest() && a.configuration() == b.configuration() && a.in_vm() == b.in_vm();
}

}  // namespace

Layers::Entry* Layers::find(const std::string& name) {
  const auto found = std::ranges::find_if(entries_, [&](const auto& entry) { return entry->spec.name() == name; });
  return found == entries_.end() ? nullptr : found->get();
}

void Layers::configure(const std::vector<protocol::LayerSpec>& specs) {
  std::vector<std::unique_ptr<Entry>> next, gone;
  for (const protocol::LayerSpec& spec : specs) {
    std::unique_ptr<Entry> entry;
    for (auto& old : entries_) {
      if (old && old->spec.name() == spec.name() && same(old->spec, spec)) entry = std::move(old);
    }
    if (!entry) {
      entry = std::make_unique<Entry>();
      entry->spec = spec;
      entry->charter = stack::charter_of(stack::parse_manifest(spec.manifest()), spec.configuration());
      if (spec.in_vm()) entry->charter.ready_in = kMachineReadyIn;
      entry->status.set_name(spec.name());
      entry->status.set_state("starting");
    }
    next.push_back(std::move(entry));
  }
  for (auto& old : entries_) {
    if (!old) continue;
    stop(*old);
    spdlog::info("guest {} ({}): layer {} is taken away", owner_.name, owner_.uuid, old->spec.name());
    gone.push_back(std::move(old));
  }
  std::vector<stack::Charter> charters;
  for (const auto& entry : next) charters.push_back(entry->charter);
  packets_.configure(charters);
  {
    const std::lock_guard lock(mutex_);
    entries_ = std::move(next);
  }
  schedule();
  owner_.changed();
}

void Layers::guest_up(guest::LiveGuest& live) {
  live_ = &live;
  for (const auto& entry : entries_) {
    if (!entry->running) entry->start_at = Clock::now();
  }
  listener_ = live.written.listen({.tell = [this](const std::vector<PageRange>* pages) {
    for (const auto& entry : entries_) {
      if (!entry->charter.written_pages || !entry->running) continue;
      if (pages == nullptr) {
        entry->written_all = true;
      } else {
        entry->written.add(*pages);
      }
    }
  }});
  schedule();
}

void Layers::guest_down() {
  for (const auto& entry : entries_) stop(*entry);
  listener_.reset();
  memory_.reset();
  live_ = nullptr;
  schedule();
}

void Layers::all_written() {
  for (const auto& entry : entries_) entry->written_all = true;
}

// ---------------------------------------------------------------- processes

void Layers::stop(Entry& entry) {
  std::shared_ptr<stack::RunningLayer> running;
  {
    const std::lock_guard lock(mutex_);
    running = std::move(entry.running);
    entry.running = nullptr;
    entry.status.set_state("starting");
  }
  if (!running) return;
  packets_.layer_down(entry.spec.name());
  running.reset();
  protocol::WorkerReport report;
  report.mutable_layer_stop()->set_name(entry.spec.name());
  report.mutable_layer_stop()->set_generation(entry.generation);
  control_.send(report);
}

void Layers::start(Entry& entry) {
  if (!memory_) memory_ = std::make_shared<LayerMemory>(live_->ram, live_->qmp.hmp("info mtree -f"));
  nlohmann::json hello{{"abi", ring::kAbi}, {"guest", owner_.uuid}, {"name", owner_.name}, {"layer", entry.spec.name()}};
  hello["configuration"] =
      entry.spec.configuration().empty() ? nlohmann::json::object() : nlohmann::json::parse(entry.spec.configuration());
  hello["memory"] = entry.charter.memory ? memory_->describe(kFirstMemoryDescriptor) : nlohmann::json::array();
  ring::NewChannel channel = entry.spec.in_vm() ? ring::make_polled_channel() : ring::make_channel();
  entry.generation = next_generation_++;
  entry.started_at = Clock::now();
  entry.start_at = Clock::time_point::max();
  entry.epoch_at = Clock::now();
  entry.written = guest::PageSet(live_->ram.pages());
  entry.written_all = true;
  auto running = std::make_shared<stack::RunningLayer>(std::move(channel.engine), entry.charter, hello.dump(), memory_,
                                                       handlers(entry.spec.name(), entry.generation));
  {
    const std::lock_guard lock(mutex_);
    entry.running = running;
  }
  packets_.layer_up(entry.spec.name(), running);
  protocol::WorkerReport report;
  auto& wish = *report.mutable_layer_start();
  wish.set_name(entry.spec.name());
  wish.set_generation(entry.generation);
  if (entry.charter.memory) {
    for (const std::uint32_t block : memory_->shared_blocks()) wish.add_blocks(block);
  }
  const std::array fds{channel.layer.memory.get(), channel.layer.wakes_me.get(), channel.layer.wakes_peer.get()};
  control_.send(report, std::span(fds).first(entry.spec.in_vm() ? 1 : fds.size()));
}

// Only of a guest that runs: one that does not may be about to be filled on demand, and what a layer touches of memory that is not there
// yet would be taken for content (ARCHITECTURE.md, invariant 6).
void Layers::try_to_start(Entry& entry) {
  try {
    if (!live_->machine.running()) {
      entry.start_at = Clock::now() + kLookAgain;
      return;
    }
    start(entry);
  } catch (const Error& error) {
    if (error.code() == Code::kGone || error.code() == Code::kUnavailable) throw;
    entry.start_at = Clock::now() + kDelayLast;
    {
      const std::lock_guard lock(mutex_);
      entry.status.set_state("failed");
      entry.status.set_message(error.what());
    }
    spdlog::error("guest {} ({}): layer {} cannot be started: {}", owner_.name, owner_.uuid, entry.spec.name(), error.what());
    owner_.changed();
  }
}

stack::RunningLayer::Handlers Layers::handlers(const std::string& name, std::uint64_t generation) {
  stack::RunningLayer::Handlers out;
  out.on_ready = [this, name, generation](const std::string& version) {
    {
      const std::lock_guard lock(mutex_);
      Entry* const entry = find(name);
      if (entry == nullptr || entry->generation != generation) return;
      entry->status.set_state("ready");
      entry->status.set_version(version);
      entry->status.clear_message();
    }
    spdlog::info("guest {} ({}): layer {} {} is ready", owner_.name, owner_.uuid, name, version);
    owner_.changed();
  };
  out.on_alert = [this, name](stack::RunningLayer::Alert alert) {
    spdlog::warn("guest {} ({}): layer {}: {}: {} {}", owner_.name, owner_.uuid, name, alert.severity, alert.title, alert.detail);
    protocol::WorkerReport report;
    protocol::Alert& said = *report.mutable_alert();
    said.set_time_ns(static_cast<std::int64_t>(now_ns()));
    said.set_layer(name);
    said.set_severity(alert.severity);
    said.set_title(alert.title);
    said.set_detail(alert.detail);
    control_.send(report);
  };
  out.on_verdict = [this](stack::PacketVerdict said) { packets_.verdict(std::move(said)); };
  out.on_event = [this, name](const std::string& event) { owner_.enqueue([this, name, event] { spread(name, event); }); };
  out.on_ask = [this, name](const stack::RunningLayer::Wish& wish) { owner_.enqueue([this, name, wish] { owner_.act(name, wish); }); };
  out.on_end = [this, name, generation](const std::string& why) {
    owner_.enqueue([this, name, generation, why] { ended(name, generation, why); });
  };
  return out;
}

void Layers::spread(const std::string& from, const std::string& event) {
  for (const auto& entry : entries_) {
    if (entry->running && entry->spec.name() != from) entry->running->event(event);
  }
}

void Layers::ended(const std::string& name, std::uint64_t generation, const std::string& why) {
  Entry* const entry = find(name);
  if (entry == nullptr || entry->generation != generation || !entry->running) return;
  stop(*entry);
  const Clock::time_point now = Clock::now();
  if (now - entry->started_at > kForgivenAfter) entry->delay = {};
  entry->delay = std::clamp<Clock::duration>(entry->delay * 2, kDelayFirst, kDelayLast);
  entry->start_at = now + entry->delay;
  {
    const std::lock_guard lock(mutex_);
    entry->status.set_state("restarting");
    entry->status.set_message(why);
    entry->status.set_restarts(entry->status.restarts() + 1);
  }
  spdlog::warn("guest {} ({}): layer {} ended: {}; it is started again in {} ms", owner_.name, owner_.uuid, name, why,
               std::chrono::duration_cast<std::chrono::milliseconds>(entry->delay).count());
  schedule();
  owner_.changed();
}

// What they know is of a kernel that runs no more. Only the machine says so: memory could be made to look like it.
void Layers::start_anew() {
  spdlog::info("guest {} ({}): it was reset, and its layers begin anew", owner_.name, owner_.uuid);
  for (const auto& entry : entries_) {
    if (!entry->running) continue;
    stop(*entry);
    entry->start_at = Clock::now();
  }
}

// ---------------------------------------------------------------- epochs

void Layers::schedule() {
  due_ = Clock::time_point::max();
  if (live_ == nullptr) return;
  for (const auto& entry : entries_) due_ = std::min(due_, entry->running ? entry->epoch_at : entry->start_at);
}

void Layers::tick(bool may_pause) {
  const Clock::time_point now = Clock::now();
  std::vector<Entry*> due;
  if (live_->was_reset()) start_anew();
  for (const auto& entry : entries_) {
    if (!entry->running && entry->start_at <= now) try_to_start(*entry);
    if (entry->running && entry->epoch_at <= now) due.push_back(entry.get());
  }
  if (!due.empty()) tell(due, may_pause);
  if (!due.empty() && now - said_at_ >= kSayAgain) {
    said_at_ = now;
    owner_.changed();
  }
  schedule();
}

// What the processors hold, by a pause of as long as QEMU takes to save its devices.
std::vector<ring::Vcpu> Layers::read_vcpus() {
  const Clock::time_point from = Clock::now();
  std::vector<std::byte> state;
  try {
    live_->saver.prepare();
    guest::DeviceSaver::Save save(live_->saver);
    state = save.finish();
  } catch (const Error& error) {
    if (error.code() == Code::kGone || error.code() == Code::kUnavailable) throw;
    spdlog::debug("guest {}: {}", owner_.uuid, error.what());  // QEMU refuses while it does something else with the guest
  }
  owner_.paused(static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - from).count()));
  return guest::parse_vcpus(state);
}

void Layers::tell(const std::vector<Entry*>& due, bool may_pause) {
  const bool vcpus_wanted = std::ranges::any_of(due, [](const Entry* entry) { return entry->charter.vcpus; });
  if (vcpus_wanted && !may_pause) {
    for (Entry* const entry : due) entry->epoch_at = Clock::now() + 100ms;
    return;
  }
  if (std::ranges::any_of(due, [](const Entry* entry) { return entry->charter.written_pages; })) live_->written.collect();
  stack::EpochFacts facts;
  std::vector<ring::Vcpu> vcpus;
  if (vcpus_wanted) vcpus = read_vcpus();
  if (vcpus_wanted && vcpus.empty()) {
    spdlog::warn("guest {} ({}), epoch {}: its processors' state cannot be read; layers that need it wait", owner_.name, owner_.uuid,
                 epoch_);
  }
  facts.number = ++epoch_;
  facts.time_ns = now_ns();
  facts.vcpus = vcpus;
  std::vector<ring::PageRange> ranges;
  for (Entry* const entry : due) {
    facts.written_all = entry->written_all || !memory_->physical_ranges(entry->written, kRangesMax, ranges);
    facts.written = ranges;
    entry->written.clear();
    entry->written_all = false;
    entry->running->epoch(facts);
    entry->epoch_at = next_on_grid(entry->charter.epoch_every);
  }
}

// ---------------------------------------------------------------- any thread

void Layers::call(std::uint64_t request, const protocol::LayerCall& asked) {
  std::shared_ptr<stack::RunningLayer> running;
  std::string known;
  {
    const std::lock_guard lock(mutex_);
    Entry* const entry = find(asked.layer());
    if (entry != nullptr) running = entry->running;
    for (const auto& each : entries_) known += (known.empty() ? "" : ", ") + each->spec.name();
    if (entry == nullptr) {
      control_.fail(request, Error(Code::kNotFound, fmt::format("guest {} has no layer \"{}\"", owner_.name, asked.layer()),
                                   known.empty() ? "add it: mhvctl service add " + owner_.name + " " + asked.layer() : "it has: " + known));
      return;
    }
  }
  if (!running) {
    control_.fail(request, Error(Code::kUnavailable, fmt::format("layer {} of guest {} is just being started", asked.layer(), owner_.name),
                                 "try again; \"mhvctl status " + owner_.name + "\" shows it"));
    return;
  }
  running->call(asked.method(), asked.arguments(), Clock::now() + kCallTimeout,
                [this, request](const std::string* result, const Error* error) {
                  if (error != nullptr) {
                    control_.fail(request, *error);
                    return;
                  }
                  protocol::Reply reply;
                  reply.mutable_layer_answer()->set_result(*result);
                  control_.reply(request, std::move(reply));
                });
}

std::vector<protocol::LayerStatus> Layers::status() const {
  std::vector<protocol::LayerStatus> out;
  const std::lock_guard lock(mutex_);
  for (const auto& entry : entries_) {
    protocol::LayerStatus status = entry->status;
    if (entry->running) {
      const auto counts = entry->running->counts();
      status.set_epochs(counts.epochs);
      status.set_alerts(counts.alerts);
      status.set_late(counts.late);
    }
    const PacketWork::Counts packets = packets_.counts(entry->spec.name());
    status.set_packets(packets.packets);
    status.set_packets_dropped(packets.dropped);
    status.set_packets_late(packets.late);
    out.push_back(std::move(status));
  }
  return out;
}

}  // namespace mhv::worker
