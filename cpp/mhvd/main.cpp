// mhvd: supervises the services of this host's guests.
//
//   server (one thread a client) -> guests -> guest (one thread each) -> worker process
//                                                 |-> libvirt session, broker
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <mutex>

#include "base/error.h"
#include "client/broker_client.h"
#include "mhvd/attach.h"
#include "mhvd/config.h"
#include "mhvd/guests.h"
#include "mhvd/libvirt_session.h"
#include "mhvd/process_sys.h"
#include "mhvd/request_check.h"
#include "mhvd/selftest.h"
#include "mhvd/server.h"
#include "mhvd/store_key.h"

namespace {

using namespace mhv;
using namespace mhv::mhvd;

// libvirt's events come before there are guests, and after.
class Listeners {
 public:
  void set(Guests* guests) {
    const std::lock_guard lock(mutex_);
    guests_ = guests;
  }
  template <typename Tell>
  void tell(Tell&& message) {
    const std::lock_guard lock(mutex_);
    if (guests_ != nullptr) message(*guests_);
  }

 private:
  std::mutex mutex_;
  Guests* guests_ = nullptr;
};

int serve(Config config) {
  block_signals();
  settle_in(config);
  if (!config.store_key_file.empty()) {
    config.store_key = read_store_key(config.store_key_file);
    spdlog::info("new stores of checkpoints are encrypted with the key in {}", config.store_key_file);
  }
  const Fd lock = take_instance_lock(config.lock_path());
  BrokerClient broker(config.broker_path());
  if (!broker.ping()) spdlog::warn("mhv-broker does not answer on {}; guests are attached once it does", config.broker_path());

  TapperClient tapper(config.tapper_path());

  Listeners listeners;
  LibvirtSession libvirt(config.libvirt_uri, {[&](const std::string& uuid) { listeners.tell([&](Guests& g) { g.poke(uuid); }); },
                                              [&] { listeners.tell([](Guests& g) { g.poke_all(); }); }});
  HostHypervisor hypervisor(config, libvirt, broker, tapper);
  Guests guests(config, hypervisor);
  guests.load();
  listeners.set(&guests);
  guests.poke_all();
  {
    Server server(config.socket_path(), [&](const protocol::Request& request, std::span<const int> fds, const ReplyFn& progress) {
      protocol::Reply reply;
      if (request.has_self_test()) {
        *reply.mutable_self_test() = self_test(broker, libvirt);
        guests.test_layers(*reply.mutable_self_test());
      } else if (request.has_status()) {
        *reply.mutable_status() = guests.status(request.status().guest());
        reply.mutable_status()->set_broker_alive(broker.ping());
      } else {
        reply = guests.handle(request, fds, progress);
      }
      return reply;
    });
    spdlog::info("mhvd {} serves {}", MHV_VERSION, config.socket_path());
    const int signal = wait_for_signal();
    spdlog::info("signal {}: ending; guests run on", signal);
    server.stop();
    guests.begin_stop();
  }
  listeners.set(nullptr);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const ParsedConfig parsed = parse_config(argc, argv);
  if (!parsed.run) return parsed.exit_code;
  spdlog::set_default_logger(spdlog::stderr_logger_mt("mhvd"));
  spdlog::set_level(spdlog::level::from_str(parsed.config.log_level));
  spdlog::flush_on(spdlog::level::info);
  try {
    return serve(parsed.config);
  } catch (const Error& error) {
    spdlog::critical("{}{}{}", error.what(), error.hint().empty() ? "" : "; ", error.hint());
  } catch (const std::exception& error) {
    spdlog::critical("{}", error.what());
  }
  return 1;
}
