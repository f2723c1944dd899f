#include "ctl/command.h"

#include <CLI/CLI.hpp>
#include <iostream>

#include "ctl/escape.h"
#include "ctl/export.h"
#include "ctl/format.h"
#include "ctl/layer_commands.h"
#include "ctl/service_commands.h"
#include "ctl/session.h"

namespace mhv::ctl {
namespace {

using protocol::Request;

constexpr const char* kFooter = R"(
DOMAIN is a libvirt name or UUID, ID a checkpoint's UUID.

Exit status: 0 done; 2 wrong command line; 10 + error code otherwise:
  10 internal   11 invalid  12 not-found  13 exists   14 unsupported  15 busy
  16 gone       17 no-space 18 corrupt    19 version  20 permission   21 unavailable
"checkpoint verify" and "store check" also end with 18 when they find a problem, "store repair" when a checkpoint was lost.)";

struct Options {
  std::string guest;
  std::string id;
  std::string name;
  std::string reason = "operator";
  std::string marker;
  std::string file;
  std::string format = "save";
  std::string disks_folder;
  std::string disks = "required";
  std::vector<std::string> services{"checkpoint"};
  std::vector<std::string> configurations;
  double interval_s = 0;
  double overhead_max = 10;
  double timeout_s = 600;
  std::string keep = "10";
  std::uint32_t limit = 0;
};

class Commands {
 public:
  Commands(const Options& options, Session& session) : options_(options), session_(session), json_(session.json()) {}

  int attach() {
    Request request;
    auto& attach = *request.mutable_attach();
    attach.set_guest(options_.guest);
    for (const std::string& service : options_.services) attach.mutable_options()->add_services(service);
    for (const std::string& one : options_.configurations) add_configuration(*attach.mutable_options(), one);
    attach.mutable_options()->set_checkpoint_interval_s(options_.interval_s);
    attach.mutable_options()->set_checkpoint_overhead_max(options_.overhead_max);
    client::set_keep(*attach.mutable_options(), options_.keep);
    attach.mutable_options()->set_checkpoint_disks(client::parse_disk_policy(options_.disks));
    call(std::move(request));
    return done("attached");
  }
  int detach() {
    Request request;
    request.mutable_detach()->set_guest(options_.guest);
    call(std::move(request));
    return done("detached; its checkpoints stay");
  }
  int forget() {
    Request request;
    request.mutable_forget()->set_guest(options_.guest);
    call(std::move(request));
    return done("forgotten, with its checkpoints");
  }
  int status() {
    Request request;
    request.mutable_status()->set_guest(options_.guest);
    const auto reply = call(std::move(request)).status();
    if (json_) return print(to_json(reply) + "\n");
    return print(options_.guest.empty() || reply.guests().empty() ? status_table(reply) : status_details(reply.guests(0)));
  }
  int hold() {
    Request request;
    request.mutable_hold()->set_guest(options_.guest);
    request.mutable_hold()->set_reason(options_.reason);
    request.mutable_hold()->set_timeout_s(options_.timeout_s);
    call(std::move(request));
    return done("held");
  }
  int release() {
    Request request;
    request.mutable_release()->set_guest(options_.guest);
    call(std::move(request));
    return done("released");
  }
  int self_test() {
    Request request;
    request.mutable_self_test();
    const auto reply = call(std::move(request)).self_test();
    return print(json_ ? to_json(reply) + "\n" : self_test_text(reply));
  }
  int create() {
    Request request;
    request.mutable_checkpoint_create()->set_guest(options_.guest);
    request.mutable_checkpoint_create()->set_name(options_.name);
    return print_checkpoint(call(std::move(request)).checkpoint());
  }
  int list() {
    Request request;
    request.mutable_checkpoint_list()->set_guest(options_.guest);
    request.mutable_checkpoint_list()->set_marker(options_.marker);
    request.mutable_checkpoint_list()->set_limit(options_.limit);
    const auto reply = call(std::move(request)).checkpoint_list();
    return print(json_ ? to_json(reply) + "\n" : checkpoint_table(reply));
  }
  int show() { return print_checkpoint(fetch()); }
  int remove() {
    Request request;
    request.mutable_checkpoint_delete()->set_guest(options_.guest);
    request.mutable_checkpoint_delete()->set_id(options_.id);
    call(std::move(request));
    return done("checkpoint " + options_.id + " deleted");
  }
  int restore() {
    Request request;
    request.mutable_checkpoint_restore()->set_guest(options_.guest);
    request.mutable_checkpoint_restore()->set_id(options_.id);
    const auto reply = call(std::move(request)).restore();
    if (json_) return print(to_json(reply) + "\n");
    return print(options_.guest + " is back at checkpoint " + options_.id + (reply.in_place() ? "" : ", in a new process") + ": " +
                 std::to_string(reply.pages_written()) + " pages put back, paused " + std::to_string(reply.pause_us() / 1000) + " ms\n");
  }
  int export_to() {
    const auto checkpoint = fetch();
    Progress progress(!json_);
    const bool elf = options_.format == "elf";
    const auto format = elf ? protocol::EXPORT_ELF_CORE : protocol::EXPORT_SAVE_IMAGE;
    const auto reply = export_image(session_.client(), options_.guest, options_.id, format, options_.file, std::ref(progress));
    if (!options_.disks_folder.empty()) export_disks(session_.client(), options_.guest, checkpoint.checkpoint(), options_.disks_folder);
    if (json_) return print(to_json(reply) + "\n");
    return print(bytes_text(reply.bytes()) + " written to " + options_.file +
                 (elf ? ", with holes where memory is zero\n" : "; \"virsh restore\" takes it, with the disks at the same point\n"));
  }
  int verify() {
    Request request;
    request.mutable_checkpoint_verify()->set_guest(options_.guest);
    const auto report = call(std::move(request)).verify();
    print(json_ ? to_json(report) + "\n" : verify_text(report));
    return report.problems().empty() ? 0 : 10 + static_cast<int>(Code::kCorrupt);
  }

