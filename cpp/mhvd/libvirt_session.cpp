#include "mhvd/libvirt_session.h"

#include <libvirt/virterror.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "base/error.h"
#include "mhvd/guest_conf.h"

namespace mhv::mhvd {

using namespace std::chrono_literals;

struct LibvirtSession::Shared {
  Handlers handlers;
  std::atomic<bool> stopping{false};
  std::mutex mutex;  // guards what follows
  std::condition_variable changed;
  ConnectionPtr connection;
  bool lost = false;
};

namespace {

void quiet(void*, virErrorPtr) {}  // errors are thrown, not printed

int on_lifecycle(virConnectPtr, virDomainPtr domain, int, int, void* opaque) {
  const auto& shared = *static_cast<std::shared_ptr<LibvirtSession::Shared>*>(opaque);
  if (!shared->stopping) shared->handlers.on_lifecycle(uuid_of(domain));
  return 0;
}

// A NIC more or less.
int on_device(virConnectPtr connection, virDomainPtr domain, const char*, void* opaque) {
  return on_lifecycle(connection, domain, 0, 0, opaque);
}

void on_close(virConnectPtr, int, void* opaque) {
  const auto& shared = *static_cast<std::shared_ptr<LibvirtSession::Shared>*>(opaque);
  const std::lock_guard lock(shared->mutex);
  shared->lost = true;
  shared->changed.notify_all();
}

void drop(void* opaque) { delete static_cast<std::shared_ptr<LibvirtSession::Shared>*>(opaque); }

// Wakes the event loop now and then, so that it notices the end of the session.
void tick(int, void*) {}

}  // namespace

bool connection_lost() {
  const virErrorPtr error = virGetLastError();
  if (error == nullptr) return false;
  return error->code == VIR_ERR_RPC || error->code == VIR_ERR_INVALID_CONN || error->code == VIR_ERR_NO_CONNECT ||
         error->domain == VIR_FROM_RPC;
}

void throw_libvirt(const std::string& what) {
  const virErrorPtr error = virGetLastError();
  const std::string text = error != nullptr && error->message != nullptr ? error->message : "unknown error";
  if (connection_lost()) throw Error(Code::kUnavailable, what + ": " + text, "is libvirtd running?");
  if (error != nullptr && error->code == VIR_ERR_NO_DOMAIN)
    throw Error(Code::kNotFound, what + ": " + text, "\"virsh list --all\" names the domains");
  if (error != nullptr && (error->code == VIR_ERR_AUTH_FAILED || error->code == VIR_ERR_ACCESS_DENIED)) {
    throw Error(Code::kPermission, what + ": " + text, "add mhvd's user to the group libvirt");
  }
  if (error != nullptr && error->code == VIR_ERR_OPERATION_TIMEOUT) {
    throw Error(Code::kBusy, what + ": " + text,
                "libvirt works on the guest: try again; if it never ends, libvirt was killed while it started the guest: doc/restore.rst");
  }
  throw Error(Code::kInternal, what + ": " + text);
}

std::string uuid_of(virDomainPtr domain) {
  std::array<char, VIR_UUID_STRING_BUFLEN> text{};
  if (virDomainGetUUIDString(domain, text.data()) != 0) throw_libvirt("cannot read a domain's UUID");
  return text.data();
}

std::string name_of(virDomainPtr domain) {
  const char* name = virDomainGetName(domain);
  return name == nullptr ? "" : name;
}

LibvirtSession::LibvirtSession(std::string uri, Handlers handlers) : uri_(std::move(uri)), shared_(std::make_shared<Shared>()) {
  shared_->handlers = std::move(handlers);
  virSetErrorFunc(nullptr, quiet);
  if (virInitialize() != 0 || virEventRegisterDefaultImpl() != 0) throw Error(Code::kInternal, "cannot start libvirt's event loop");
  virEventAddTimeout(500, tick, nullptr, nullptr);
  loop_ = std::thread([shared = shared_] {
    while (!shared->stopping) virEventRunDefaultImpl();
  });
  keeper_ = std::thread([this] { keep(); });
}

LibvirtSession::~LibvirtSession() {
  ConnectionPtr last;
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->stopping = true;
    shared_->changed.notify_all();
    last = std::move(shared_->connection);
  }
  keeper_.join();
  last.reset();
  loop_.join();
}

