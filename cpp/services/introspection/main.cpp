// The layer "introspection": what a guest's kernel knows, read from its memory.
#include <fmt/format.h>

#include <map>
#include <tuple>

#include "base/error.h"
#include "introspection/answers.h"
#include "introspection/processes.h"
#include "sdk/layer.h"

namespace {

using namespace mhv;

class Introspection : public sdk::Layer {
 public:
  Introspection() : Layer(MHV_VERSION) {}

  sdk::Json on_request(const std::string& method, const sdk::Json& arguments) override {
    if (method == "symbol") return symbol(arguments);
    if (method == "layout") return layout(arguments);
    return introspection::answer(guest().kernel(), method, arguments);
  }

  // Who was not there at the last epoch, and who is no more. What lived between two epochs alone is not seen.
  void on_epoch(const sdk::Epoch&) override {
    std::map<Identity, std::string> now;
    try {
      for (const introspection::Process& process : introspection::Processes(guest().kernel()).list()) {
        now[{process.pid, process.task.value}] = process.name;
      }
    } catch (const Error&) {
      return;  // no Linux so far, or it changes too fast: a later epoch has it
    }
    for (const auto& [who, name] : now) {
      if (known_ && !processes_.contains(who)) tell("process_start", who, name);
    }
    for (const auto& [who, name] : processes_) {
      if (!now.contains(who)) tell("process_exit", who, name);
    }
    processes_ = std::move(now);
    known_ = true;
  }

 private:
  static std::string text_in(const sdk::Json& arguments, const char* key) {
    if (!arguments.contains(key) || !arguments[key].is_string()) throw Error(Code::kInvalid, std::string("give \"") + key + "\", a text");
    return arguments[key].get<std::string>();
  }

  // {"name"}: where the kernel has it, and where in RAM, while it is mapped.
  sdk::Json symbol(const sdk::Json& arguments) {
    const introspection::Kernel& kernel = guest().kernel();
    const introspection::GuestVirt at = kernel.symbol(text_in(arguments, "name"));
    sdk::Json out{{"name", arguments["name"]}, {"address", fmt::format("{:#x}", at.value)}};
    if (const auto mapping = kernel.space().translate(at)) out["physical"] = fmt::format("{:#x}", mapping->at.value);
    return out;
  }

  // {"structure", "member"}: the offset of a member of one of the kernel's structures.
  sdk::Json layout(const sdk::Json& arguments) {
    return {{"offset", guest().kernel().offset(text_in(arguments, "structure"), text_in(arguments, "member"))}};
  }

  using Identity = std::tuple<std::int32_t, std::uint64_t>;  // its number, and where its task_struct is

  void tell(const char* kind, const Identity& who, const std::string& name) {
    send_event({{"kind", kind}, {"pid", std::get<0>(who)}, {"name", introspection::to_utf8(name)}});
  }

  std::map<Identity, std::string> processes_;
  bool known_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  Introspection layer;
  return sdk::run(layer, argc, argv);
}
