// For tests: manifests in few words.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace mhv::stack {

inline nlohmann::json manifest_json(const std::string& name, const nlohmann::json& claims = nlohmann::json::object()) {
  return {{"name", name},       {"version", "1.0"}, {"vendor", "acme"},     {"abi", 1},
          {"program", "layer"}, {"claims", claims}, {"policy", "fail-open"}};
}

}  // namespace mhv::stack
