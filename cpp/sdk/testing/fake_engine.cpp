// Starts a layer and talks to it by lines of JSON: usage: mhv_fake_engine PROGRAM [ARGUMENTS...].
//
//   standard input   {"write": [ADDRESS, "hex"]}, {"hello": {members that differ}}, {"epoch": [NUMBER, [[START, BYTES]...]]},
//                    {"packet": [NUMBER, "hex"]}, {"event": {...}}, {"request": {"method", "arguments"}}; its end says kStop
//   standard output  {"type": N, "json": ... or "bytes": "hex"} for each message of the layer, and {"exit": STATUS}
#include "sdk/testing/fake_engine.h"

#include <fmt/format.h>

#include <iostream>
#include <thread>

namespace {

using mhv::ring::Type;
using mhv::sdk::testing::FakeEngine;
using mhv::sdk::testing::Json;

std::vector<std::byte> unhex(const std::string& text) {
  std::vector<std::byte> out;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) out.push_back(static_cast<std::byte>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return out;
}

std::string hex(const std::vector<std::byte>& bytes) {
  std::string out;
  for (const std::byte b : bytes) out += fmt::format("{:02x}", static_cast<unsigned>(b));
  return out;
}

void carry_out(FakeEngine& engine, const Json& line) {
  if (line.contains("write")) {
    mhv::pwrite_all(engine.memory().get(), unhex(line["write"][1]), line["write"][0], "memory");
  } else if (line.contains("hello")) {
    Json hello = engine.hello();
    hello.update(line["hello"]);
    engine.say(Type::kHello, 0, hello);
  } else if (line.contains("epoch")) {
    std::vector<mhv::ring::PageRange> written;
    for (const Json& range : line["epoch"][1]) written.push_back({range[0], range[1]});
    mhv::ring::Vcpu vcpu;
    vcpu.cr3 = 0x1000;
    engine.epoch(line["epoch"][0], {&vcpu, 1}, written);
  } else if (line.contains("packet")) {
    engine.packet(line["packet"][0], unhex(line["packet"][1]));
  } else if (line.contains("event")) {
    engine.say(Type::kEvent, 0, line["event"]);
  } else if (line.contains("request")) {
    engine.say(Type::kRequest, 7, line["request"]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  FakeEngine engine;
  const pid_t child = engine.start({argv + 1, argv + argc});
  std::jthread reader([&] {
    mhv::ring::TextParts parts;
    try {
      for (;;) {
        const auto message = engine.next();
        const auto text = parts.add(message);
        if (!text) continue;
        Json out{{"type", static_cast<int>(message.type)}};
        if (message.type == Type::kEpochDone || message.type == Type::kVerdict) {
          out["bytes"] = hex(message.payload);
        } else if (message.type == Type::kLog) {
          out["json"] = *text;
        } else {
          out["json"] = Json::parse(*text);
        }
        std::cout << out.dump() + "\n" << std::flush;
      }
    } catch (const mhv::Error&) {  // it ended
    }
  });
  for (std::string line; std::getline(std::cin, line);) carry_out(engine, Json::parse(line));
  engine.say_bytes(Type::kStop, 0, {});
  const int status = mhv::sdk::testing::status_of(child);
  reader.join();
  std::cout << Json{{"exit", status}}.dump() << "\n";
}
