// The layer "introspection": what a guest's kernel knows, read from its memory.
#include <fmt/format.h>

#include "base/error.h"
#include "introspection/answers.h"
#include "introspection/changes.h"
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

  void on_epoch(const sdk::Epoch&) override {
    try {
      for (const auto& change : changes_.look(guest().kernel())) send_event(change);
    } catch (const Error&) {
      // No Linux so far, or it changes too fast: a later epoch has it.
    }
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

  introspection::Changes changes_;
};

}  // namespace

int main(int argc, char** argv) {
  Introspection layer;
  return sdk::run(layer, argc, argv);
}
