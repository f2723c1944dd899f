#include "net/ovsdb.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "base/error.h"

namespace mhv::net {
namespace {

using Json = nlohmann::json;

constexpr int kAnswerMs = 10'000;
constexpr int kConfiguredMs = 5'000;
constexpr const char* kNoType = "mhv-reopens";
constexpr const char* kDevice = "mhv-device";  // in external_ids: which device was opened last, where it is not the guest's own

[[noreturn]] void throw_silent(const std::string& why) {
  throw Error(Code::kUnavailable, "Open vSwitch's database: " + why, "see that ovsdb-server and ovs-vswitchd run");
}

class Connection {
 public:
  // nullopt: nobody serves there.
  static std::optional<Connection> to(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) throw Error(Code::kInvalid, "socket path is too long: " + path);
    std::memcpy(address.sun_path, path.data(), path.size());
    Fd socket = Fd::own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) throw_errno("cannot create a socket");
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      if (errno == ENOENT || errno == ECONNREFUSED) return std::nullopt;
      throw_errno("cannot connect to " + path);
    }
    return Connection(std::move(socket));
  }

  // The results of `operations`, all carried out or none.
  Json transact(Json operations) {
    operations.insert(operations.begin(), "Open_vSwitch");
    const int id = ++last_;
    send({{"method", "transact"}, {"params", std::move(operations)}, {"id", id}});
    for (;;) {
      Json message = receive();
      if (message.value("method", "") == "echo") {
        send({{"result", message.value("params", Json::array())}, {"error", nullptr}, {"id", message.value("id", Json())}});
      } else if (message.contains("result") && message.value("id", Json()) == id) {
        return checked(message["result"]);
      }
    }
  }

 private:
  explicit Connection(Fd socket) : socket_(std::move(socket)) {}

  static Json checked(Json results) {
    if (!results.is_array()) throw_silent("it refused a transaction");
    for (const Json& result : results) {
      if (result.is_object() && result.contains("error")) {
        throw Error(Code::kInternal, fmt::format("Open vSwitch's database: {} {}", result.value("error", ""), result.value("details", "")));
      }
    }
    return results;
  }

  void send(const Json& message) {
    const std::string text = message.dump();
    write_all(socket_.get(), std::as_bytes(std::span(text)), "Open vSwitch's database");
  }

  Json receive() {
    for (;;) {
      if (const std::optional<std::string> text = stream_.next()) {
        Json message = Json::parse(*text, nullptr, false);
        if (!message.is_object()) throw_silent("it does not speak JSON");
        return message;
      }
      pollfd poll_for{socket_.get(), POLLIN, 0};
      const int ready = ::poll(&poll_for, 1, kAnswerMs);
      if (ready < 0 && errno == EINTR) continue;
      if (ready <= 0) throw_silent("no answer");
      std::array<char, 4096> part;
      const ssize_t n = ::read(socket_.get(), part.data(), part.size());
      if (n <= 0) throw_silent("it closed the connection");
      stream_.feed({part.data(), static_cast<std::size_t>(n)});
    }
  }

  Fd socket_;
  JsonStream stream_;
  int last_ = 0;
};

Json of_port(const std::string& name) { return Json::array({Json::array({"name", "==", name})}); }

struct Port {
  std::string type;
  std::string device;
  Json number = Json::array({"set", Json::array()});
  Json wanted_number = number;
};

std::optional<Port> look(Connection& db, const std::string& name) {
  const Json rows = db.transact(Json::array({{{"op", "select"},
                                              {"table", "Interface"},
                                              {"where", of_port(name)},
                                              {"columns", {"type", "external_ids", "ofport", "ofport_request"}}}}))
                        .at(0)
                        .at("rows");
  if (rows.empty()) return std::nullopt;
  Port port;
  port.type = rows[0].at("type").get<std::string>();
  port.number = rows[0].at("ofport");
  port.wanted_number = rows[0].at("ofport_request");
  for (const Json& pair : rows[0].at("external_ids").at(1)) {
    if (pair.at(0) == kDevice) port.device = pair.at(1).get<std::string>();
  }
  return port;
}

