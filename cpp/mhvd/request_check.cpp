#include "mhvd/request_check.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "keep/policy.h"
#include "mhvd/guest_conf.h"

namespace mhv::mhvd {
namespace {

using Kind = protocol::Request;

constexpr int kServicesMax = 16;
constexpr std::size_t kServiceBytesMax = 32;
constexpr std::size_t kJsonBytesMax = 64 << 10;
constexpr int kJsonDepthMax = 32;

void check_text(const char* what, const std::string& text, bool may_be_empty) {
  if (text.empty() && !may_be_empty) throw Error(Code::kInvalid, std::string("the request names no ") + what);
  if (text.size() > kNameBytesMax)
    throw Error(Code::kInvalid, std::string(what) + " is longer than " + std::to_string(kNameBytesMax) + " bytes");
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) throw Error(Code::kInvalid, std::string(what) + " holds a control character");
  }
}

void check_guest(const std::string& guest, bool may_be_empty = false) {
  check_text("guest", guest, may_be_empty);
  if (guest.find('/') != std::string::npos) throw Error(Code::kInvalid, "a guest's name holds no \"/\"");
}

void check_id(const std::string& id) {
  if (!is_uuid(id))
    throw Error(Code::kInvalid, "\"" + id.substr(0, 64) + "\" is no checkpoint's id", "\"mhvctl checkpoint list\" shows the ids (UUIDs)");
}

void check_target(const std::string& target) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-';
  };
  if (target.empty() || target.size() > kTargetBytesMax || !std::all_of(target.begin(), target.end(), plain))
    throw Error(Code::kInvalid, "the request names no disk", "\"mhvctl checkpoint show\" shows them, such as vda");
}

void check_service(const std::string& name) {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; };
  if (name.empty() || name.size() > kServiceBytesMax || !std::ranges::all_of(name, plain) || name[0] == '-')
    throw Error(Code::kInvalid, "\"" + name.substr(0, 64) + "\" is no service's name", "\"mhvctl layer list\" shows them");
}

// An object, not too long, and not too deep.
void check_json(const std::string& what, const std::string& text) {
  using Json = nlohmann::json;
  bool deep = false;
  const auto shallow = [&](int depth, Json::parse_event_t, Json&) { return !(deep |= depth > kJsonDepthMax); };
  if (text.size() > kJsonBytesMax) throw Error(Code::kInvalid, what + " has more than " + std::to_string(kJsonBytesMax) + " bytes");
  const Json value = Json::parse(text, shallow, false);
  if (deep || !value.is_object()) throw Error(Code::kInvalid, what + " is no JSON object", "such as {\"key\": 1}");
}

void check_options(const protocol::ServiceOptions& options) {
  if (options.services().empty())
    throw Error(Code::kInvalid, "no service is named", "\"mhvctl layer list\" shows them, besides checkpoint");
  if (options.services_size() > kServicesMax)
    throw Error(Code::kInvalid, "a guest has at most " + std::to_string(kServicesMax) + " services");
  std::set<std::string> named;
  for (const std::string& service : options.services()) {
    check_service(service);
    if (!named.insert(service).second) throw Error(Code::kInvalid, "service " + service + " is named twice");
  }
  for (const auto& [service, configuration] : options.configurations()) {
    if (!named.contains(service))
      throw Error(Code::kInvalid, "a configuration for \"" + service.substr(0, 64) + "\", which is no service of the guest");
    check_json("the configuration of " + service, configuration);
  }
  const double interval = options.checkpoint_interval_s();
  if (!std::isfinite(interval) || interval < 0 || interval > kIntervalMaxS || (interval > 0 && interval < kIntervalMinS)) {
    throw Error(Code::kInvalid, "the checkpoint interval is out of range", "0 (on demand only), or 0.02 s to 30 days");
  }
  if (options.checkpoint_keep() > kKeepMax)
    throw Error(Code::kInvalid, "more than " + std::to_string(kKeepMax) + " checkpoints cannot be kept");
  if (!options.checkpoint_keep_policy().empty()) keep::Policy::parse(options.checkpoint_keep_policy());
  const double overhead = options.checkpoint_overhead_max();
  if (!std::isfinite(overhead) || overhead < 0 || overhead > 100 || (overhead > 0 && overhead < kOverheadMinPercent)) {
    throw Error(Code::kInvalid, "the share of the guest's time for checkpoints is out of range", "0.1 to 100 percent");
  }
  if (!protocol::DiskPolicy_IsValid(options.checkpoint_disks()))
    throw Error(Code::kInvalid, "unknown disk policy", "required, best-effort or none");
}

void check_hold(const protocol::Hold& hold) {
  check_guest(hold.guest());
  check_text("reason", hold.reason(), true);
  if (!std::isfinite(hold.timeout_s()) || hold.timeout_s() <= 0 || hold.timeout_s() > kHoldMaxS) {
    throw Error(Code::kInvalid, "the time-out of a hold is out of range", "more than 0 and at most 86400 seconds");
  }
}

}  // namespace

protocol::Request parse_request(std::string_view bytes) {
  protocol::Request request;
  if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) throw Error(Code::kInvalid, "a request that cannot be read");
  return request;
}

