// Starting and ending domains, for the restore of a guest that does not run.
#include <spdlog/spdlog.h>

#include <thread>

#include "base/error.h"
#include "mhvd/attach.h"

namespace mhv::mhvd {

using namespace std::chrono_literals;

namespace {

constexpr auto kLibvirtTimeout = 5s;
constexpr auto kEndTimeout = 10s;

// A QEMU that has ended is one that libvirt has yet to notice.
void wait_until_off(virDomainPtr domain) {
  const auto deadline = std::chrono::steady_clock::now() + kEndTimeout;
  while (virDomainIsActive(domain) == 1 && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(20ms);
}

}  // namespace

void HostHypervisor::start_paused(const Domain& domain) {
  const ConnectionPtr connection = session_.connection(kLibvirtTimeout);
  DomainPtr handle;
  try {
    handle = session_.find(connection, domain.uuid);
  } catch (const Error& error) {
    if (error.code() != Code::kNotFound) throw;
    throw Error(Code::kNotFound, "libvirt no longer defines guest " + domain.name,
                "define it again, or export the checkpoint and take the file with \"virsh restore\"");
  }
  if (virDomainHasManagedSaveImage(handle.get(), 0) == 1) {
    throw Error(Code::kBusy, "guest " + domain.name + " has a managed save image",
                "start the guest, or remove the image: virsh managedsave-remove");
  }
  wait_until_off(handle.get());
  if (virDomainCreateWithFlags(handle.get(), VIR_DOMAIN_START_PAUSED) != 0) throw_libvirt("cannot start guest " + domain.name);
}

void HostHypervisor::destroy(const Domain& domain) noexcept {
  try {
    const ConnectionPtr connection = session_.connection(kLibvirtTimeout);
    if (virDomainDestroy(session_.find(connection, domain.uuid).get()) != 0) throw_libvirt("cannot end guest " + domain.name);
  } catch (const std::exception& error) {
    spdlog::error("guest {} ({}): {}", domain.name, domain.uuid, error.what());
  }
}

}  // namespace mhv::mhvd
