// The one connection to libvirt: made again when it is lost, with lifecycle events.
//
// Threads: one runs libvirt's event loop (callbacks come from there and must not block), one keeps the connection.
// No lock is held while a handler or libvirt is called.
#pragma once

#include <libvirt/libvirt.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace mhv::mhvd {

using ConnectionPtr = std::shared_ptr<virConnect>;

struct DomainFree {
  void operator()(virDomainPtr domain) const noexcept { virDomainFree(domain); }
};
using DomainPtr = std::unique_ptr<virDomain, DomainFree>;

// The text of this thread's last libvirt error, and an Error made of it: kNotFound, kUnavailable (connection lost) or kInternal.
[[noreturn]] void throw_libvirt(const std::string& what);
bool connection_lost();  // of this thread's last libvirt error

// One per process: libvirt's default event loop is.
class LibvirtSession {
 public:
  struct Handlers {
    std::function<void(const std::string& uuid)> on_lifecycle;  // something about this domain changed: look
    std::function<void()> on_connected;                         // events may have been missed: look at all
  };

  LibvirtSession(std::string uri, Handlers handlers);
  ~LibvirtSession();

  // Waits until there is a connection; throws kUnavailable when there is none in time.
  ConnectionPtr connection(std::chrono::milliseconds timeout);
  // kNotFound when libvirt knows no such domain; a UUID or a name.
  DomainPtr find(const ConnectionPtr& connection, const std::string& name_or_uuid);
  std::string version();  // "11.3.0"; throws kUnavailable

  struct Shared;  // what callbacks hold on to

 private:
  void keep();
  ConnectionPtr open();

  const std::string uri_;
  std::shared_ptr<Shared> shared_;
  std::thread loop_;
  std::thread keeper_;
};

std::string uuid_of(virDomainPtr domain);
std::string name_of(virDomainPtr domain);

}  // namespace mhv::mhvd
