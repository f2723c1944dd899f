#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

#include "base/code_of_test.h"
#include "base/temp_folder_test.h"
#include "base/units.h"
#include "introspection/test_kernel.h"
#include "sdk/runtime.h"
#include "sdk/testing/fake_engine.h"

namespace mhv::sdk {
namespace {

using ring::Type;
using testing::FakeEngine;

// Does what a test says.
class TestLayer : public Layer {
 public:
  TestLayer() : Layer("7") {}
  void on_start(Guest& guest, const Json& configuration) override { start ? start(guest, configuration) : void(); }
  void on_epoch(const Epoch& at) override { epoch ? epoch(at) : void(); }
  Decision on_packet(Packet& at) override { return packet ? packet(at) : Layer::on_packet(at); }
  void on_event(const Json& at) override { event ? event(at) : void(); }
  Json on_request(const std::string& method, const Json& arguments) override {
    return request ? request(method, arguments) : Layer::on_request(method, arguments);
  }
  void on_stop() override { ++stops; }

  std::function<void(Guest&, const Json&)> start;
  std::function<void(const Epoch&)> epoch;
  std::function<Decision(Packet&)> packet;
  std::function<void(const Json&)> event;
  std::function<Json(const std::string&, const Json&)> request;
  int stops = 0;
};

// A layer on a thread of its own. The test is the engine.
class SdkTest : public ::testing::Test {
 protected:
  ~SdkTest() override { end(); }

  void begin(const Json& more = Json::object()) {
    thread_ = std::thread([this] {
      try {
        const auto open = [this](int number) {
          opened.push_back(number);
          return std::make_shared<const MemoryFile>(engine->memory().duplicate());
        };
        Runtime(layer, engine->take_layer_ends(), open).run();
      } catch (const Error& error) {
        thrown = error.code();
      }
    });
    Json hello = engine->hello();
    hello.update(more);
    engine->say(Type::kHello, 0, hello);
    if (hello["abi"] == ring::kAbi) {
      EXPECT_EQ(engine->json(Type::kReady), (Json{{"abi", ring::kAbi}, {"name", "tested"}, {"version", "7"}}));
    }
  }
  void end() {
    if (!thread_.joinable()) return;
    engine->say_bytes(Type::kStop, 0, {});
    thread_.join();
  }

  TestLayer layer;
  std::unique_ptr<FakeEngine> engine = std::make_unique<FakeEngine>();
  std::vector<int> opened;
  std::optional<Code> thrown;

