#include "mhvd/libvirt_monitor.h"

#include <libvirt/libvirt-qemu.h>
#include <libvirt/virterror.h>
#include <spdlog/spdlog.h>

#include <cstdlib>
#include <thread>

#include "base/error.h"

namespace mhv::mhvd {

using namespace std::chrono_literals;

struct LibvirtBridge::Sink {
  std::mutex mutex;  // guards bridge
  QmpBridge* bridge = nullptr;
};

namespace {

using Json = nlohmann::json;
using Sink = LibvirtBridge::Sink;

constexpr auto kReconnectTimeout = 30s;

void on_event(virConnectPtr, virDomainPtr, const char* name, long long seconds, unsigned micros, const char* details, void* opaque) {
  Json event{{"event", name}, {"timestamp", {{"seconds", seconds}, {"microseconds", micros}}}};
  if (details != nullptr) event["data"] = Json::parse(details, nullptr, false);
  const auto& sink = *static_cast<std::shared_ptr<Sink>*>(opaque);
  const std::lock_guard lock(sink->mutex);
  if (sink->bridge != nullptr) sink->bridge->post_event(event.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void drop_sink(void* opaque) { delete static_cast<std::shared_ptr<Sink>*>(opaque); }

class LibvirtMonitor : public Monitor {
 public:
  LibvirtMonitor(LibvirtSession& session, std::string uuid, std::shared_ptr<Sink> sink)
      : session_(session), uuid_(std::move(uuid)), sink_(std::move(sink)) {
    use(session_.connection(5s));
  }
  ~LibvirtMonitor() override { unregister(); }

  std::string execute(const std::string& command, std::span<const int> fds) override {
    const auto deadline = std::chrono::steady_clock::now() + kReconnectTimeout;
    for (;;) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
      try {
        ConnectionPtr connection = session_.connection(std::max<std::chrono::milliseconds>(left, 1ms));
        if (connection != connection_) use(std::move(connection));
        return execute_once(command, fds);
      } catch (const Error& error) {
        if (error.code() != Code::kUnavailable || left <= 0ms || !repeatable(command)) throw;
        std::this_thread::sleep_for(100ms);  // until the session has noticed
      }
    }
  }

 private:
  std::string execute_once(const std::string& command, std::span<const int> fds) {
    std::vector<int> numbers(fds.begin(), fds.end());
    char* result = nullptr;
    const int rc = virDomainQemuMonitorCommandWithFiles(domain_.get(), command.c_str(), static_cast<unsigned>(numbers.size()),
                                                        numbers.empty() ? nullptr : numbers.data(), nullptr, nullptr, &result, 0);
    if (rc != 0) {
      const virErrorPtr error = virGetLastError();
      if (error != nullptr && error->code == VIR_ERR_OPERATION_INVALID) throw Error(Code::kGone, "the guest does not run");
      throw_libvirt("libvirt did not hand a command to QEMU");
    }
    std::string text = result;
    std::free(result);
    return text;
  }

  void use(ConnectionPtr connection) {
    unregister();
    connection_ = std::move(connection);
    domain_ = session_.find(connection_, uuid_);
    registration_ = virConnectDomainQemuMonitorEventRegister(connection_.get(), domain_.get(), nullptr, on_event,
                                                             new std::shared_ptr<Sink>(sink_), drop_sink, 0);
    if (registration_ < 0) spdlog::warn("guest {}: no monitor events from libvirt", uuid_);
  }

  void unregister() {
    if (registration_ >= 0) virConnectDomainQemuMonitorEventDeregister(connection_.get(), registration_);
    registration_ = -1;
  }

  LibvirtSession& session_;
  const std::string uuid_;
  const std::shared_ptr<Sink> sink_;
  ConnectionPtr connection_;
  DomainPtr domain_;
  int registration_ = -1;
};

}  // namespace

bool repeatable(const std::string& command_json) {
  const Json command = Json::parse(command_json, nullptr, false);
  if (!command.is_object() || !command.contains("execute") || !command["execute"].is_string()) return false;
  const std::string name = command["execute"];
  return name == "cont" || name == "stop" || name.rfind("query-", 0) == 0;
}

LibvirtBridge::LibvirtBridge(LibvirtSession& session, const std::string& uuid) : sink_(std::make_shared<Sink>()) {
  bridge_ = std::make_unique<QmpBridge>(std::make_unique<LibvirtMonitor>(session, uuid, sink_));
  const std::lock_guard lock(sink_->mutex);
  sink_->bridge = bridge_.get();
}

LibvirtBridge::~LibvirtBridge() {
  const std::lock_guard lock(sink_->mutex);
  sink_->bridge = nullptr;
}

}  // namespace mhv::mhvd
