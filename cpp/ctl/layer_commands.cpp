#include "ctl/layer_commands.h"

#include <memory>

#include "ctl/answer.h"
#include "ctl/format.h"
#include "ctl/layer_new.h"
#include "ctl/layer_package.h"
#include "ctl/layer_run.h"

namespace mhv::ctl {
namespace {

struct Call {
  std::string guest;
  std::string layer;
  std::string method;
  std::string arguments = "{}";
};

int call_layer(Session& session, const Call& asked) {
  protocol::Request request;
  request.mutable_layer_call()->set_guest(asked.guest);
  request.mutable_layer_call()->set_layer(asked.layer);
  request.mutable_layer_call()->set_method(asked.method);
  request.mutable_layer_call()->set_arguments(asked.arguments);
  const Answer answer = parse_answer(session.call(std::move(request)).layer_answer().result());
  if (session.json()) return session.print(answer_json({{asked.method, answer}}) + "\n");
  return session.print(answer_text(answer, terminal_width()));
}

int list_layers(Session& session) {
  protocol::Request request;
  request.mutable_layer_list();
  const auto reply = session.call(std::move(request)).layer_list();
  return session.print(session.json() ? to_json(reply) + "\n" : layer_table(reply));
}

void add_domain(CLI::App& command, std::string& guest) { command.add_option("DOMAIN", guest, "libvirt name or UUID")->required(); }

}  // namespace

void add_layer_commands(CLI::App& app, Action& chosen) {
  CLI::App& group =
      *app.add_subcommand("layer", "list, call, new, run, pack, verify, install: layers of this host, one's own, packages of them");
  group.require_subcommand(1);
  group.add_subcommand("list", "layers that a guest of this host can have")->callback([&chosen] { chosen = list_layers; });
  const auto call = std::make_shared<Call>();
  CLI::App& ask = *group.add_subcommand("call", "ask a layer of a guest something; its manifest says what it knows");
  add_domain(ask, call->guest);
  ask.add_option("LAYER", call->layer, "its name")->required();
  ask.add_option("METHOD", call->method, "what it is asked for")->required();
  ask.add_option("ARGUMENTS", call->arguments, "a JSON object");
  ask.callback([call, &chosen] { chosen = [call](Session& session) { return call_layer(session, *call); }; });
  add_package_commands(group, [&chosen](const PackageAction& action) {
    chosen = [action](Session& session) { return session.print(action(session.json())); };
  });
  add_layer_new_command(group, chosen);
  add_layer_run_command(group, chosen);
}

void add_introspect_command(CLI::App& app, Action& chosen) {
  const auto call = std::make_shared<Call>();
  const auto pid = std::make_shared<std::uint32_t>(0);
  call->layer = "introspection";
  CLI::App& command = *app.add_subcommand("introspect", "what runs in a guest, from its memory: no agent in it, no profile of it");
  command.add_option("KIND", call->method, "what to list")
      ->required()
      ->check(CLI::IsMember({"processes", "threads", "modules", "sockets", "files", "mounts", "syscalls", "log", "kernel"}));
  add_domain(command, call->guest);
  CLI::Option& of = *command.add_option("--pid", *pid, "of this process only");
  command.callback([call, pid, &of, &chosen] {
    if (of.count() > 0) call->arguments = "{\"pid\":" + std::to_string(*pid) + "}";
    chosen = [call](Session& session) { return call_layer(session, *call); };
  });
}

}  // namespace mhv::ctl
