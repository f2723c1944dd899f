#include "broker/daemon.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "base/error.h"

namespace mhv::broker {
namespace {

struct User {
  uid_t uid = 0;
  gid_t gid = 0;
};

User find_user(const std::string& name) {
  const passwd* entry = ::getpwnam(name.c_str());
  if (entry == nullptr) {
    throw Error(Code::kNotFound, "there is no user " + name, "create it (useradd --system " + name + "), or give another --user");
  }
  return {entry->pw_uid, entry->pw_gid};
}

// SIGTERM and SIGINT as a readable descriptor, blocked in every thread that follows.
Fd termination_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  ::sigaddset(&set, SIGINT);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  Fd fd = Fd::own(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) throw_errno("cannot wait for signals");
  return fd;
}

void make_run_dir(const std::string& path, const User& user) {
  if (::mkdir(path.c_str(), 0755) == 0) {
    if (::lchown(path.c_str(), user.uid, user.gid) != 0) throw_errno("cannot give " + path + " to its user");
  } else if (errno != EEXIST) {
    throw_errno("cannot create " + path);
  }
}

void serve(const Daemon& daemon, const std::string& run_dir, const std::string& user_name) {
  if (::geteuid() != 0) {
    throw Error(Code::kPermission, fmt::format("{} must run as root", daemon.name), "start it by its systemd unit, or with sudo");
  }
  const User user = find_user(user_name);
  const Fd stop = termination_signals();
  make_run_dir(run_dir, user);
  const std::string socket = run_dir + "/" + daemon.socket;
  Server server(socket, user.uid, user.gid, daemon.prepare(run_dir));
  harden(daemon.needs);
  spdlog::info("serving {} on {}", user_name, socket);
  server.run(stop.get());
  spdlog::info("asked to end");
}

}  // namespace

int run(const Daemon& daemon, int argc, char** argv) {
  CLI::App app{daemon.about};
  std::string run_dir = "/run/nova-mhv";
  std::string user = "nova-mhv";
  app.add_option("--run-dir", run_dir, fmt::format("Folder of {}, and of the folder {}/", daemon.socket, daemon.folder))
      ->capture_default_str();
  app.add_option("--user", user, "The user, besides root, that is served: the one mhvd runs as")->capture_default_str();
  app.set_version_flag("--version", daemon.version);
  CLI11_PARSE(app, argc, argv);
  spdlog::set_default_logger(spdlog::stderr_logger_mt(daemon.name));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%f %l %v");
  try {
    serve(daemon, run_dir, user);
    return 0;
  } catch (const Error& e) {
    spdlog::error("{}{}{}", e.what(), e.hint().empty() ? "" : "; ", e.hint());
  } catch (const std::exception& e) {
    spdlog::error("{}", e.what());
  }
  return 1;
}

}  // namespace mhv::broker
