// Open vSwitch, by its database (RFC 7047 on a unix socket).
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "net/switch.h"

namespace mhv::net {

// Cuts a stream of JSON objects, which nothing stands between, into objects.
class JsonStream {
 public:
  static constexpr std::size_t kObjectMax = 1u << 20;
  // Throws kInvalid when what came is no object or too long for one.
  void feed(std::string_view bytes);
  std::optional<std::string> next();  // whole; not otherwise checked

 private:
  std::string held_;
  std::size_t seen_ = 0;  // of held_
  int depth_ = 0;
  bool in_text_ = false;
  bool escaped_ = false;
};

// Connects for each call. Throws kUnavailable when the database or the switch does not answer.
//
// The userspace datapath reads a port through an AF_PACKET socket, which stays with the old device when another gets its name; it
// opens the port again when it has seen, in a configuration of its own, that there is none. A row that was deleted would lose
// what Neutron, OVN and the operator wrote into it, with nobody left to know it if this process ended between the two. So the row stays,
// and for one configuration its type is one that no switch knows.
class OpenVSwitch : public Switch {
 public:
  explicit OpenVSwitch(std::string socket_path) : path_(std::move(socket_path)) {}
  bool has_port(const std::string& name) override;
  void reopen(const std::string& name, int device) override;

 private:
  const std::string path_;
};

}  // namespace mhv::net
