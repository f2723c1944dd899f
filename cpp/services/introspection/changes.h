// What came and went in a guest between two looks, as events for its other services:
//
//   process_start, process_exit          pid, name
//   module_load, module_unload           name, address
//   connection_open, connection_close    pid, process, protocol, local, local_port, remote, remote_port: of IP, with a remote end
//
// What was there between two looks alone is not seen.
#pragma once

#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "introspection/kernel.h"

namespace mhv::introspection {

inline constexpr std::size_t kChangesMax = 500;  // of one look; those beyond are told by the next ones

// Of one run of the kernel. Not thread-safe.
class Changes {
 public:
  // Each {"kind", ...}. Of the first look nothing, as of what cannot be seen this time: a later one has it.
  std::vector<nlohmann::ordered_json> look(const Kernel& kernel);

 private:
  using Seen = std::map<std::string, nlohmann::ordered_json>;  // by what makes it itself
  std::array<std::optional<Seen>, 3> known_;
};

}  // namespace mhv::introspection
