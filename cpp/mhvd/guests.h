// All guests that mhvd knows, and the requests about them.
//
// A guest is known from the moment its guest.conf is durable until Forget. mutex_ guards the map and the set of guests
// with an attach, detach or forget under way; it is never held while a guest, libvirt or a worker is waited for.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "mhvd/config.h"
#include "mhvd/guest.h"
#include "mhvd/hypervisor.h"

namespace mhv::mhvd {

// Thread-safe.
class Guests {
 public:
  // `config` and `hypervisor` outlive it.
  Guests(const Config& config, Hypervisor& hypervisor)
      : config_(config),
        hypervisor_(hypervisor),
        layers_{LayerRegistry(config.layer_folders, config.installed_layers, {config.vendor_keys, config.revoked}), {}} {}
  ~Guests();

  void load();  // what the state folder knows; finishes interrupted forgets
  // The reply that ends the request, without an id; `progress` gets those before it. Throws mhv::Error.
  protocol::Reply handle(const protocol::Request& request, std::span<const int> fds, const ReplyFn& progress);
  protocol::StatusReply status(const std::string& guest);
  // Adds what this host can do of layers to what it can do at all: one of them is started in its sandbox, to say how it is used.
  void test_layers(protocol::SelfTestReply& reply);
  void begin_stop();
  void poke(const std::string& uuid);
  void poke_all();

 private:
  class Turn;  // one attach, detach or forget of a guest at a time
  std::shared_ptr<Guest> find(const std::string& name_or_uuid);
  std::shared_ptr<Guest> find_known(const std::string& uuid);
  void attach(const protocol::Attach& request);
  void detach(const std::string& guest);
  void add_service(const protocol::ServiceAdd& request);
  void remove_service(const protocol::ServiceRemove& request);
  void check_services(const protocol::ServiceOptions& options) const;
  protocol::Reply list_layers() const;
  protocol::Reply install_layer(int file) const;
  protocol::Reply list_alerts(const protocol::AlertList& request);
  void forget(const std::string& guest, const ReplyFn& progress);
  // A guest that does not run: started without running, put to the checkpoint, then let go.
  protocol::Reply restore_stopped(const std::shared_ptr<Guest>& guest, const protocol::Request& request, const ReplyFn& progress);
  static void reconfigure(Guest& guest, const protocol::ServiceOptions& options) noexcept;  // as it was, after an error
  void drop(const std::string& uuid);
  std::vector<std::shared_ptr<Guest>> all() const;

  const Config& config_;
  Hypervisor& hypervisor_;
  LayerHost layers_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Guest>> guests_;  // by UUID
  std::set<std::string> in_turn_;
};

// For guests*.cpp.
class Guests::Turn {
 public:
  Turn(Guests& guests, std::string uuid) : guests_(guests), uuid_(std::move(uuid)) {
    const std::lock_guard lock(guests_.mutex_);
    if (!guests_.in_turn_.insert(uuid_).second) {
      throw Error(Code::kBusy, "guest " + uuid_ + " is just being attached, detached or forgotten", "try again");
    }
  }
  ~Turn() {
    const std::lock_guard lock(guests_.mutex_);
    guests_.in_turn_.erase(uuid_);
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Guests& guests_;
  const std::string uuid_;
};

}  // namespace mhv::mhvd