// As ovs-vsctl waits: the switch has taken over a configuration when cur_cfg has come up to its next_cfg.
void configure(Connection& db, const Json& change) {
  Json operations = change;
  operations.push_back({{"op", "mutate"}, {"table", "Open_vSwitch"}, {"where", Json::array()}, {"mutations", {{"next_cfg", "+=", 1}}}});
  const Json columns = {{"op", "select"}, {"table", "Open_vSwitch"}, {"where", Json::array()}, {"columns", {"next_cfg", "cur_cfg"}}};
  operations.push_back(columns);
  Json row = db.transact(operations).back().at("rows").at(0);
  const auto wanted = row.at("next_cfg").get<std::int64_t>();
  while (row.at("cur_cfg").get<std::int64_t>() < wanted) {
    const Json moved = {{"op", "wait"},
                        {"table", "Open_vSwitch"},
                        {"where", Json::array()},
                        {"columns", {"cur_cfg"}},
                        {"until", "!="},
                        {"rows", {{{"cur_cfg", row.at("cur_cfg")}}}},
                        {"timeout", kConfiguredMs}};
    row = db.transact(Json::array({moved, columns})).back().at("rows").at(0);
  }
}

Json update(const std::string& name, Json row) {
  return {{"op", "update"}, {"table", "Interface"}, {"where", of_port(name)}, {"row", std::move(row)}};
}

Json note_device(const std::string& name, const std::string& device) {
  Json mutations = Json::array();
  mutations.push_back(Json::array({"external_ids", "delete", Json::array({"set", Json::array({kDevice})})}));
  if (!device.empty()) {
    mutations.push_back(Json::array({"external_ids", "insert", Json::array({"map", Json::array({Json::array({kDevice, device})})})}));
  }
  return {{"op", "mutate"}, {"table", "Interface"}, {"where", of_port(name)}, {"mutations", mutations}};
}

void close_and_open(Connection& db, const std::string& name, const Port& port, const std::string& device) {
  // It gets the number again that flows name it by.
  const bool numbered = port.number.is_number_integer() && port.number.get<int>() > 0;
  const bool number_it = numbered && !port.wanted_number.is_number();
  Json closed = {{"type", kNoType}};
  if (number_it) closed["ofport_request"] = port.number;
  configure(db, Json::array({update(name, closed)}));
  configure(db, Json::array({update(name, {{"type", ""}}), note_device(name, device)}));
  if (number_it) configure(db, Json::array({update(name, {{"ofport_request", port.wanted_number}})}));
}

}  // namespace

void JsonStream::feed(std::string_view bytes) {
  held_ += bytes;
  if (held_.size() > kObjectMax) throw Error(Code::kInvalid, "a JSON object is too long");
}

std::optional<std::string> JsonStream::next() {
  for (; seen_ < held_.size(); ++seen_) {
    const char c = held_[seen_];
    if (in_text_) {
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == '"') {
        in_text_ = false;
      }
    } else if (c == '{') {
      ++depth_;
    } else if (depth_ == 0) {
      if (c != ' ' && c != '\n' && c != '\r' && c != '\t') throw Error(Code::kInvalid, "not a JSON object");
    } else if (c == '"') {
      in_text_ = true;
    } else if (c == '}' && --depth_ == 0) {
      std::string object = held_.substr(0, seen_ + 1);
      held_.erase(0, seen_ + 1);
      seen_ = 0;
      return object;
    }
  }
  return std::nullopt;
}

bool OpenVSwitch::has_port(const std::string& name) {
  std::optional<Connection> db = Connection::to(path_);
  return db && look(*db, name).has_value();
}

void OpenVSwitch::reopen(const std::string& name, int device) {
  std::optional<Connection> db = Connection::to(path_);
  if (!db) return;
  const std::string wanted = device == 0 ? std::string() : std::to_string(device);
  try {
    const std::optional<Port> port = look(*db, name);
    if (!port || (port->type.empty() && port->device == wanted)) return;
    if (!port->type.empty() && port->type != "system" && port->type != kNoType) {
      throw Error(Code::kUnsupported, fmt::format("port {} of Open vSwitch is of type {}", name, port->type), "a guest's tap has none");
    }
    close_and_open(*db, name, *port, wanted);
  } catch (const Json::exception& e) {
    throw_silent(std::string("an answer has another form: ") + e.what());
  }
}

}  // namespace mhv::net
