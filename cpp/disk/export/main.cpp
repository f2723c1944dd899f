// mhv-disk: holds and asks the export of one disk's epoch journal.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "export/control.h"
#include "export/holder.h"

namespace {

using namespace mhv::disk;

// Beside this program, wherever both were installed.
std::string installed_plugin() {
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / MHV_PLUGIN).lexically_normal().string();
}

struct Options {
  std::string socket, control, journal, base, base_nbd, flush = "sync", plugin = installed_plugin(), pid_file;
  std::uint64_t size = 0;
  unsigned log_max_mib = 10240, threads = 8;
  std::vector<std::string> names;
};

int serve_disk(const Options& o) {
  std::vector<std::string> command{"nbdkit", "--foreground", "--threads", std::to_string(o.threads), o.plugin};
  command.push_back("journal=" + o.journal);
  command.push_back("control=" + o.control);
  command.push_back(o.base.empty() ? "base-nbd=" + o.base_nbd : "base=" + o.base);
  command.push_back("flush=" + o.flush);
  if (o.size != 0) command.push_back("size=" + std::to_string(o.size));
  command.push_back("log-max-mib=" + std::to_string(o.log_max_mib));
  return hold_export(o.socket, command, o.pid_file);
}

void print(const wire::Reply& reply) {
  for (const std::string& name : reply.names()) std::puts(format_name(name_from_bytes(name)).c_str());
  if (!reply.has_figures()) return;
  const wire::Figures& f = reply.figures();
  std::printf(
      "disk_bytes %lu\nlog_bytes %lu\nlive_bytes %lu\nmarks %lu\nentries %lu\nsynced_entries %lu\nfolded_blocks %lu\nmoved_blocks %lu\n",
      f.disk_bytes(), f.log_bytes(), f.live_bytes(), f.marks(), f.entries(), f.synced_entries(), f.folded_blocks(), f.moved_blocks());
}

int ask(const std::string& verb, const Options& o) {
  ControlClient client(o.control);
  const wire::Reply reply = client.call(request_for(verb, o.names));
  print(reply);
  if ((verb != "fold" && verb != "close") || reply.all_folded()) return 0;
  std::fputs("the guest wrote meanwhile: once more\n", stderr);
  return 1;
}

void add_serve(CLI::App& app, Options& o) {
  CLI::App* serve = app.add_subcommand("serve", "export a disk by NBD; ends with SIGTERM");
  serve->add_option("--socket", o.socket, "where QEMU connects")->required();
  serve->add_option("--control", o.control, "where marks are asked for")->required();
  serve->add_option("--journal", o.journal, "the journal's folder")->required();
  CLI::Option* raw = serve->add_option("--base", o.base, "a raw base image");
  serve->add_option("--base-nbd", o.base_nbd, "the NBD socket of a base image of another format")->excludes(raw);
  serve->add_option("--flush", o.flush, "acknowledge a guest's flush when it is durable (sync), or at once (at-mark)")
      ->check(CLI::IsMember({"sync", "at-mark"}));
  serve->add_option("--size", o.size, "bytes: begin without the image, requests wait for `open`");
  serve->add_option("--log-max-mib", o.log_max_mib, "the most space that the log may take");
  serve->add_option("--threads", o.threads, "requests at a time");
  serve->add_option("--plugin", o.plugin, "nbdkit's plugin");
  serve->add_option("--pid-file", o.pid_file, "where the process id of nbdkit goes");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("The export of one disk's epoch journal.");
  app.require_subcommand(1);
  Options o;
  add_serve(app, o);
  const auto verb = [&](const char* name, const char* about, int names) {
    CLI::App* sub = app.add_subcommand(name, about);
    sub->add_option("--control", o.control, "the export's control socket")->required();
    if (names != 0) sub->add_option("names", o.names, "UUIDs of marks")->required()->expected(names);
  };
  verb("mark", "end an epoch", 1);
  verb("rollback", "go back to a mark; the guest must be stopped", 1);
  verb("drop", "forget marks", -1);
  verb("list", "the marks, oldest first", 0);
  verb("stat", "figures", 0);
  verb("sync", "make everything durable", 0);
  verb("fold", "write everything into the base image", 0);
  verb("open", "open the image, and let requests go on", 0);
  verb("close", "fold, end the journal, and let go of the image", 0);
  CLI11_PARSE(app, argc, argv);
  try {
    const std::string name = app.get_subcommands().front()->get_name();
    return name == "serve" ? serve_disk(o) : ask(name, o);
  } catch (const mhv::Error& error) {
    std::fprintf(stderr, "mhv-disk: %s%s%s\n", error.what(), error.hint().empty() ? "" : ": ", error.hint().c_str());
    return 1;
  }
}
