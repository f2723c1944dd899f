// Which layers there are, and which of them a guest has.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <utility>

#include "mhvd/guests.h"
#include "stack/arbiter.h"
#include "stack/builtin.h"

namespace mhv::mhvd {
namespace {

bool has(const protocol::ServiceOptions& options, const std::string& service) {
  return std::ranges::find(options.services(), service) != options.services().end();
}

void describe(LayerPackage package, protocol::LayerInfo& info) {
  info.set_name(std::move(package.manifest.name));
  info.set_version(std::move(package.manifest.version));
  info.set_vendor(std::move(package.manifest.vendor));
  info.set_manifest(std::move(package.text));
}

std::string said(const Error& error) { return error.hint().empty() ? error.what() : std::string(error.what()) + "; " + error.hint(); }

}  // namespace

void Guests::check_services(const protocol::ServiceOptions& options) const { layers_.registry.check(options); }

void Guests::test_layers(protocol::SelfTestReply& reply) {
  const std::string no_checkpoints = reply.capabilities_size() == 0 ? "" : reply.capabilities(0).reason();
  std::map<bool, std::string> tested;  // why not, in a service VM or in a process
  for (const LayerPackage& package : layers_.registry.all()) {
    protocol::Capability& capability = *reply.add_capabilities();
    capability.set_service(package.manifest.name);
    try {
      stack::arbitrate(std::array{stack::built_in("checkpoint"), layers_.registry.find_trusted(package.manifest.name).manifest});
    } catch (const Error& error) {
      capability.set_reason(said(error));
      continue;
    }
    const auto [reason, first] = tested.try_emplace(config_.runs_in_vm(package.manifest.name), no_checkpoints);
    try {
      if (first && reason->second.empty()) test_jail(config_, layers_.users, package);
    } catch (const Error& error) {
      reason->second = said(error);
    }
    capability.set_available(reason->second.empty());
    capability.set_reason(reason->second);
  }
}

void Guests::add_service(const protocol::ServiceAdd& request) {
  const auto guest = find(request.guest());
  const Turn turn(*this, guest->uuid());
  const protocol::ServiceOptions before = guest->status().options();
  protocol::ServiceOptions options = before;
  if (options.services().empty()) {
    throw Error(Code::kInvalid, "guest " + guest->name() + " is detached",
                "mhvctl attach " + guest->name() + " --service " + request.service());
  }
  if (!has(options, request.service())) options.add_services(request.service());
  if (request.configuration().empty()) {
    options.mutable_configurations()->erase(request.service());
  } else {
    (*options.mutable_configurations())[request.service()] = request.configuration();
  }
  check_services(options);
  if (!stack::is_built_in(request.service())) layers_.registry.find_trusted(request.service());
  if (claims_network(layers_.registry, options)) hypervisor_.taps({guest->uuid(), guest->name(), {}});
  try {
    guest->configure(options);
  } catch (const Error&) {
    reconfigure(*guest, before);
    throw;
  }
}

void Guests::remove_service(const protocol::ServiceRemove& request) {
  const auto guest = find(request.guest());
  const Turn turn(*this, guest->uuid());
  protocol::ServiceOptions options = guest->status().options();
  if (!has(options, request.service())) {
    throw Error(Code::kNotFound, "guest " + guest->name() + " has no service \"" + request.service() + "\"",
                "mhvctl status " + guest->name());
  }
  if (options.services_size() == 1) {
    throw Error(Code::kInvalid, request.service() + " is the last service of guest " + guest->name(), "mhvctl detach " + guest->name());
  }
  auto& services = *options.mutable_services();
  services.erase(std::remove(services.begin(), services.end(), request.service()), services.end());
  options.mutable_configurations()->erase(request.service());
  guest->configure(options);
}

protocol::Reply Guests::list_layers() const {
  protocol::Reply reply;
  protocol::LayerListReply& out = *reply.mutable_layer_list();
  for (LayerPackage& package : layers_.registry.all()) describe(std::move(package), *out.add_layers());
  return reply;
}

protocol::Reply Guests::install_layer(int file) const {
  protocol::Reply reply;
  LayerPackage package = layers_.registry.install("/proc/self/fd/" + std::to_string(file));
  spdlog::info("layer {} {} of {} is installed in {}", package.manifest.name, package.manifest.version, package.manifest.vendor,
               package.folder);
  describe(std::move(package), *reply.mutable_layer_list()->add_layers());
  return reply;
}

protocol::Reply Guests::list_alerts(const protocol::AlertList& request) {
  protocol::Reply reply;
  protocol::AlertListReply& out = *reply.mutable_alert_list();
  for (protocol::Alert& alert : find(request.guest())->alerts(request.after())) *out.add_alerts() = std::move(alert);
  return reply;
}

}  // namespace mhv::mhvd
