#include "stack/charter.h"

namespace mhv::stack {

Charter charter_of(const std::string& manifest) {
  const auto json = nlohmann::json::parse(manifest, nullptr, false);
  if (!json.is_object()) throw Error(Code::kInvalid, "a layer's manifest is no JSON object");
  try {
    const auto claims = json.value("claims", nlohmann::json::object());
    const auto resources = json.value("resources", nlohmann::json::object());
    Charter out;
    out.name = json.at("name");
    out.memory = claims.value("memory", "none") == "read";
    out.written_pages = claims.value("written_pages", false);
    out.vcpus = claims.value("vcpu", "none") == "read";
    for (const std::string event : claims.value("events", nlohmann::json::array()))
      (event == "see" ? out.sees_events : out.sends_events) = true;
    for (const std::string action : claims.value("actions", nlohmann::json::array())) out.actions.insert(action);
    out.epoch_every = std::chrono::milliseconds(resources.value("epoch_ms", 1000));
    out.budget = std::chrono::milliseconds(resources.value("budget_ms", 1000));
    return out;
  } catch (const nlohmann::json::exception& error) {
    throw Error(Code::kInvalid, std::string("a layer's manifest: ") + error.what());
  }
}

}  // namespace mhv::stack
