#include "mhvd/selftest.h"

#include <sys/utsname.h>

#include "base/error.h"
#include "mhvd/libvirt_session.h"

namespace mhv::mhvd {
namespace {

void test_checkpoint(BrokerClient& broker, LibvirtSession& libvirt) {
  if (!broker.ping()) throw Error(Code::kUnavailable, "mhv-broker does not answer", "start it: systemctl start mhv-broker");
  test_tracking(broker.uffd_device());
  test_sandbox();
  libvirt.version();
}

}  // namespace

protocol::SelfTestReply self_test(BrokerClient& broker, LibvirtSession& libvirt) {
  protocol::SelfTestReply reply;
  utsname kernel{};
  if (::uname(&kernel) == 0) reply.set_kernel(kernel.release);
  protocol::Capability& checkpoint = *reply.add_capabilities();
  checkpoint.set_service("checkpoint");
  try {
    test_checkpoint(broker, libvirt);
    checkpoint.set_available(true);
  } catch (const Error& error) {
    checkpoint.set_reason(error.hint().empty() ? error.what() : std::string(error.what()) + "; " + error.hint());
  }
  return reply;
}

}  // namespace mhv::mhvd
