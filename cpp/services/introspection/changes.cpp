#include "introspection/changes.h"

#include <fmt/format.h>

#include <set>

#include "base/error.h"
#include "introspection/answers.h"
#include "introspection/modules.h"
#include "introspection/processes.h"
#include "introspection/sockets.h"

namespace mhv::introspection {
namespace {

using Json = nlohmann::ordered_json;
using FactsById = std::map<std::string, Json>;
struct Sight {
  FactsById rows;
  std::set<std::int32_t> unreadable;  // processes: what they had, they may still have
};

Sight processes_now(const Kernel& kernel) {
  Sight out;
  for (const Process& one : Processes(kernel).list()) {
    out.rows[fmt::format("{} {:x}", one.pid, one.task.value)] = {{"pid", one.pid}, {"name", to_utf8(one.name)}};
  }
  return out;
}

Sight modules_now(const Kernel& kernel) {
  Sight out;
  for (const Module& one : Modules(kernel).list()) {
    out.rows[fmt::format("{} {:x}", one.name, one.structure.value)] = {{"name", to_utf8(one.name)},
                                                                       {"address", fmt::format("{:#x}", one.at.value)}};
  }
  return out;
}

// Whoever has it open: a connection that several processes share is one.
Sight connections_now(const Kernel& kernel) {
  Sight out;
  for (const auto& [process, readable, sockets] : Sockets(kernel).list({})) {
    if (!readable) out.unreadable.insert(process.pid);
    for (const Socket& one : sockets) {
      if (one.remote_port.value_or(0) == 0) continue;
      out.rows.try_emplace(fmt::format("{:x} {} {} {}", one.structure.value, one.inode, one.remote, *one.remote_port),
                           Json{{"pid", process.pid},
                                {"process", to_utf8(process.name)},
                                {"protocol", one.protocol},
                                {"local", one.local},
                                {"local_port", one.local_port.value_or(0)},
                                {"remote", one.remote},
                                {"remote_port", *one.remote_port}});
    }
  }
  return out;
}

struct Watched {
  const char *came, *went;
  Sight (*now)(const Kernel&);
};
constexpr std::array kWatched{Watched{"process_start", "process_exit", processes_now}, Watched{"module_load", "module_unload", modules_now},
                              Watched{"connection_open", "connection_close", connections_now}};

// Makes `known` what is there `now`, as far as `out` has room for what that means.
void tell_changes(const Watched& kind, FactsById& known, Sight now, std::vector<Json>& out) {
  const auto tell = [&](const char* what, const Json& of) {
    out.push_back({{"kind", what}});
    out.back().update(of);
  };
  for (auto one = known.begin(); one != known.end() && out.size() < kChangesMax;) {
    if (now.rows.erase(one->first) != 0 || now.unreadable.contains(one->second.value("pid", 0))) {
      ++one;
      continue;
    }
    tell(kind.went, one->second);
    one = known.erase(one);
  }
  for (const auto& [identity, one] : now.rows) {
    if (out.size() == kChangesMax) return;
    if (known.try_emplace(identity, one).second) tell(kind.came, one);
  }
}

}  // namespace

std::vector<Json> Changes::look(const Kernel& kernel) {
  std::vector<Json> out;
  for (std::size_t i = 0; i < kWatched.size(); ++i) {
    try {
      Sight now = kWatched[i].now(kernel);
      if (known_[i]) {
        tell_changes(kWatched[i], *known_[i], std::move(now), out);
      } else {
        known_[i] = std::move(now.rows);
      }
    } catch (const Error& error) {
      if (error.code() != Code::kBusy && error.code() != Code::kUnsupported && error.code() != Code::kNotFound) throw;
    }
  }
  return out;
}

}  // namespace mhv::introspection
