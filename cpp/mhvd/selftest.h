// What this host can do: the answer decides which traits it reports.
#pragma once

#include "client/broker_client.h"
#include "mhv.pb.h"

namespace mhv::mhvd {

class LibvirtSession;

// Tries, in this process, what a guest will need: broker, userfaultfd, written-page tracking on a mapping of our own,
// the sandbox of the workers, libvirt. Never throws: the first thing that is missing is the capability's reason.
protocol::SelfTestReply self_test(BrokerClient& broker, LibvirtSession& libvirt);

// The parts that need neither; throw kUnsupported with what to change.
void test_tracking(const Fd& userfaultfd_device);
void test_sandbox();

}  // namespace mhv::mhvd
