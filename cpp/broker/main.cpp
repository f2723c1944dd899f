// mhv-broker: the privileged part of nova-mhv. It opens, injects and passes descriptors, and does nothing else.
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
#include "broker/harden.h"
#include "broker/server.h"

namespace {

struct User {
  uid_t uid = 0;
  gid_t gid = 0;
};

User find_user(const std::string& name) {
  const passwd* entry = ::getpwnam(name.c_str());
  if (entry == nullptr) {
    throw mhv::Error(mhv::Code::kNotFound, "there is no user " + name, "create it (useradd --system " + name + "), or give another --user");
  }
  return {entry->pw_uid, entry->pw_gid};
}

// SIGTERM and SIGINT as a readable descriptor, blocked in every thread that follows.
mhv::Fd termination_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  ::sigaddset(&set, SIGINT);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  mhv::Fd fd = mhv::Fd::own(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) mhv::throw_errno("cannot wait for signals");
  return fd;
}

void make_run_dir(const std::string& path, const User& user) {
  if (::mkdir(path.c_str(), 0755) == 0) {
    if (::lchown(path.c_str(), user.uid, user.gid) != 0) mhv::throw_errno("cannot give " + path + " to its user");
  } else if (errno != EEXIST) {
    mhv::throw_errno("cannot create " + path);
  }
}

void serve(const std::string& run_dir, const std::string& user_name) {
  if (::geteuid() != 0)
    throw mhv::Error(mhv::Code::kPermission, "mhv-broker must run as root", "start it by its systemd unit, or with sudo");
  const User user = find_user(user_name);
  const mhv::Fd stop = termination_signals();
  make_run_dir(run_dir, user);
  mhv::broker::Server server(run_dir, user.uid, user.gid);
  mhv::broker::harden();
  spdlog::info("serving {} on {}/broker.sock", user_name, run_dir);
  server.run(stop.get());
  spdlog::info("asked to end");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"The privileged part of nova-mhv: opens, injects and passes descriptors of QEMU processes, and does nothing else."};
  std::string run_dir = "/run/nova-mhv";
  std::string user = "nova-mhv";
  app.add_option("--run-dir", run_dir, "Folder of broker.sock, and of the monitors' folder qmp/")->capture_default_str();
  app.add_option("--user", user, "The user, besides root, that is served: the one mhvd runs as")->capture_default_str();
  app.set_version_flag("--version", MHV_VERSION);
  CLI11_PARSE(app, argc, argv);
  spdlog::set_default_logger(spdlog::stderr_logger_mt("mhv-broker"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%f %l %v");
  try {
    serve(run_dir, user);
    return 0;
  } catch (const mhv::Error& e) {
    spdlog::error("{}{}{}", e.what(), e.hint().empty() ? "" : "; ", e.hint());
  } catch (const std::exception& e) {
    spdlog::error("{}", e.what());
  }
  return 1;
}
