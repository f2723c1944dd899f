#include "mhvd/guests.h"

#include <spdlog/spdlog.h>

#include <filesystem>

#include "mhvd/guest_conf.h"
#include "mhvd/request_check.h"
#include "mhvd/uffd_record.h"

namespace mhv::mhvd {
namespace {

using Kind = protocol::Request;

constexpr const char* kForgotten = ".forgotten";

protocol::Reply done() {
  protocol::Reply reply;
  reply.mutable_done();
  return reply;
}

Error not_attached(const std::string& guest) {
  return Error(Code::kNotFound, "guest \"" + guest + "\" is not attached",
               "\"mhvctl status\" lists the guests, \"mhvctl attach " + guest + "\" adds it");
}

// What it has not got yet of its memory is in its checkpoint alone.
void refuse_while_filling(const Guest& guest) {
  const protocol::GuestStatus status = guest.status();
  if (status.filling().empty() || status.qemu_pid() == 0) return;
  throw Error(Code::kBusy, "guest " + status.name() + " still gets its memory from checkpoint " + status.filling(),
              "try again when \"mhvctl status " + status.name() + "\" no longer says so, or shut the guest off first");
}

}  // namespace

Guests::~Guests() { begin_stop(); }

void Guests::begin_stop() {
  for (const auto& guest : all()) guest->begin_stop();
}

void Guests::load() {
  std::filesystem::create_directories(config_.guests_dir());
  std::filesystem::create_directories(config_.run_dir + "/guests");
  for (const auto& entry : std::filesystem::directory_iterator(config_.guests_dir())) {
    if (entry.path().extension() == kForgotten) std::filesystem::remove_all(entry.path());
  }
  for (const std::string& uuid : list_guests(config_.guests_dir())) {
    try {
      auto guest = std::make_shared<Guest>(config_, hypervisor_, layers_, load_guest_conf(config_.guest_dir(uuid), uuid));
      const std::lock_guard lock(mutex_);
      guests_[uuid] = std::move(guest);
    } catch (const Error& error) {
      spdlog::error("guest {}: {} ({})", uuid, error.what(), error.hint());
    }
  }
  const std::vector<std::string> known = list_guests(config_.guests_dir());
  undo_strangers(hypervisor_, config_.run_dir + "/guests", {known.begin(), known.end()});
}

std::vector<std::shared_ptr<Guest>> Guests::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Guest>> out;
  for (const auto& [uuid, guest] : guests_) out.push_back(guest);
  return out;
}

std::shared_ptr<Guest> Guests::find_known(const std::string& uuid) {
  const std::lock_guard lock(mutex_);
  const auto found = guests_.find(uuid);
  return found == guests_.end() ? nullptr : found->second;
}

// libvirt knows today's names; ours are those of the last look, and serve for domains that are gone.
std::shared_ptr<Guest> Guests::find(const std::string& name_or_uuid) {
  if (auto guest = find_known(name_or_uuid)) return guest;
  if (is_uuid(name_or_uuid)) throw not_attached(name_or_uuid);
  try {
    if (auto guest = find_known(hypervisor_.find(name_or_uuid).uuid)) return guest;
  } catch (const Error& error) {
    if (error.code() != Code::kNotFound && error.code() != Code::kUnavailable) throw;
    for (const auto& guest : all()) {
      if (guest->name() == name_or_uuid) return guest;
    }
  }
  throw not_attached(name_or_uuid);
}

void Guests::reconfigure(Guest& guest, const protocol::ServiceOptions& options) noexcept {
  try {
    guest.configure(options);
  } catch (const std::exception& error) {
    spdlog::warn("guest {} ({}): {}", guest.name(), guest.uuid(), error.what());
  }
}

void Guests::attach(const protocol::Attach& request) {
  check_services(request.options());
  const Domain domain = hypervisor_.find(request.guest());
  const Turn turn(*this, domain.uuid);
  auto guest = find_known(domain.uuid);
  const bool fresh = guest == nullptr;
  const bool was_detached = !fresh && guest->phase() == Guest::Phase::kDetached;
  if (fresh) {
    protocol::GuestConf conf;
    conf.set_uuid(domain.uuid);
    conf.set_name(domain.name);
    save_guest_conf(config_.guest_dir(domain.uuid), conf);
    guest = std::make_shared<Guest>(config_, hypervisor_, layers_, conf);
    const std::lock_guard lock(mutex_);
    guests_[domain.uuid] = guest;
  } else if (const std::string state = guest->status().state(); state != "failed" && state != "stopped" && state != "detached") {
    throw Error(Code::kExists, "guest " + domain.name + " is attached already",
                "to change its services, detach it first: mhvctl detach " + domain.name);
  }
  try {
    hypervisor_.check(domain, request.options());
    if (claims_network(layers_.registry, request.options())) hypervisor_.taps(domain);
    guest->configure(request.options());
  } catch (const Error&) {
    // Refused at its first attach: as if it had not been asked. A folder of an earlier life keeps its checkpoints.
    if (fresh) {
      if (guest->phase() == Guest::Phase::kUp) reconfigure(*guest, {});
      guest.reset();
      drop(domain.uuid);
      std::error_code ignored;
      std::filesystem::remove(config_.guest_dir(domain.uuid) + "/guest.conf", ignored);
    }
    if (!fresh && was_detached) guest->leave();
    throw;
  }
}

