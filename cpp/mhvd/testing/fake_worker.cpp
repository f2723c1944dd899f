// Speaks mhv-worker's protocol for the tests of mhvd; the requests say how it behaves:
//   checkpoint_create name "die"     ends in the middle
//                     name "broken"  says kPermission about no request, then ends
//                     name "refuse"  is refused with kNoSpace
//                     name "layer"   asks for a process of the layer "echo", with the memory of block 0, then as anything else; of
//                                    its end the message says why
//                     name "alert"   alerts, then as anything else
//                     name "hold"    "echo" wants the network held, "release" released, then as anything else
//                     name "pause"   says first that the guest stood still for 2 ms more
//                     anything else  one progress, then a checkpoint of that name
//   forget            of a guest named "unreadable" is answered as checkpoint_create of "broken" is
//   checkpoint_restore of the zero UUID is refused with kCorrupt
//                     of another is done, in place unless mhvd says that the process is new
// A guest named "broken" cannot be served: kVersion, with the digits of the key that mhvd gave as its message, and the end.
// The message of an attached guest is "new" or "again", by what mhvd said of the userfaultfd, with "memory, " before it when mhvd
// handed over the memory first.
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdio>

#include "base/error.h"
#include "base/fd.h"
#include "base/frame.h"
#include "mhv.pb.h"

namespace {

using namespace mhv;

constexpr int kControl = 3;

void report(const protocol::WorkerReport& report) { send_frame(kControl, report.SerializeAsString()); }

void report_state(const std::string& state, const std::string& message = {}) {
  protocol::WorkerReport out;
  out.mutable_status()->set_state(state);
  out.mutable_status()->set_message(message);
  report(out);
}

// Three descriptors beside it, of which only the number counts here.
void start_layer() {
  protocol::WorkerReport out;
  out.mutable_layer_start()->set_name("echo");
  out.mutable_layer_start()->set_generation(7);
  out.mutable_layer_start()->add_blocks(0);
  const Fd any = Fd::memory("layer");
  send_frame(kControl, out.SerializeAsString(), std::array{any.get(), any.get(), any.get()});
}

void alert() {
  protocol::WorkerReport out;
  out.mutable_alert()->set_layer("echo");
  out.mutable_alert()->set_title("something");
  report(out);
}

void wish(bool hold) {
  protocol::WorkerReport out;
  out.mutable_network_wish()->set_layer("echo");
  out.mutable_network_wish()->set_hold(hold);
  out.mutable_network_wish()->set_reason("something");
  report(out);
}

void fail(std::uint64_t id, Code code, const std::string& message) {
  protocol::WorkerReport out;
  out.mutable_reply()->set_id(id);
  out.mutable_reply()->mutable_error()->set_code(static_cast<std::uint32_t>(code));
  out.mutable_reply()->mutable_error()->set_message(message);
  report(out);
}

[[noreturn]] void cannot_serve() {
  fail(0, Code::kPermission, "another key");
  ::_exit(1);
}

void create(std::uint64_t id, const std::string& name) {
  if (name == "die") ::_exit(1);
  if (name == "broken") cannot_serve();
  if (name == "refuse") return fail(id, Code::kNoSpace, "full");
  if (name == "layer") start_layer();
  if (name == "alert") alert();
  if (name == "hold" || name == "release") wish(name == "hold");
  protocol::WorkerReport out;
  if (name == "pause") {
    static std::uint64_t paused_us = 0;
    out.mutable_status()->set_state("attached");
    out.mutable_status()->set_paused_us(paused_us += 2000);
    report(out);
  }
  out.mutable_reply()->set_id(id);
  out.mutable_reply()->mutable_progress()->set_stage("copying memory");
  report(out);
  out.mutable_reply()->mutable_checkpoint()->mutable_checkpoint()->set_name(name);
  report(out);
}

void answer(const std::string& guest, const protocol::Request& request) {
  if (request.has_forget() && guest == "unreadable") cannot_serve();
  if (request.has_checkpoint_create()) return create(request.id(), request.checkpoint_create().name());
  if (request.checkpoint_restore().id() == "00000000-0000-0000-0000-000000000000") return fail(request.id(), Code::kCorrupt, "refused");
  if (request.has_hold()) report_state("held", request.hold().reason());
  if (request.has_release()) report_state("attached");
  protocol::WorkerReport out;
  out.mutable_reply()->set_id(request.id());
  if (request.has_checkpoint_restore()) {
    out.mutable_reply()->mutable_restore()->set_in_place(!request.checkpoint_restore().new_process());
  } else {
    out.mutable_reply()->mutable_done();
  }
  report(out);
}

std::string in_hex(const std::string& text) {
  std::string out;
  for (const char c : text) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
    out += two;
  }
  return out;
}

int serve() {
  std::string before, guest;
  while (const auto frame = receive_frame(kControl)) {
    protocol::WorkerCommand command;
    if (!command.ParseFromString(frame->payload)) return 1;
    if (command.has_start() && command.start().name() == "broken") {
      fail(0, Code::kVersion, in_hex(command.start().store_key()));
      return 1;
    }
    if (command.has_start()) guest = command.start().name();
    if (command.has_start()) report_state("stopped");
    if (command.has_memory_up()) before = "memory, ";
    if (command.has_guest_up()) report_state("attached", before + (command.guest_up().uffd_is_new() ? "new" : "again"));
    if (command.has_guest_down()) report_state("stopped", command.guest_down().reason());
    if (command.has_layer_ended()) {
      report_state("attached", fmt::format("{} {}: {}", command.layer_ended().name(), command.layer_ended().generation(),
                                           command.layer_ended().reason()));
    }
    if (command.has_request()) answer(guest, command.request());
  }
  return 0;
}

}  // namespace

int main() {
  try {
    return serve();
  } catch (const Error&) {
    return 1;
  }
}