 private:
  std::thread thread_;
};

TEST_F(SdkTest, StartsWithItsConfigurationAndStops) {
  layer.start = [&](Guest& guest, const Json& configuration) {
    EXPECT_EQ(configuration, (Json{{"a", 1}}));
    EXPECT_EQ(guest.uuid(), "00000000-0000-4000-8000-000000000001");
    EXPECT_EQ(guest.name(), "test");
    ASSERT_EQ(guest.ranges().size(), 1u);
    EXPECT_EQ(guest.ranges()[0].bytes, FakeEngine::kRam);
    EXPECT_EQ(&layer.guest(), &guest);
  };
  EXPECT_EQ(code_of([&] { layer.log("too early"); }), Code::kInvalid);
  begin({{"configuration", {{"a", 1}}}});
  EXPECT_EQ(opened, std::vector<int>{6});
  end();
  EXPECT_EQ(layer.stops, 1);
  EXPECT_FALSE(thrown);
  EXPECT_EQ(code_of([&] { layer.guest(); }), Code::kInvalid);
}

TEST_F(SdkTest, StopsWhenTheEngineEnds) {
  begin();
  engine.reset(new FakeEngine);  // the channel of the other is gone with it
  end();
  EXPECT_EQ(layer.stops, 1);
  EXPECT_FALSE(thrown);
}

TEST_F(SdkTest, RefusesAnEngineOfAnotherAbiAndSaysItsOwn) {
  begin({{"abi", ring::kAbi + 1}});
  EXPECT_EQ(engine->json(Type::kReady)["abi"], ring::kAbi);
  end();
  EXPECT_EQ(thrown, Code::kVersion);
}

TEST_F(SdkTest, WhatOnStartThrowsEndsIt) {
  layer.start = [](Guest&, const Json&) { throw Error(Code::kInvalid, "no"); };
  engine->say(Type::kHello, 0, engine->hello());
  EXPECT_EQ(code_of([&] { Runtime(layer, engine->take_layer_ends(), [](int) { return nullptr; }).run(); }), Code::kInvalid);
}

TEST_F(SdkTest, HearsOfEpochs) {
  std::vector<ring::Vcpu> vcpus(2);
  vcpus[1].cr3 = 0x1234000;
  const std::vector<ring::PageRange> written{{0x1000, 0x2000}, {0x200000, 0x1000}};
  int calls = 0;
  layer.epoch = [&](const Epoch& at) {
    if (++calls == 2) throw std::runtime_error("second");
    EXPECT_EQ(at.number, 5u);
    EXPECT_EQ(at.vcpus.size(), 2u);
    EXPECT_EQ(at.vcpus[1].cr3, 0x1234000u);
    EXPECT_EQ(at.written.size(), 2u);
    EXPECT_EQ(at.written[1].start, 0x200000u);
    EXPECT_FALSE(at.written_all);
    EXPECT_EQ(layer.guest().vcpus().size(), 2u);
    EXPECT_EQ(layer.guest().written().size(), 2u);
  };
  begin();
  engine->epoch(5, vcpus, written);
  EXPECT_EQ(engine->epoch_done(), 5u);
  engine->epoch(6, {}, {}, true);
  EXPECT_EQ(engine->text(Type::kLog), "on_epoch: second");
  EXPECT_EQ(engine->epoch_done(), 6u);
  EXPECT_TRUE(layer.guest().written_all());
}

TEST_F(SdkTest, AnswersRequests) {
  layer.request = [](const std::string& method, const Json& arguments) -> Json {
    if (method == "ours") throw Error(Code::kBusy, "not now", "later");
    if (method == "any") throw std::runtime_error("oops");
    if (method == "bytes") return "\xff\xfe";
    if (method == "long") return std::string(ring::kTextMax, 'x');
    if (method == "parts") return std::string(ring::kPayloadMax * 2, 'x');
    return {{"got", arguments}};
  };
  begin();
  EXPECT_EQ(engine->answer("echo", {{"x", 1}}), (Json{{"result", {{"got", {{"x", 1}}}}}}));
  EXPECT_EQ(engine->answer("ours"), (Json{{"error", {{"code", "busy"}, {"message", "not now"}, {"hint", "later"}}}}));
  EXPECT_EQ(engine->answer("any")["error"]["code"], "internal");
  EXPECT_TRUE(engine->answer("bytes").contains("result"));
  EXPECT_EQ(engine->answer("parts")["result"].get<std::string>().size(), ring::kPayloadMax * 2);
  EXPECT_EQ(engine->answer("long"),
            (Json{{"error", {{"code", "invalid"}, {"message", "the answer is too long"}, {"hint", "ask for less"}}}}));
  for (const std::string& text : {std::string("{"), std::string("[]"), std::string("{\"method\": 5}"),
                                  R"({"method": "echo", "arguments": )" + std::string(1000, '[') + std::string(1000, ']') + "}"}) {
    engine->say_text(Type::kRequest, 9, text);
    EXPECT_TRUE(engine->json(Type::kAnswer).contains("error")) << text.substr(0, 20);
  }
  layer.request = nullptr;
  EXPECT_EQ(engine->answer("any")["error"]["code"], "unsupported");
}

TEST_F(SdkTest, DecidesPackets) {
  layer.packet = [&](Packet& at) -> Decision {
    EXPECT_EQ(at.bytes.size(), 60u);
    if (at.number == 3) {
      at.replacement = {std::byte{1}, std::byte{2}};
      return Decision::kReplace;
    }
    if (at.number == 4) throw std::runtime_error("lost");
    at.replacement = {std::byte{9}};  // of no use with these
    return at.number == 1 ? Decision::kDrop : Decision::kHold;
  };
  begin();
  const std::vector<std::byte> frame(60);
  const auto verdict = [&](std::uint64_t number) {
    engine->packet(number, frame);
    if (number == 4) {
      EXPECT_EQ(engine->text(Type::kLog), "on_packet: lost");
    }
    const ring::Message message = engine->next();
    ring::Verdict out;
    EXPECT_EQ(message.type, Type::kVerdict);
    std::memcpy(&out, message.payload.data(), sizeof out);
    EXPECT_EQ(out.number, number);
    EXPECT_EQ(message.payload.size(), sizeof out + out.bytes);
    return std::pair(static_cast<Decision>(out.decision), out.bytes);
  };
  EXPECT_EQ(verdict(1), std::pair(Decision::kDrop, 0u));
  EXPECT_EQ(verdict(2), std::pair(Decision::kHold, 0u));
  EXPECT_EQ(verdict(3), std::pair(Decision::kReplace, 2u));
  EXPECT_EQ(verdict(4), std::pair(Decision::kPass, 0u));
  layer.event = [&](const Json&) { layer.decide(2, Decision::kPass); };
  engine->say(Type::kEvent, 0, Json::object());
  EXPECT_EQ(engine->text(Type::kVerdict).size(), sizeof(ring::Verdict));
}

TEST_F(SdkTest, SpeaksUp) {
  layer.event = [&](const Json& event) {
    EXPECT_EQ(event["kind"], "x");
    layer.raise_alert(Severity::kCritical, "title", {{"why", "so"}});
    layer.send_event({{"kind", "y"}});
    layer.ask(Action::kRollback, "reason");
    layer.log(std::string(10'000, 'l'));
    EXPECT_EQ(code_of([&] { layer.send_event(5); }), Code::kInvalid);
    EXPECT_EQ(code_of([&] { layer.raise_alert(Severity::kInfo, std::string(ring::kTextMax, 't')); }), Code::kInvalid);
  };
  begin();
  engine->say_bytes(static_cast<Type>(63), 1, {});  // of a newer engine
  engine->say_bytes(static_cast<Type>(9999), 1, std::vector<std::byte>(100));
  engine->say_text(Type::kEvent, 0, "no JSON");
  EXPECT_THAT(engine->text(Type::kLog), ::testing::StartsWith("on_event: "));
  engine->say(Type::kEvent, 0, {{"kind", "x"}});
  EXPECT_EQ(engine->json(Type::kAlert), (Json{{"severity", "critical"}, {"title", "title"}, {"detail", {{"why", "so"}}}}));
  EXPECT_EQ(engine->json(Type::kEvent), (Json{{"kind", "y"}}));
  EXPECT_EQ(engine->json(Type::kAsk), (Json{{"action", "rollback"}, {"reason", "reason"}, {"before_ns", 0}}));
  EXPECT_EQ(engine->text(Type::kLog).size(), 4096u);
}

TEST_F(SdkTest, AnEngineThatContradictsItselfIsLeft) {
  begin();
  const ring::Epoch epoch{1, 0, 0, 1000, 0, 0};
  engine->say_bytes(Type::kEpoch, 1, testing::bytes_of(epoch));
  end();
  EXPECT_EQ(thrown, Code::kCorrupt);
}

std::vector<std::byte> pattern(std::size_t bytes) {
  std::vector<std::byte> out(bytes);
  for (std::size_t i = 0; i < bytes; ++i) out[i] = static_cast<std::byte>(i * 7 + i / 251);
  return out;
}

TEST_F(SdkTest, ReadsMemoryAndAllocatesNoneOfIt) {
  const auto content = pattern(300'000);
  pwrite_all(engine->memory().get(), content, 0x10'0000, "memory");
  struct stat before {
  }, after{};
  ::fstat(engine->memory().get(), &before);
  // Two blocks of one file, the second one at another place in it, beside the first.
  const Json memory{{{"start", 0x2000'0000}, {"bytes", 0x10'0000}, {"descriptor", 6}, {"offset", 0x10'0000}},
                    {{"start", 0x1000'0000}, {"bytes", 0x1000'0000}, {"descriptor", 6}, {"offset", 0x20'0000}}};
  layer.start = [&](Guest& guest, const Json&) {
    std::vector<std::byte> out(content.size());
    ASSERT_TRUE(guest.read({0x2000'0000}, out));
    EXPECT_EQ(out, content);
    ASSERT_TRUE(guest.read({0x1fff'fff0}, std::span(out).first(32)));  // across both; the first one's end is a hole
    EXPECT_EQ(out[15], std::byte{0});
    EXPECT_TRUE(std::equal(content.begin(), content.begin() + 16, out.begin() + 16));
    out.assign(out.size(), std::byte{1});
    ASSERT_TRUE(guest.read({0x1000'0000}, out));
    EXPECT_EQ(out, std::vector<std::byte>(out.size()));
    EXPECT_FALSE(guest.read({0x2010'0000 - 8}, std::span(out).first(16)));
    EXPECT_FALSE(guest.read({0xfff'fff0}, std::span(out).first(32)));
    EXPECT_FALSE(guest.read({~std::uint64_t{0} - 7}, std::span(out).first(16)));
    EXPECT_FALSE(guest.read({0}, std::span(out).first(1)));
    EXPECT_TRUE(guest.read({0}, {}));
  };
  // The file is 64 MiB: most of the second block is behind its end.
  ASSERT_EQ(::ftruncate(engine->memory().get(), 0x1020'0000), 0);
  begin({{"memory", memory}});
  EXPECT_EQ(opened, std::vector<int>{6});
  ::fstat(engine->memory().get(), &after);
  EXPECT_EQ(after.st_blocks, before.st_blocks);
  EXPECT_EQ(engine->reads, 0);
}

TEST_F(SdkTest, AsksTheEngineForMemoryAndKeepsWhatComesMeanwhile) {
  const auto content = pattern(200'000);
  pwrite_all(engine->memory().get(), content, 0x30'0000, "memory");
  std::vector<int> events;
  layer.event = [&](const Json& event) { events.push_back(event["n"]); };
  layer.request = [&](const std::string&, const Json&) -> Json {
    std::vector<std::byte> out(content.size());
    const bool all = layer.guest().read({0x30'0000}, out);
    return {{"same", all && out == content}, {"beyond", layer.guest().read({FakeEngine::kRam - 8}, std::span(out).first(16))}};
  };
  begin({{"memory", {{{"start", 0}, {"bytes", FakeEngine::kRam + 4096}, {"descriptor", -1}}}}});
  engine->before_bytes = [&] {
    engine->say(Type::kEvent, 0, {{"n", 1}});
    engine->say_bytes(Type::kBytes, 999, pattern(70));  // of no read
    engine->say(Type::kEvent, 0, {{"n", 2}});
    engine->epoch(9, {}, {});
  };
  EXPECT_EQ(engine->answer("read"), (Json{{"result", {{"same", true}, {"beyond", false}}}}));
  EXPECT_EQ(engine->epoch_done(), 9u);
  EXPECT_EQ(events, (std::vector<int>{1, 2}));
  EXPECT_EQ(engine->reads, 5);
}

TEST_F(SdkTest, NeedsProcessorsToFindAKernel) {
  layer.request = [&](const std::string&, const Json&) -> Json { return layer.guest().kernel().banner(); };
  begin();
  EXPECT_EQ(engine->answer("kernel")["error"]["code"], "unsupported");
  engine->epoch(1, std::vector<ring::Vcpu>(1), {});
  EXPECT_EQ(engine->epoch_done(), 1u);
  EXPECT_EQ(engine->answer("kernel")["error"]["code"], "unsupported");  // nothing but zeros
}

// A kernel made by hand, in the guest's memory.
TEST_F(SdkTest, FindsTheKernelItsProcessesAndItsNextOne) {
  introspection::testing::TestKernel made;
  made.add_task("init", 1, 0, made.add_memory(std::string_view("/sbin/init\0", 11)));
  made.add_task("kworker", 17, 0);
  made.write_symbols();
  const auto put = [&] {
    std::vector<std::byte> all(made.memory.ranges()[0].bytes);
    made.memory.read({0}, all);
    pwrite_all(engine->memory().get(), all, 0, "memory");
  };
  put();
  layer.request = [&](const std::string& method, const Json& arguments) -> Json {
    if (method == "banner") return layer.guest().kernel().banner();
    std::array<std::byte, 5> out{};
    const bool all = layer.guest().process(arguments["pid"]).read({0x7ffd'0000'0010}, out);
    return all ? Json(std::string(reinterpret_cast<const char*>(out.data()), out.size())) : Json();
  };
  begin();
  std::vector<ring::Vcpu> vcpus(1);
  vcpus[0].cr3 = made.paging().cr3;
  engine->epoch(1, vcpus, {});
  EXPECT_EQ(engine->epoch_done(), 1u);
  EXPECT_EQ(engine->answer("banner"), (Json{{"result", "Linux version 6.1.0-test (gcc) #1 SMP"}}));
  EXPECT_EQ(engine->answer("read", {{"pid", 1}}), (Json{{"result", "/sbin"}}));
  EXPECT_EQ(engine->answer("read", {{"pid", 17}})["error"]["code"], "not-found");
  EXPECT_EQ(engine->answer("read", {{"pid", 99}})["error"]["code"], "not-found");
  const std::string next = "Linux version 6.9.9-next (gcc) #1 SMP\n";  // a reboot
  made.memory.put_bytes(made.phys(made.symbol("Rlinux_banner")), std::as_bytes(std::span(next.c_str(), next.size() + 1)));
  put();
  EXPECT_EQ(engine->answer("banner"), (Json{{"result", "Linux version 6.9.9-next (gcc) #1 SMP"}}));
}

class TakesFiles : public Layer {
  void on_start(Guest& guest, const Json&) override {
    std::array<std::byte, 4> out{};
    if (!guest.read({0x5000}, out) || out[3] != std::byte{42}) throw Error(Code::kNotFound, "not there");
    if (guest.read({FakeEngine::kRam}, out)) throw Error(Code::kInternal, "behind its end");
  }
};

// The files of a service VM's devices.
TEST(Run, TakesFilesAndPolls) {
  FakeEngine engine(true);
  const ring::Ends ends = engine.take_layer_ends();
  const auto path_of = [](const Fd& fd) { return "/proc/self/fd/" + std::to_string(fd.get()); };
  const Fd first = Fd::memory("first"), second = Fd::memory("second");
  const std::byte value{42};
  pwrite_all(first.get(), {&value, 1}, 0x5001, "memory");  // its last byte: a read goes on in the other
  pwrite_all(second.get(), {&value, 1}, 1, "memory");
  ASSERT_EQ(::ftruncate(second.get(), FakeEngine::kRam - 0x5002), 0);
  std::vector<std::string> command{"layer", "--channel", path_of(ends.memory), "--memory", path_of(first) + "+" + path_of(second)};
  std::vector<char*> arguments;
  for (std::string& one : command) arguments.push_back(one.data());
  int status = -1;
  std::thread thread([&] {
    TakesFiles layer;
    status = run(layer, static_cast<int>(arguments.size()), arguments.data());
  });
  engine.say(Type::kHello, 0, engine.hello());
  EXPECT_EQ(engine.json(Type::kReady)["name"], "tested");
  engine.epoch(1, {}, {});
  EXPECT_EQ(engine.epoch_done(), 1u);
  engine.say_bytes(Type::kStop, 0, {});
  thread.join();
  EXPECT_EQ(status, 0);
}

TEST(Run, SaysWhatIsWrong) {
  TakesFiles layer;
  std::string program = "layer", wrong = "--what", channel = "--channel", path = "/nonexistent/resource2";
  std::array<char*, 3> arguments{program.data(), wrong.data(), nullptr};
  EXPECT_EQ(run(layer, 2, arguments.data()), 2);
  arguments = {program.data(), channel.data(), path.data()};
  EXPECT_EQ(run(layer, 3, arguments.data()), 10 + static_cast<int>(Code::kNotFound));
}

TEST(Run, AProgramThatTheEngineStarted) {
  FakeEngine engine;
  const pid_t child = engine.start({MHV_HEATMAP});
  Json hello = engine.hello();
  hello["configuration"] = {{"event_every", 40}};
  engine.say(Type::kHello, 0, hello);
  EXPECT_EQ(engine.json(Type::kReady)["version"], "0");
  constexpr std::uint64_t kRegion = 2 << 20;
  for (std::uint64_t n = 1; n <= 40; ++n) {
    const std::array<ring::PageRange, 2> written{ring::PageRange{3 * kRegion + 4096, 4096},
                                                 ring::PageRange{(n % 2 != 0 ? 8 : 9) * kRegion - 4096, 8192}};
    engine.epoch(n, {}, written);
    if (n == 40) {
      const Json event = engine.json(Type::kEvent);
      EXPECT_EQ(event["kind"], "heat");
      EXPECT_EQ(event["hottest"][0]["start"], 3 * kRegion);
    }
    EXPECT_EQ(engine.epoch_done(), n);
  }
  const Json heat = engine.answer("heat", {{"limit", 3}})["result"];
  ASSERT_EQ(heat.size(), 3u);
  EXPECT_EQ(heat[0]["start"], 3 * kRegion);
  EXPECT_NEAR(heat[0]["heat"], 9.85, 0.01);  // sum of 0.9^n for 40 epochs
  EXPECT_EQ(heat[1]["start"], 8 * kRegion);  // written across its border in both kinds of epochs
  EXPECT_EQ(heat[2]["start"], 9 * kRegion);
  EXPECT_EQ(engine.answer("cold")["error"]["code"], "unsupported");
  engine.say_bytes(Type::kStop, 0, {});
  EXPECT_EQ(testing::status_of(child), 0);
}

}  // namespace
}  // namespace mhv::sdk