void Guests::detach(const std::string& name_or_uuid) {
  const auto guest = find(name_or_uuid);
  const Turn turn(*this, guest->uuid());
  refuse_while_filling(*guest);
  guest->configure({});
}

// Takes the guest out of the map and waits for its end, when nobody else is using it.
void Guests::drop(const std::string& uuid) {
  std::shared_ptr<Guest> guest;
  {
    const std::lock_guard lock(mutex_);
    const auto found = guests_.find(uuid);
    if (found == guests_.end()) return;
    guest = std::move(found->second);
    guests_.erase(found);
  }
  guest->begin_stop();
}

void Guests::forget(const std::string& name_or_uuid, const ReplyFn& progress) {
  auto guest = find(name_or_uuid);
  const std::string uuid = guest->uuid();
  const Turn turn(*this, uuid);
  if (guest->phase() == Guest::Phase::kUp) {
    // Its disks hold snapshots, which only a running guest can give back.
    protocol::Request request;
    request.mutable_forget()->set_guest(uuid);
    try {
      const protocol::Reply reply = guest->call(std::move(request), {}, progress);
      if (reply.has_error()) throw Error(static_cast<Code>(reply.error().code()), reply.error().message(), reply.error().hint());
    } catch (const CannotServe& error) {
      spdlog::warn("guest {}: its disks keep the snapshots of its checkpoints: {}", uuid, error.what());
    }
  }
  guest->configure({});
  guest.reset();
  drop(uuid);
  const std::string folder = config_.guest_dir(uuid);
  std::filesystem::remove(folder + "/guest.conf");
  std::error_code busy;
  std::filesystem::rename(folder, folder + kForgotten, busy);
  if (busy) {  // a mount point stays, empty
    for (const auto& entry : std::filesystem::directory_iterator(folder)) std::filesystem::remove_all(entry.path());
  } else {
    std::filesystem::remove_all(folder + kForgotten);
  }
  std::error_code ignored;
  std::filesystem::remove(config_.run_state_path(uuid), ignored);
  // Without a worker (its store could not be opened) nothing ended the tracking: the next attach has to find it.
  const std::string tracked = config_.uffd_record_path(uuid);
  const auto record = load_uffd_record(tracked);
  if (!record || !record->tracking || identify_process(record->process.pid) != record->process) std::filesystem::remove(tracked, ignored);
  std::filesystem::remove(config_.ramblock_record_path(uuid), ignored);
  spdlog::info("guest {}: forgotten", uuid);
}

protocol::Reply Guests::restore_stopped(const std::shared_ptr<Guest>& guest, const protocol::Request& request, const ReplyFn& progress) {
  const Turn turn(*this, guest->uuid());
  protocol::Request show;
  show.mutable_checkpoint_show()->set_guest(guest->uuid());
  show.mutable_checkpoint_show()->set_id(request.checkpoint_restore().id());
  protocol::Reply reply = guest->call(std::move(show), {}, progress);
  if (reply.has_error()) return reply;

  const Domain domain{guest->uuid(), guest->name(), std::nullopt};
  spdlog::info("guest {} ({}): starting it at checkpoint {}", domain.name, domain.uuid, request.checkpoint_restore().id());
  guest->read_ahead(request.checkpoint_restore().id());
  hypervisor_.start_paused(domain);
  const auto give_up = [&] {
    hypervisor_.destroy(domain);  // it has not run
    guest->poke();
  };
  try {
    guest->wait_attached();
    protocol::Request restore = request;
    restore.mutable_checkpoint_restore()->set_new_process(true);
    reply = guest->call(std::move(restore), {}, progress);
  } catch (const Error&) {
    give_up();
    throw;
  }
  if (reply.has_error()) {
    give_up();
    return reply;
  }
  return reply;
}

protocol::StatusReply Guests::status(const std::string& guest) {
  protocol::StatusReply reply;
  reply.set_version(MHV_VERSION);
  if (!guest.empty()) {
    *reply.add_guests() = find(guest)->status();
    return reply;
  }
  for (const auto& each : all()) *reply.add_guests() = each->status();
  return reply;
}

protocol::Reply Guests::handle(const protocol::Request& request, std::span<const int> fds, const ReplyFn& progress) {
  switch (request.body_case()) {
    case Kind::kAttach: attach(request.attach()); return done();
    case Kind::kDetach: detach(request.detach().guest()); return done();
    case Kind::kForget: forget(request.forget().guest(), progress); return done();
    case Kind::kHold: find(request.hold().guest())->hold(request.hold()); return done();
    case Kind::kRelease: find(request.release().guest())->release(); return done();
    case Kind::kServiceAdd: add_service(request.service_add()); return done();
    case Kind::kServiceRemove: remove_service(request.service_remove()); return done();
    case Kind::kLayerList: return list_layers();
    case Kind::kLayerInstall: return install_layer(fds.front());
    case Kind::kAlertList: return list_alerts(request.alert_list());
    case Kind::kCheckpointRestore: {
      const auto guest = find(guest_of(request));
      if (guest->phase() == Guest::Phase::kStopped) return restore_stopped(guest, request, progress);
      return guest->call(request, fds, progress);
    }
    default: return find(guest_of(request))->call(request, fds, progress);
  }
}

void Guests::poke(const std::string& uuid) {
  if (const auto guest = find_known(uuid)) guest->poke();
}

void Guests::poke_all() {
  for (const auto& guest : all()) guest->poke();
}

}  // namespace mhv::mhvd