  int store_repair() {
    Request request;
    request.mutable_store_repair()->set_guest(options_.guest);
    const auto report = call(std::move(request)).repair();
    print(json_ ? to_json(report) + "\n" : repair_text(report));
    return report.lost().empty() ? 0 : 10 + static_cast<int>(Code::kCorrupt);
  }
  int store_stat() {
    Request request;
    request.mutable_store_stat()->set_guest(options_.guest);
    const auto reply = call(std::move(request)).store_stat();
    return print(json_ ? to_json(reply) + "\n" : store_stat_text(reply));
  }
  int store_compact() {
    Request request;
    request.mutable_store_compact()->set_guest(options_.guest);
    const auto reply = call(std::move(request)).store_compact();
    if (json_) return print(to_json(reply) + "\n");
    return print(bytes_text(reply.bytes_before()) + " on the disk before, " + bytes_text(reply.bytes_after()) + " now\n");
  }

 private:
  protocol::Reply call(Request request) { return session_.call(std::move(request)); }
  protocol::CheckpointReply fetch() {
    Request request;
    request.mutable_checkpoint_show()->set_guest(options_.guest);
    request.mutable_checkpoint_show()->set_id(options_.id);
    return call(std::move(request)).checkpoint();
  }
  int print(const std::string& text) { return session_.print(text); }
  int done(const std::string& what) { return session_.done(options_.guest, what); }
  int print_checkpoint(const protocol::CheckpointReply& reply) {
    return print(json_ ? to_json(reply) + "\n" : checkpoint_details(reply.checkpoint()));
  }

  const Options& options_;
  Session& session_;
  const bool json_;
};

using Command = int (Commands::*)();

class CommandLine {
 public:
  CommandLine() : app_("mhvctl: checkpoints of this host's guests and what watches over them, by mhvd.", "mhvctl") {
    app_.footer(kFooter);
    app_.require_subcommand(1);
    app_.fallthrough();
    app_.set_version_flag("--version", "mhvctl " MHV_VERSION);
    app_.add_option("--socket", globals_.socket, "mhvd's socket")->capture_default_str();
    app_.add_option("--run-dir", globals_.run_dir, "the folder that mhvd.sock is in, instead of --socket");
    app_.add_flag("--json", globals_.json, "one line of JSON on standard output, errors too");
    add_guest_commands();
    add_checkpoint_commands();
    add_store_commands();
    add_service_commands(app_, chosen_);
    add_introspect_command(app_, chosen_);
    add_alerts_command(app_, chosen_);
    add_layer_commands(app_, chosen_);
  }

  int run(int argc, const char* const* argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return app_.exit(error) == 0 ? 0 : 2;
    }
    try {
      Session session(globals_);
      return chosen_(session);
    } catch (const Error& error) {
      if (globals_.json) std::cout << error_json(error) << "\n";
      // Some of them are a layer's own words.
      std::cerr << "mhvctl: " << escaped(error.what()) << "\n";
      if (!error.hint().empty()) std::cerr << "  -> " << escaped(error.hint()) << "\n";
      return 10 + static_cast<int>(error.code());
    } catch (const std::exception& error) {
      std::cerr << "mhvctl: " << error.what() << "\n";
      return 10;
    }
  }

