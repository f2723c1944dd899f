// mhvctl alerts.
#include <chrono>
#include <memory>
#include <thread>

#include "ctl/format.h"
#include "ctl/layer_commands.h"

namespace mhv::ctl {
namespace {

constexpr auto kFollowEvery = std::chrono::seconds(1);

struct Wanted {
  std::string guest;
  std::uint64_t after = 0;
  bool follow = false;
};

protocol::AlertListReply alerts_after(Session& session, const Wanted& wanted) {
  protocol::Request request;
  request.mutable_alert_list()->set_guest(wanted.guest);
  request.mutable_alert_list()->set_after(wanted.after);
  return session.call(std::move(request)).alert_list();
}

// Ends with the error that says that mhvd or the guest is gone, or by a signal.
[[noreturn]] void follow(Session& session, Wanted wanted) {
  for (;;) {
    const auto reply = alerts_after(session, wanted);
    for (const protocol::Alert& alert : reply.alerts()) {
      session.print(session.json() ? to_json(alert) + "\n" : alert_line(alert));
      wanted.after = std::max(wanted.after, alert.number());
    }
    std::this_thread::sleep_for(kFollowEvery);
  }
}

int show_alerts(Session& session, const Wanted& wanted) {
  if (wanted.follow) follow(session, wanted);
  const auto reply = alerts_after(session, wanted);
  return session.print(session.json() ? to_json(reply) + "\n" : alert_table(reply));
}

}  // namespace

void add_alerts_command(CLI::App& app, Action& chosen) {
  const auto wanted = std::make_shared<Wanted>();
  CLI::App& command = *app.add_subcommand("alerts", "what the layers of a guest have found, oldest first");
  command.add_option("DOMAIN", wanted->guest, "libvirt name or UUID")->required();
  command.add_option("--after", wanted->after, "only alerts after this number");
  command.add_flag("--follow", wanted->follow, "go on with new ones, a line each");
  command.callback([wanted, &chosen] { chosen = [wanted](Session& session) { return show_alerts(session, *wanted); }; });
}

}  // namespace mhv::ctl
