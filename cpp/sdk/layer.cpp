#include "sdk/layer.h"

#include "sdk/engine.h"

namespace mhv::sdk {
namespace {

constexpr std::size_t kLogMax = 4096;

const char* name_of(Severity severity) {
  switch (severity) {
    case Severity::kInfo: return "info";
    case Severity::kWarning: return "warning";
    case Severity::kCritical: return "critical";
  }
  return "info";
}

const char* name_of(Action action) {
  switch (action) {
    case Action::kCheckpoint: return "checkpoint";
    case Action::kPause: return "pause";
    case Action::kHold: return "hold";
    case Action::kRelease: return "release";
    case Action::kRollback: return "rollback";
    case Action::kStop: return "stop";
  }
  return "";
}

std::string text_of(const Json& value) {
  std::string out = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (out.size() > ring::kTextMax) throw Error(Code::kInvalid, "what the layer says is too long", "say less");
  return out;
}

}  // namespace

Layer::Layer(std::string version) : version_(std::move(version)) {}
Layer::~Layer() = default;

void Layer::on_start(Guest&, const Json&) {}
void Layer::on_epoch(const Epoch&) {}
Decision Layer::on_packet(Packet&) { return Decision::kPass; }
void Layer::on_event(const Json&) {}
Json Layer::on_request(const std::string& method, const Json&) {
  throw Error(Code::kUnsupported, "this layer has no method \"" + method + "\"");
}
void Layer::on_stop() {}

Engine& Layer::engine() const {
  if (engine_ == nullptr) throw Error(Code::kInvalid, "the layer does not run", "wait for on_start()");
  return *engine_;
}

Guest& Layer::guest() const {
  engine();
  return *guest_;
}

void Layer::raise_alert(Severity severity, const std::string& title, const Json& detail) {
  engine().send_text(ring::Type::kAlert, 0, text_of({{"severity", name_of(severity)}, {"title", title}, {"detail", detail}}));
}

void Layer::send_event(const Json& event) {
  if (!event.is_object()) throw Error(Code::kInvalid, "an event is a JSON object");
  engine().send_text(ring::Type::kEvent, 0, text_of(event));
}

void Layer::ask(Action action, const std::string& reason, std::uint64_t before_ns) {
  engine().send_text(ring::Type::kAsk, 0, text_of({{"action", name_of(action)}, {"reason", reason}, {"before_ns", before_ns}}));
}

void Layer::log(std::string_view text) { engine().send_text(ring::Type::kLog, 0, text.substr(0, kLogMax)); }

void Layer::decide(std::uint64_t packet, Decision decision) {
  if (decision == Decision::kReplace) throw Error(Code::kInvalid, "a held packet is passed or dropped");
  const ring::Verdict verdict{packet, static_cast<std::uint32_t>(decision), 0};
  engine().send(ring::Type::kVerdict, 0, std::as_bytes(std::span(&verdict, 1)));
}

}  // namespace mhv::sdk