 private:
  CLI::App& add(CLI::App& to, const char* name, const char* help, Command what, bool with_guest = true) {
    CLI::App& command = *to.add_subcommand(name, help);
    if (with_guest) command.add_option("DOMAIN", options_.guest, "libvirt name or UUID")->required();
    command.callback([this, what] { chosen_ = [this, what](Session& session) { return (Commands(options_, session).*what)(); }; });
    return command;
  }

  void add_guest_commands() {
    CLI::App& attach = add(app_, "attach", "give a guest its services", &Commands::attach);
    attach.add_option("--service", options_.services, "service, may be repeated")->allow_extra_args(false)->capture_default_str();
    attach.add_option("--configure", options_.configurations, "SERVICE=JSON or SERVICE=@FILE, may be repeated")->allow_extra_args(false);
    attach.add_option("--interval-s,--interval", options_.interval_s, "seconds between automatic checkpoints; 0: on demand only");
    attach
        .add_option("--overhead-max", options_.overhead_max,
                    "percent of the guest's time that these may cost; they come later rather than cost more")
        ->capture_default_str();
    attach.add_option("--keep", options_.keep, "which automatic checkpoints stay: a number, or pairs AGE:EVERY such as 1m:all,1h:1s,1d:1m")
        ->capture_default_str();
    attach.add_option("--disks", options_.disks, "required: refuse a guest with a disk that cannot be checkpointed; best-effort; none")
        ->check(CLI::IsMember({"required", "best-effort", "none"}))
        ->capture_default_str();
    add(app_, "detach", "leave a guest alone; its checkpoints stay", &Commands::detach);
    add(app_, "forget", "detach a guest and delete all its checkpoints", &Commands::forget);
    add(app_, "status", "guests and their state", &Commands::status, false)
        .add_option("DOMAIN", options_.guest, "only this guest, in full");
    CLI::App& hold = add(app_, "hold", "do not pause a guest for a while", &Commands::hold);
    hold.add_option("--reason", options_.reason, "shown in its status")->capture_default_str();
    hold.add_option("--timeout", options_.timeout_s, "seconds after which it ends by itself")->capture_default_str();
    add(app_, "release", "end a hold", &Commands::release);
    add(app_, "self-test", "what this host can do, and what to change where it cannot", &Commands::self_test, false);
  }

  void add_checkpoint_commands() {
    CLI::App& group = *app_.add_subcommand("checkpoint", "create, list, show, restore, delete, export, verify");
    group.require_subcommand(1);
    add(group, "create", "checkpoint a running guest", &Commands::create).add_option("--name", options_.name, "a name for people");
    CLI::App& list = add(group, "list", "checkpoints, oldest first; * marks what the guest runs on top of", &Commands::list);
    list.add_option("--marker", options_.marker, "begin after this id");
    list.add_option("--limit", options_.limit, "at most this many");
    with_id(add(group, "show", "one checkpoint in full", &Commands::show));
    with_id(add(group, "delete", "delete a checkpoint; its children stay whole", &Commands::remove));
    with_id(add(group, "restore", "take a guest back: memory, vCPUs, devices and disks together", &Commands::restore));
    CLI::App& save =
        add(group, "export", "write a checkpoint as a file for plain \"virsh restore\", or for forensic tools", &Commands::export_to);
    with_id(save);
    save.add_option("--file", options_.file, "new file; an existing one is refused")->required();
    save.add_option("--format", options_.format,
                    "save, a libvirt save image; elf, an ELF core of memory and processors as volatility3, crash and gdb read it")
        ->check(CLI::IsMember({"save", "elf"}))
        ->capture_default_str();
    save.add_option("--disks", options_.disks_folder, "also write the disks of that point into this folder (qemu-img)");
    add(group, "verify", "read and check everything stored for a guest", &Commands::verify);
  }

  void add_store_commands() {
    CLI::App& group = *app_.add_subcommand("store", "check, repair, stat, compact: what is on the disk for a guest");
    group.require_subcommand(1);
    add(group, "check", "read and check everything stored for a guest", &Commands::verify);
    add(group, "repair", "drop what is damaged, keep every checkpoint that is whole, say what was lost", &Commands::store_repair);
    add(group, "stat", "sizes, what is saved, and how contents are encoded", &Commands::store_stat);
    add(group, "compact", "give back now all space that nothing needs", &Commands::store_compact);
  }

  void with_id(CLI::App& command) { command.add_option("ID", options_.id, "checkpoint")->required(); }

  CLI::App app_;
  Options options_;
  Globals globals_;
  Action chosen_;
};

}  // namespace

int run(int argc, const char* const* argv) { return CommandLine().run(argc, argv); }

}  // namespace mhv::ctl
