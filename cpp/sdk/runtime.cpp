#include "sdk/runtime.h"

#include <algorithm>
#include <cstring>
#include <map>

namespace mhv::sdk {
namespace {

constexpr int kDepthMax = 64;

Json parse(const std::string& text) {
  const auto shallow = [](int depth, Json::parse_event_t, Json&) {
    if (depth > kDepthMax) throw Error(Code::kInvalid, "JSON that is too deep");
    return true;
  };
  try {
    return Json::parse(text, shallow);
  } catch (const Json::exception& error) {
    throw Error(Code::kInvalid, error.what());
  }
}

// A guest's names are any bytes; what is no UTF-8 is replaced.
std::string dump(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

// The structure at the front of a message, and what is behind it.
template <typename T>
T front(const ring::Message& message, std::span<const std::byte>& rest) {
  T out;
  if (message.payload.size() < sizeof out) throw Error(Code::kCorrupt, "the engine sent a message that is too short");
  std::memcpy(&out, message.payload.data(), sizeof out);
  rest = std::span(message.payload).subspan(sizeof out);
  return out;
}

template <typename T>
std::vector<T> take(std::span<const std::byte>& rest, std::size_t count) {
  if (rest.size() / sizeof(T) < count) throw Error(Code::kCorrupt, "the engine sent a message that is too short");
  std::vector<T> out(count);
  if (count != 0) std::memcpy(out.data(), rest.data(), count * sizeof(T));
  rest = rest.subspan(count * sizeof(T));
  return out;
}

Json error_json(Code code, const std::string& message, const std::string& hint) {
  return {{"error", {{"code", code_name(code)}, {"message", message}, {"hint", hint}}}};
}

}  // namespace

Runtime::Runtime(Layer& layer, ring::Ends ends, OpenMemory open_memory)
    : layer_(layer), engine_(std::move(ends)), open_memory_(std::move(open_memory)) {}

Runtime::~Runtime() {
  layer_.engine_ = nullptr;
  layer_.guest_ = nullptr;
}

void Runtime::run() {
  std::optional<std::string> hello;
  while (!hello) {
    const ring::Message message = engine_.next();
    if (message.type == ring::Type::kHello) hello = parts_.add(message);
  }
  try {
    start(parse(*hello));
    for (;;) {
      const ring::Message message = engine_.next();
      if (message.type == ring::Type::kStop) break;
      serve(message);
    }
  } catch (const Error& error) {
    if (error.code() != Code::kGone) throw;
  }
  try {
    layer_.on_stop();
  } catch (const std::exception& error) {
    note("on_stop", error);
  }
}

void Runtime::start(const Json& hello) {
  const auto ready = [&] {
    engine_.send_text(ring::Type::kReady, 0,
                      dump({{"abi", ring::kAbi}, {"name", hello.value("layer", "")}, {"version", layer_.version()}}));
  };
  if (!hello.is_object() || hello.value("abi", Json()) != ring::kAbi) {
    ready();  // so that the engine can say it, too
    throw Error(Code::kVersion,
                "the engine has ABI " + hello.value("abi", Json()).dump() + ", this layer was built for " + std::to_string(ring::kAbi),
                "build it with the engine's SDK");
  }
  std::map<int, std::shared_ptr<const MemoryFile>> files;  // several blocks may be in one
  std::vector<Guest::Block> blocks;
  for (const Json& block : hello.value("memory", Json::array())) {
    Guest::Block& out = blocks.emplace_back();
    out.range = {{block.at("start").get<std::uint64_t>()}, block.at("bytes").get<std::uint64_t>()};
    const int number = block.value("descriptor", -1);
    if (number < 0) continue;
    if (!files.contains(number)) files[number] = open_memory_(number);
    out.file = files[number];
    out.offset = block.value("offset", std::uint64_t{0});
  }
  guest_.emplace(hello.value("guest", ""), hello.value("name", ""), std::move(blocks), engine_);
  layer_.engine_ = &engine_;
  layer_.guest_ = &*guest_;
  layer_.on_start(*guest_, hello.value("configuration", Json::object()));
  ready();
}

void Runtime::serve(const ring::Message& message) {
  switch (message.type) {
    case ring::Type::kEpoch: epoch(message); break;
    case ring::Type::kPacket: packet(message); break;
    case ring::Type::kEvent: event(message); break;
    case ring::Type::kRequest: request(message); break;
    default: break;  // of a newer engine
  }
}

void Runtime::epoch(const ring::Message& message) {
  std::span<const std::byte> rest;
  const auto said = front<ring::Epoch>(message, rest);
  guest_->vcpus_ = take<ring::Vcpu>(rest, said.vcpus);
  guest_->written_ = take<ring::PageRange>(rest, said.written);
  guest_->written_all_ = said.written_all != 0;
  try {
    layer_.on_epoch({said.number, said.time_ns, said.paused != 0, guest_->vcpus_, guest_->written_, guest_->written_all_});
  } catch (const std::exception& error) {
    note("on_epoch", error);
  }
  engine_.send(ring::Type::kEpochDone, message.id, std::as_bytes(std::span(&said.number, 1)));
}

void Runtime::packet(const ring::Message& message) {
  std::span<const std::byte> rest;
  const auto said = front<ring::Packet>(message, rest);
  Packet packet{
      said.number, said.nic, static_cast<Direction>(said.direction), rest.first(std::min<std::size_t>(rest.size(), said.bytes)), {}};
  Decision decision = Decision::kPass;
  try {
    decision = layer_.on_packet(packet);
  } catch (const std::exception& error) {
    note("on_packet", error);
  }
  if (decision != Decision::kReplace) packet.replacement.clear();
  ring::Verdict verdict{said.number, static_cast<std::uint32_t>(decision), static_cast<std::uint32_t>(packet.replacement.size())};
  std::vector<std::byte> payload(sizeof verdict);
  std::memcpy(payload.data(), &verdict, sizeof verdict);
  payload.insert(payload.end(), packet.replacement.begin(), packet.replacement.end());
  engine_.send(ring::Type::kVerdict, message.id, payload);
}

void Runtime::event(const ring::Message& message) {
  const auto text = parts_.add(message);
  if (!text) return;
  try {
    layer_.on_event(parse(*text));
  } catch (const std::exception& error) {
    note("on_event", error);
  }
}

void Runtime::request(const ring::Message& message) {
  const auto text = parts_.add(message);
  if (!text) return;
  std::string answer;
  try {
    const Json asked = parse(*text);
    if (!asked.is_object()) throw Error(Code::kInvalid, "a request that is no JSON object");
    answer = dump({{"result", layer_.on_request(asked.value("method", ""), asked.value("arguments", Json::object()))}});
    if (answer.size() > ring::kTextMax) throw Error(Code::kInvalid, "the answer is too long", "ask for less");
  } catch (const Error& error) {
    answer = dump(error_json(error.code(), error.what(), error.hint()));
  } catch (const std::exception& error) {
    answer = dump(error_json(Code::kInternal, error.what(), ""));
  }
  engine_.send_text(ring::Type::kAnswer, message.id, answer);
}

// The engine's end is none of the handler's errors: it is met again by whoever waits next.
void Runtime::note(const char* where, const std::exception& error) {
  if (const auto* ours = dynamic_cast<const Error*>(&error); ours != nullptr && ours->code() == Code::kGone) return;
  layer_.log(std::string(where) + ": " + error.what());
}

}  // namespace mhv::sdk
