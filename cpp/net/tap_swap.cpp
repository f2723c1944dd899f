#include "net/tap_swap.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/error.h"
#include "net/tap.h"

namespace mhv::net {
namespace {

constexpr const char* kOutbound = "eq0";
constexpr const char* kInbound = "eq1";
constexpr const char* kUp = "up0";
constexpr const char* kOuter = "mhv%d";
constexpr std::uint32_t kEngineQueue = 10'000;  // packets: a burst while the engine does not run
constexpr std::size_t kNameMax = 15;
constexpr std::chrono::seconds kPassingWithin{5};  // the kernel looks once a second at a link that it takes for not urgent

Link expect(std::optional<Link> link, const std::string& what) {
  if (!link) throw Error(Code::kGone, what + " is gone", "the guest has ended, or was unplugged from its network");
  return *std::move(link);
}

bool is_tap(const std::optional<Link>& link) { return link && link->kind == "tun"; }

// nullopt as well when somebody moved it on: its number names another link here then.
std::optional<Link> outer_of(RouteSocket& host, const Link& up) {
  std::optional<Link> outer = host.find(up.peer);
  if (outer && (outer->kind != "veth" || outer->peer != up.index)) return std::nullopt;
  return outer;
}

// Open vSwitch's datapath in the kernel is a master as well, but takes its ports from its own process alone.
bool bridged(const Link& link) { return link.master != 0 && link.master_kind == "bridge"; }

// Before Linux 6.2, a link that is up cannot have another name.
void rename(RouteSocket& links, int index, const std::string& name) {
  try {
    links.change(index, {.name = name});
  } catch (const Error& e) {
    if (e.code() != Code::kBusy) throw;
    links.change(index, {.name = name, .up = false});
    links.change(index, {.up = true});
  }
}

// The kernel comes round to a new carrier some time later. Until then such a link drops what is sent on it, and the bridge takes nothing
// from it.
void wait_until_passing(RouteSocket& links, int index, const std::string& what) {
  const auto until = std::chrono::steady_clock::now() + kPassingWithin;
  while (!expect(links.find(index), what).passing) {
    if (std::chrono::steady_clock::now() >= until) {
      throw Error(Code::kUnavailable, fmt::format("{} does not come up", what), "the host may be overloaded: try again");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// Whoever undoes after an error has that error to tell.
template <typename Undo>
void quietly(const Undo& undo) {
  try {
    undo();
  } catch (const std::exception&) {
  }
}

}  // namespace

bool is_tap_name(const std::string& name) {
  const auto fit = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  };
  return !name.empty() && name.size() <= kNameMax && name[0] != '.' && std::all_of(name.begin(), name.end(), fit) && name != kOutbound &&
         name != kInbound && name != kUp && name != "lo";
}

TapSwap::TapSwap(const Namespaces& namespaces, Switch& ovs, std::function<void()> before_change)
    : namespaces_(namespaces), ovs_(ovs), before_change_(std::move(before_change)) {}

void TapSwap::changing() const {
  if (before_change_) before_change_();
}

std::vector<Fd> TapSwap::interpose(const std::string& tap, bool inbound) {
  if (!is_tap_name(tap)) throw Error(Code::kInvalid, "not a tap's name");
  if (std::optional<Namespaces::Inside> inside = namespaces_.find(tap)) return complete(tap, std::move(*inside), inbound);
  check_plugged(tap);
  try {
    changing();
    return complete(tap, namespaces_.make(tap), inbound);
  } catch (const Error&) {
    quietly([&] { undo(tap); });
    throw;
  }
}

void TapSwap::check_plugged(const std::string& tap) {
  RouteSocket host = RouteSocket::here();
  const Link link = expect(host.find(tap), tap);
  if (link.kind != "tun") throw Error(Code::kUnsupported, fmt::format("{} is a {}, no tap", tap, link.kind.empty() ? "device" : link.kind));
  if (bridged(link)) {
    const std::optional<Link> bridge = host.find(link.master);
    if (!bridge || !bridge->filters_vlans) return;
    throw Error(Code::kUnsupported, fmt::format("the bridge of {} filters VLANs", tap), "the VLANs of a port are not carried over");
  }
  if (!ovs_.has_port(tap)) {
    throw Error(Code::kUnsupported, tap + " is a port of no bridge and of no Open vSwitch", "network claims need one of them");
  }
}

Link TapSwap::engine_tap(RouteSocket& within, int tun, const char* name) {
  changing();
  attach_tap(tun, name);
  return expect(within.find(name), name);
}

std::vector<Fd> TapSwap::complete(const std::string& tap, Namespaces::Inside inside, bool inbound) {
  RouteSocket host = RouteSocket::here(before_change_);
  RouteSocket within(std::move(inside.netlink), before_change_);
  const Fd host_net = own_namespace();
  const Link engine = engine_tap(within, inside.tun.get(), kOutbound);
  std::vector<Fd> engines;
  engines.push_back(std::move(inside.tun));
  std::optional<Link> engine_inbound;
  if (inbound) {
    engines.push_back(std::move(namespaces_.find(tap)->tun));
    engine_inbound = engine_tap(within, engines[1].get(), kInbound);
  }
  const Ends ends = prepare(tap, host, within, engine.index, host_net.get());
  for (const auto& link : {std::optional(engine), engine_inbound}) {
    if (!link) continue;
    // Down first: a tap that gets its reader while it is up takes packets only once the kernel comes round to it.
    within.change(link->index, {.up = false, .mtu = ends.tap.mtu, .queue = kEngineQueue});
    within.send_unqueued(link->index);  // or a mark could come before what the guest sent before it
    within.change(link->index, {.up = true});
  }
  if (!within.find(tap)) host.change(ends.tap.index, {.net = inside.net.get()});
  Ends moved = ends;
  moved.tap = expect(within.find(tap), tap);
  connect(moved, host, within, engine.index, engine_inbound ? engine_inbound->index : 0);
  if (!bridged(moved.outer)) {
    changing();
    ovs_.reopen(tap, moved.outer.index);
    host.change(moved.outer.index, {.up = true});  // letting go of the old device, it puts back its flags, on whatever has the name
  }
  wait_for_way_out(moved, host, within);  // a rename or the switch may have set it down for a moment
  const std::optional<Link> unclaimed = inbound ? std::nullopt : within.find(kInbound);
  if (unclaimed) within.remove(unclaimed->index);
  return engines;
}

// All that can be done while the tap is still where it was.
TapSwap::Ends TapSwap::prepare(const std::string& tap, RouteSocket& host, RouteSocket& within, int engine, int host_net) {
  Ends ends;
  const std::optional<Link> moved = within.find(tap);
  const std::optional<Link> at_home = moved ? std::nullopt : host.find(tap);
  if (!moved && !is_tap(at_home)) throw Error(Code::kGone, "tap " + tap + " is gone", "the guest has ended");
  ends.tap = moved ? *moved : *at_home;
  std::optional<Link> up = within.find(kUp);
  if (!up && moved) throw Error(Code::kGone, "the place of " + tap + " in its switch is gone", "plug the guest into its network again");
  if (!up) {
    within.add_veth(kUp, host_net, ends.tap.address, ends.tap.mtu, ends.tap.queue);
    up = within.find(kUp);
  }
  ends.up = expect(up, kUp);
  within.redirect_all(engine, ends.up.index);
  within.change(ends.up.index, {.up = true});
  ends.outer = expect(outer_of(host, ends.up), "the outer end of " + tap);
  if (!ends.outer.up) {
    if (at_home && bridged(*at_home)) {
      host.change(ends.outer.index, {.master = at_home->master});
      host.change(ends.outer.index, {.port = &at_home->port});
    }
    host.change(ends.outer.index, {.up = true});
    ends.outer = expect(outer_of(host, ends.up), "the outer end of " + tap);
  }
  wait_for_way_out(ends, host, within);
  return ends;
}

void TapSwap::wait_for_way_out(const Ends& ends, RouteSocket& host, RouteSocket& within) {
  wait_until_passing(within, ends.up.index, kUp);
  wait_until_passing(host, ends.outer.index, "the outer end of " + ends.tap.name);
}

// The network is down for the guest from the move until the last line.
void TapSwap::connect(const Ends& ends, RouteSocket& host, RouteSocket& within, int engine, int engine_inbound) {
  within.redirect_all(ends.tap.index, engine);
  if (engine_inbound != 0) within.redirect_all(engine_inbound, ends.tap.index);
  within.redirect_all(ends.up.index, engine_inbound != 0 ? engine_inbound : ends.tap.index);
  within.change(ends.tap.index, {.up = true});
  if (ends.outer.name != ends.tap.name) rename(host, ends.outer.index, ends.tap.name);
}

void TapSwap::undo(const std::string& tap) {
  if (!is_tap_name(tap)) throw Error(Code::kInvalid, "not a tap's name");
  if (std::optional<Namespaces::Inside> inside = namespaces_.find(tap)) {
    RouteSocket host = RouteSocket::here(before_change_);
    RouteSocket within(std::move(inside->netlink), before_change_);
    const std::optional<Link> up = within.find(kUp);
    put_back(tap, host, within, up ? outer_of(host, *up) : std::nullopt);
    // One at a time, and not left to the end of the namespace: an engine that does not end yet would keep it.
    for (const char* name : {kUp, kOutbound, kInbound}) {
      if (const std::optional<Link> link = within.find(name)) within.remove(link->index);
    }
  }
  changing();
  namespaces_.remove(tap);
}

void TapSwap::put_back(const std::string& tap, RouteSocket& host, RouteSocket& within, std::optional<Link> outer) {
  bool outer_knows = outer && outer->up;
  if (const std::optional<Link> moved = within.find(tap)) {
    if (outer && outer->name == tap) rename(host, outer->index, kOuter);
    const Fd host_net = own_namespace();
    within.change(moved->index, {.net = host_net.get()});
    outer_knows = outer.has_value();
  }
  const std::optional<Link> home = host.find(tap);
  if (is_tap(home)) {
    if (outer_knows && bridged(*outer)) {
      if (home->master == 0) host.change(home->index, {.master = outer->master});
      host.change(home->index, {.port = &outer->port});
    }
    host.change(home->index, {.up = true});
  }
  if (!outer || !bridged(*outer)) {
    changing();
    ovs_.reopen(tap, 0);
    if (is_tap(home)) host.change(home->index, {.up = true});
  }
}

}  // namespace mhv::net
