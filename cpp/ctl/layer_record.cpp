#include "ctl/layer_record.h"

#include <chrono>
#include <filesystem>
#include <iostream>
#include <thread>

#include "base/error.h"

namespace mhv::ctl {
namespace {

namespace fs = std::filesystem;

bool is_known(Session& session, const std::string& guest) {
  protocol::Request request;
  request.mutable_status()->set_guest(guest);
  try {
    session.client().call(std::move(request));
    return true;
  } catch (const Error& error) {
    if (error.code() != Code::kNotFound) throw;
    return false;
  }
}

// A guest with the service checkpoint, from here to the end of the scope.
class Attached {
 public:
  Attached(Session& session, const std::string& guest) : session_(session), guest_(guest) {
    protocol::Request request;
    request.mutable_attach()->set_guest(guest);
    request.mutable_attach()->mutable_options()->add_services("checkpoint");
    request.mutable_attach()->mutable_options()->set_checkpoint_disks(protocol::DISKS_NONE);
    session_.call(std::move(request));
  }
  ~Attached() {
    protocol::Request request;
    request.mutable_forget()->set_guest(guest_);
    try {
      session_.call(std::move(request));
    } catch (const std::exception& error) {
      std::cerr << "mhvctl: guest " << guest_ << " keeps its recording's checkpoints: " << error.what() << "\n";
    }
  }
  Attached(const Attached&) = delete;
  Attached& operator=(const Attached&) = delete;

  std::string uuid() {
    protocol::Request request;
    request.mutable_status()->set_guest(guest_);
    return session_.call(std::move(request)).status().guests(0).uuid();
  }
  void checkpoint() {
    protocol::Request request;
    request.mutable_checkpoint_create()->set_guest(guest_);
    session_.call(std::move(request));
  }
  // Its store is nobody's then.
  void detach() {
    protocol::Request request;
    request.mutable_detach()->set_guest(guest_);
    session_.call(std::move(request));
  }

 private:
  Session& session_;
  const std::string guest_;
};

void copy_store(const fs::path& store, const fs::path& to) {
  std::error_code error;
  fs::copy(store, to, fs::copy_options::recursive, error);
  if (!error) return;
  std::error_code ignored;
  fs::remove_all(to, ignored);
  throw Error(error == std::errc::permission_denied ? Code::kPermission : Code::kUnavailable,
              "cannot copy " + store.string() + ": " + error.message(), "call it as root, on the guest's host; --state-dir is mhvd's");
}

}  // namespace

void record(Session& session, const RecordOptions& options) {
  if (fs::exists(options.recording))
    throw Error(Code::kExists, options.recording + " is there already", "name a new folder; a recording overwrites nothing");
  if (is_known(session, options.guest)) {
    throw Error(Code::kExists, "guest " + options.guest + " has services, or checkpoints of when it had some",
                "record another guest, or delete them: mhvctl forget " + options.guest);
  }
  Attached attached(session, options.guest);
  const fs::path store = fs::path(options.state_dir) / "guests" / attached.uuid();
  for (std::uint32_t i = 0; i < options.epochs; ++i) {
    if (i != 0) std::this_thread::sleep_for(std::chrono::duration<double>(options.every_s));
    attached.checkpoint();
  }
  attached.detach();
  copy_store(store, options.recording);
}

}  // namespace mhv::ctl
