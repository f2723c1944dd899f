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

constexpr const char* kImage = ".qcow2";
constexpr const char* kRaw = ".raw.part";

Fd make_new(const std::string& file) {
  Fd fd = Fd::own(::open(file.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) {
    if (errno == EEXIST) throw Error(Code::kExists, file + " is there already", "name a new file; an export overwrites nothing");
    throw_errno("cannot make " + file);
  }
  return fd;
}

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

// A new file, as long as this lives.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string path) : path_(std::move(path)), fd_(make_new(path_)) {}
  ~TemporaryFile() { ::unlink(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }

 private:
  const std::string path_;
  const Fd fd_;
};

void copy_snapshot(const protocol::DiskPoint& disk, const char* format, const std::string& to) {
  run_qemu_img({"qemu-img", "convert", "-U", "-l", "snapshot.name=" + disk.snapshot(), "-f", disk.format(), "-O", format, disk.path(), to});
}

void copy_with_changes(client::Client& client, const std::string& guest, const std::string& id, const protocol::DiskPoint& disk,
                       const TemporaryFile& raw, const std::string& to) {
  copy_snapshot(disk, "raw", raw.path());
  protocol::Request request;
  request.mutable_checkpoint_export_disk()->set_guest(guest);
  request.mutable_checkpoint_export_disk()->set_id(id);
  request.mutable_checkpoint_export_disk()->set_target(disk.target());
  const std::array<int, 1> fds{raw.fd()};
  client.call(std::move(request), {}, fds);
  run_qemu_img({"qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw.path(), to});
}

}  // namespace

protocol::ExportReply export_image(client::Client& client, const std::string& guest, const std::string& id, protocol::ExportFormat format,
                                   const std::string& file, const client::ProgressFn& progress) {
  const Fd fd = make_new(file);
  protocol::Request request;
  request.mutable_checkpoint_export()->set_guest(guest);
  request.mutable_checkpoint_export()->set_id(id);
  request.mutable_checkpoint_export()->set_format(format);
  const std::array<int, 1> fds{fd.get()};
  try {
    return client.call(std::move(request), progress, fds).export_done();
  } catch (...) {
    ::unlink(file.c_str());
    throw;
  }
}

void export_disks(client::Client& client, const std::string& guest, const protocol::Checkpoint& checkpoint, const std::string& folder) {
  std::filesystem::create_directories(folder);
  const auto file = [&](const protocol::DiskPoint& disk, const char* ending) { return folder + "/" + disk.target() + ending; };
  for (const protocol::DiskPoint& disk : checkpoint.disks()) {
    if (disk.snapshot().empty()) {
      throw Error(Code::kUnsupported, "disk " + disk.target() + " has no snapshot in this checkpoint: " + disk.note(),
                  "export without --disks, and take that disk as it is now");
    }
    for (const std::string& made : {file(disk, kImage), file(disk, kRaw)}) {
      if (std::filesystem::exists(made))
        throw Error(Code::kExists, made + " is there already", "name an empty folder; an export overwrites nothing");
    }
  }
  for (const protocol::DiskPoint& disk : checkpoint.disks()) {
    if (disk.changed_bytes() == 0) {
      copy_snapshot(disk, "qcow2", file(disk, kImage));
    } else {
      const TemporaryFile raw(file(disk, kRaw));
      copy_with_changes(client, guest, checkpoint.id(), disk, raw, file(disk, kImage));
    }
  }
}

}  // namespace mhv::ctl
