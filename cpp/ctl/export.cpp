#include "ctl/export.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <vector>

extern char** environ;

namespace mhv::ctl {
namespace {

void run_qemu_img(const std::vector<std::string>& arguments) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_t pid = -1;
  const int error = ::posix_spawnp(&pid, argv[0], nullptr, nullptr, argv.data(), environ);
  if (error != 0) throw_errno("cannot run qemu-img", error);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0)
    throw Error(Code::kInternal, "qemu-img could not copy " + arguments.back(), "its own message is above; the images must be readable");
}

}  // namespace

protocol::ExportReply export_image(client::Client& client, const std::string& guest, const std::string& id, const std::string& file,
                                   const client::ProgressFn& progress) {
  const Fd fd = Fd::own(::open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) {
    if (errno == EEXIST) throw Error(Code::kExists, file + " is there already", "name a new file; an export overwrites nothing");
    throw_errno("cannot make " + file);
  }
  protocol::Request request;
  request.mutable_checkpoint_export()->set_guest(guest);
  request.mutable_checkpoint_export()->set_id(id);
  const std::array<int, 1> fds{fd.get()};
  try {
    return client.call(std::move(request), progress, fds).export_done();
  } catch (...) {
    ::unlink(file.c_str());
    throw;
  }
}

void export_disks(const protocol::Checkpoint& checkpoint, const std::string& folder) {
  std::filesystem::create_directories(folder);
  for (const protocol::DiskPoint& disk : checkpoint.disks()) {
    if (disk.snapshot().empty()) {
      throw Error(Code::kUnsupported, "disk " + disk.target() + " has no snapshot in this checkpoint: " + disk.note(),
                  "export without --disks, and take that disk as it is now");
    }
    const std::string target = folder + "/" + disk.target() + ".qcow2";
    if (std::filesystem::exists(target))
      throw Error(Code::kExists, target + " is there already", "name an empty folder; an export overwrites nothing");
    run_qemu_img(
        {"qemu-img", "convert", "-U", "-l", "snapshot.name=" + disk.snapshot(), "-f", disk.format(), "-O", "qcow2", disk.path(), target});
  }
}

}  // namespace mhv::ctl