void check_request(const protocol::Request& request, std::size_t fds) {
  const bool has_file = request.has_checkpoint_export() || request.has_checkpoint_export_disk() || request.has_layer_install();
  const std::size_t fds_wanted = has_file ? 1 : 0;
  if (fds != fds_wanted)
    throw Error(Code::kInvalid, "the request brings " + std::to_string(fds) + " descriptors, not " + std::to_string(fds_wanted));
  switch (request.body_case()) {
    case Kind::kAttach:
      check_guest(request.attach().guest());
      check_options(request.attach().options());
      break;
    case Kind::kStatus: check_guest(request.status().guest(), true); break;
    case Kind::kSelfTest:
    case Kind::kLayerList:
    case Kind::kLayerInstall: break;
    case Kind::kLayerCall:
      check_guest(request.layer_call().guest());
      check_service(request.layer_call().layer());
      check_text("method", request.layer_call().method(), false);
      if (!request.layer_call().arguments().empty()) check_json("the arguments", request.layer_call().arguments());
      break;
    case Kind::kServiceAdd:
      check_guest(request.service_add().guest());
      check_service(request.service_add().service());
      if (!request.service_add().configuration().empty()) check_json("the configuration", request.service_add().configuration());
      break;
    case Kind::kServiceRemove:
      check_guest(request.service_remove().guest());
      check_service(request.service_remove().service());
      break;
    case Kind::kHold: check_hold(request.hold()); break;
    case Kind::kCheckpointCreate:
      check_guest(request.checkpoint_create().guest());
      check_text("name", request.checkpoint_create().name(), true);
      break;
    case Kind::kCheckpointList:
      check_guest(request.checkpoint_list().guest());
      if (!request.checkpoint_list().marker().empty()) check_id(request.checkpoint_list().marker());
      break;
    case Kind::kCheckpointShow:
      check_id(request.checkpoint_show().id());
      check_guest(request.checkpoint_show().guest());
      break;
    case Kind::kCheckpointDelete:
      check_id(request.checkpoint_delete().id());
      check_guest(request.checkpoint_delete().guest());
      break;
    case Kind::kCheckpointRestore:
      check_id(request.checkpoint_restore().id());
      if (request.checkpoint_restore().new_process()) throw Error(Code::kInvalid, "only mhvd knows which guests are new", "ask without it");
      check_guest(request.checkpoint_restore().guest());
      break;
    case Kind::kCheckpointExport:
      check_id(request.checkpoint_export().id());
      check_guest(request.checkpoint_export().guest());
      if (!protocol::ExportFormat_IsValid(request.checkpoint_export().format()))
        throw Error(Code::kInvalid, "unknown export format", "a save image, or an ELF core");
      break;
    case Kind::kCheckpointExportDisk:
      check_id(request.checkpoint_export_disk().id());
      check_guest(request.checkpoint_export_disk().guest());
      check_target(request.checkpoint_export_disk().target());
      break;
    case Kind::kDetach:
    case Kind::kForget:
    case Kind::kRelease:
    case Kind::kCheckpointVerify:
    case Kind::kStoreRepair:
    case Kind::kStoreStat:
    case Kind::kStoreCompact:
    case Kind::kAlertList: check_guest(guest_of(request)); break;
    case Kind::BODY_NOT_SET:
      throw Error(Code::kInvalid, "this mhvd does not know that request", "run the same release of nova-mhv on both sides");
  }
}

std::string guest_of(const protocol::Request& request) {
  switch (request.body_case()) {
    case Kind::kAttach: return request.attach().guest();
    case Kind::kDetach: return request.detach().guest();
    case Kind::kForget: return request.forget().guest();
    case Kind::kStatus: return request.status().guest();
    case Kind::kHold: return request.hold().guest();
    case Kind::kRelease: return request.release().guest();
    case Kind::kCheckpointCreate: return request.checkpoint_create().guest();
    case Kind::kCheckpointList: return request.checkpoint_list().guest();
    case Kind::kCheckpointShow: return request.checkpoint_show().guest();
    case Kind::kCheckpointDelete: return request.checkpoint_delete().guest();
    case Kind::kCheckpointRestore: return request.checkpoint_restore().guest();
    case Kind::kCheckpointExport: return request.checkpoint_export().guest();
    case Kind::kCheckpointExportDisk: return request.checkpoint_export_disk().guest();
    case Kind::kCheckpointVerify: return request.checkpoint_verify().guest();
    case Kind::kStoreRepair: return request.store_repair().guest();
    case Kind::kStoreStat: return request.store_stat().guest();
    case Kind::kStoreCompact: return request.store_compact().guest();
    case Kind::kLayerCall: return request.layer_call().guest();
    case Kind::kServiceAdd: return request.service_add().guest();
    case Kind::kServiceRemove: return request.service_remove().guest();
    case Kind::kAlertList: return request.alert_list().guest();
    case Kind::kSelfTest:
    case Kind::kLayerList:
    case Kind::kLayerInstall:
    case Kind::BODY_NOT_SET: break;
  }
  return "";
}

}  // namespace mhv::mhvd