ConnectionPtr LibvirtSession::open() {
  virConnectPtr raw = virConnectOpen(uri_.c_str());
  if (raw == nullptr) throw_libvirt("cannot connect to libvirt at " + uri_);
  ConnectionPtr connection(raw, [](virConnectPtr c) {
    virConnectUnregisterCloseCallback(c, on_close);
    virConnectClose(c);
  });
  virConnectRegisterCloseCallback(raw, on_close, new std::shared_ptr<Shared>(shared_), drop);
  virConnectSetKeepAlive(raw, 5, 3);
  const auto listen = [&](int event, virConnectDomainEventGenericCallback callback) {
    const int id = virConnectDomainEventRegisterAny(raw, nullptr, event, callback, new std::shared_ptr<Shared>(shared_), drop);
    if (id < 0) throw_libvirt("cannot register for libvirt's events");
  };
  listen(VIR_DOMAIN_EVENT_ID_LIFECYCLE, VIR_DOMAIN_EVENT_CALLBACK(on_lifecycle));
  listen(VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, VIR_DOMAIN_EVENT_CALLBACK(on_device));
  listen(VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, VIR_DOMAIN_EVENT_CALLBACK(on_device));
  return connection;
}

void LibvirtSession::keep() {
  auto delay = 100ms;
  while (!shared_->stopping) {
    try {
      ConnectionPtr fresh = open();
      spdlog::info("connected to libvirt at {}", uri_);
      delay = 100ms;
      {
        const std::lock_guard lock(shared_->mutex);
        shared_->connection = std::move(fresh);
        shared_->lost = false;
        shared_->changed.notify_all();
      }
      shared_->handlers.on_connected();
      ConnectionPtr old;
      std::unique_lock lock(shared_->mutex);
      shared_->changed.wait(lock, [&] { return shared_->lost || shared_->stopping; });
      old = std::move(shared_->connection);
      lock.unlock();
      if (!shared_->stopping) spdlog::warn("lost the connection to libvirt; connecting again");
    } catch (const Error& error) {
      spdlog::log(delay == 100ms ? spdlog::level::warn : spdlog::level::debug, "{}", error.what());
      std::unique_lock lock(shared_->mutex);
      shared_->changed.wait_for(lock, delay, [&] { return shared_->stopping.load(); });
      delay = std::min<std::chrono::milliseconds>(delay * 2, 2s);
    }
  }
}

ConnectionPtr LibvirtSession::connection(std::chrono::milliseconds timeout) {
  std::unique_lock lock(shared_->mutex);
  const bool there = shared_->changed.wait_for(lock, timeout, [&] { return (shared_->connection && !shared_->lost) || shared_->stopping; });
  if (!there || !shared_->connection)
    throw Error(Code::kUnavailable, "libvirt does not answer at " + uri_,
                "is libvirtd running? \"virsh -c " + uri_ + " list\" says why not");
  return shared_->connection;
}

DomainPtr LibvirtSession::find(const ConnectionPtr& connection, const std::string& name_or_uuid) {
  DomainPtr domain(is_uuid(name_or_uuid) ? virDomainLookupByUUIDString(connection.get(), name_or_uuid.c_str())
                                         : virDomainLookupByName(connection.get(), name_or_uuid.c_str()));
  if (!domain) throw_libvirt("no guest \"" + name_or_uuid + "\"");
  return domain;
}

std::string LibvirtSession::version() {
  const ConnectionPtr c = connection(2s);
  unsigned long v = 0;
  if (virConnectGetLibVersion(c.get(), &v) != 0) throw_libvirt("cannot ask libvirt for its version");
  return std::to_string(v / 1000000) + "." + std::to_string(v / 1000 % 1000) + "." + std::to_string(v % 1000);
}

}  // namespace mhv::mhvd
