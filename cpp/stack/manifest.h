// What a layer says of itself: its name, what it claims, what it needs. Written by a vendor, and believed in nothing.
//
//   {"name", "version", "vendor", "abi": 1, "program",
//    "claims": {"memory": "none" | "read" | [{"range": "ram"|"kernel-text"|"process", "process": COMMAND,
//                                            "access": ["read"|"write"|"trap-write"|"trap-missing"]}],
//               "written_pages": false, "restore": false, "vcpu": "none"|"read"|"pause"|"set",
//               "network": "none"|"see"|"hold"|"drop"|"inject", "disk": "none"|"see"|"delay",
//               "events": ["see"|"send"], "actions": ["checkpoint"|"pause"|"hold"|"release"|"rollback"|"stop"]},
//    "resources": {"memory_mib": 64, "cpu_percent": 50, "epoch_ms": 1000, "budget_ms": 100},
//    "policy": "fail-open"|"fail-closed",
//    "configuration": {JSON Schema: stack/configuration.h}}
//
// What stands behind a colon here is the default; what has none must be there, but for "claims", "resources", "configuration" and the
// members of "claims". "memory": "read" is all of RAM.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "stack/claims.h"
#include "stack/configuration.h"

namespace mhv::stack {

inline constexpr std::uint32_t kLayerAbi = 1;  // ring/abi.h
inline constexpr std::size_t kManifestMax = 64 << 10;

struct Resources {
  std::uint32_t memory_mib = 64;
  std::uint32_t cpu_percent = 50;  // of one processor
  std::uint32_t epoch_ms = 1000;   // how often it is called
  std::uint32_t budget_ms = 100;   // how long a call may take, and no longer than an epoch
};

// When it is late, dead or lies: the guest's packets pass without it, or go nowhere until it is back. The guest itself never waits.
enum class Policy { kFailOpen, kFailClosed };

struct Manifest {
  std::string name, version, vendor;
  bool built_in = false;  // part of the engine: stack/builtin.h; never so by what the text says
  std::string program;    // a path in the package
  Claims claims;
  Resources resources;
  Policy policy = Policy::kFailOpen;
  Configuration configuration;
};

// Throws kInvalid naming the member that is wrong and what it may be, kVersion for another ABI.
Manifest parse_manifest(std::string_view text);

// [a-z][a-z0-9-]{0,31}: of layers and vendors.
bool is_name(std::string_view text);

}  // namespace mhv::stack
