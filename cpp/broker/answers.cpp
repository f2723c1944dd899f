#include "broker/answers.h"

#include <fcntl.h>
#include <fmt/format.h>

#include "base/error.h"
#include "broker/inject.h"
#include "broker/monitor.h"
#include "broker/process.h"
#include "mhv.pb.h"

namespace mhv::broker {
namespace {

QemuProcess named(const protocol::BrokerProcess& process) { return QemuProcess(process.pid(), process.start_time()); }

std::vector<Fd> one(Fd fd) {
  std::vector<Fd> fds;
  fds.push_back(std::move(fd));
  return fds;
}

std::vector<Fd> open_guest(const QemuProcess& process) {
  std::vector<Fd> fds;
  fds.push_back(process.pidfd().duplicate());
  fds.push_back(process.open("maps", O_RDONLY));
  fds.push_back(process.open("pagemap", O_RDONLY));
  fds.push_back(process.open("mem", O_RDWR));
  return fds;
}

Fd inject_and_take(const QemuProcess& process, int device_fd, protocol::BrokerReply* reply) {
  if (!is_uffd_device(process.copy_fd(device_fd).get())) {
    throw Error(Code::kPermission, fmt::format("descriptor {} of process {} is no /dev/userfaultfd", device_fd, process.pid()),
                "hand one to QEMU by add-fd first");
  }
  const Injection injection = inject_uffd(process, device_fd);
  Fd uffd = process.copy_uffd(injection.number);
  reply->set_uffd_fd(injection.number);
  reply->set_attempts(injection.attempts);
  return uffd;
}

std::string name_of(const char* what, const protocol::BrokerProcess& process) {
  return fmt::format("{} of process {}", what, process.pid());
}

}  // namespace

std::vector<Fd> Answers::operator()(const protocol::BrokerRequest& request, protocol::BrokerReply* reply, std::string* what) {
  using Body = protocol::BrokerRequest::BodyCase;
  switch (request.body_case()) {
    case Body::kPing: *what = "ping"; return {};
    case Body::kUffdDevice: *what = "open /dev/userfaultfd"; return one(open_uffd_device());
    case Body::kOpenGuest:
      *what = name_of("open memory", request.open_guest().process());
      return open_guest(named(request.open_guest().process()));
    case Body::kOpenMapping: {
      const auto& body = request.open_mapping();
      *what = fmt::format("{} {:x}-{:x}", name_of("open mapping", body.process()), body.start(), body.end());
      return one(named(body.process()).open_mapping(body.start(), body.end(), body.read_only() ? O_RDONLY : O_RDWR));
    }
    case Body::kInjectUffd: {
      const auto& body = request.inject_uffd();
      *what = name_of("inject a userfaultfd into the memory", body.process());
      const std::lock_guard lock(injecting_);
      Fd uffd = inject_and_take(named(body.process()), body.device_fd(), reply);
      *what += fmt::format(" (descriptor {}, {} attempts)", reply->uffd_fd(), reply->attempts());
      return one(std::move(uffd));
    }
    case Body::kTakeUffd: {
      const auto& body = request.take_uffd();
      *what = fmt::format("{}, descriptor {}", name_of("take the userfaultfd", body.process()), body.uffd_fd());
      return one(named(body.process()).copy_uffd(body.uffd_fd()));
    }
    case Body::kKeepClock: {
      const auto& body = request.keep_clock();
      *what = name_of("keep the clock", body.process());
      const QemuProcess process = named(body.process());
      const int vm = process.find_fd("anon_inode:kvm-vm");
      const std::lock_guard lock(injecting_);
      const KeptClock kept = keep_clock(process, vm, {body.since().guest_ns(), body.since().host_ns()}, body.lost_ns_max());
      reply->mutable_clock()->mutable_since()->set_guest_ns(kept.since.guest_ns);
      reply->mutable_clock()->mutable_since()->set_host_ns(kept.since.host_ns);
      reply->mutable_clock()->set_given_ns(kept.given_ns);
      return {};
    }
    case Body::kConnectMonitor:
      *what = "connect to a monitor";
      return one(connect_monitor(run_dir_ + "/qmp", request.connect_monitor().path()));
    default: break;
  }
  throw Error(Code::kInvalid, "this mhv-broker does not know the request", "run the same release of nova-mhv everywhere");
}

}  // namespace mhv::broker
