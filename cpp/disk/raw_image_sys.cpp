#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "disk/base_image.h"

namespace mhv::disk {
namespace {

// QEMU's image locks (block/file-posix.c): byte 100 + p is held by who uses permission p, byte 200 + p by who does not share it.
// As QEMU itself would, this reads and writes the image and shares only reading: so no guest, qemu-img or libvirt opens an image
// whose newest contents are in a journal.
constexpr off_t kUsed = 100, kUnshared = 200;
constexpr std::array<int, 2> kUses{0, 1};             // consistent read, write
constexpr std::array<int, 3> kDoesNotShare{1, 2, 3};  // write, write unchanged, resize

bool lock_byte(int fd, int command, short type, off_t byte) {
  struct flock about {};
  about.l_type = type;
  about.l_whence = SEEK_SET;
  about.l_start = byte;
  about.l_len = 1;
  if (::fcntl(fd, command, &about) != 0) return false;
  return command != F_OFD_GETLK || about.l_type == F_UNLCK;
}

void lock_as_qemu_does(int fd, const std::string& path) {
  bool free = true;
  for (const int p : kUses) free = lock_byte(fd, F_OFD_SETLK, F_RDLCK, kUsed + p) && free;
  for (const int p : kDoesNotShare) free = lock_byte(fd, F_OFD_SETLK, F_RDLCK, kUnshared + p) && free;
  for (const int p : kUses) free = lock_byte(fd, F_OFD_GETLK, F_WRLCK, kUnshared + p) && free;
  for (const int p : kDoesNotShare) free = lock_byte(fd, F_OFD_GETLK, F_WRLCK, kUsed + p) && free;
  if (!free) throw Error(Code::kBusy, "another process uses the image " + path);
}

class RawImage : public BaseImage {
 public:
  explicit RawImage(const std::string& path) : fd_(Fd::open(path, O_RDWR)), path_(path) {
    lock_as_qemu_does(fd_.get(), path);
    const off_t end = ::lseek(fd_.get(), 0, SEEK_END);  // works for block devices, too
    if (end < 0) throw_errno("cannot tell the size of " + path);
    bytes_ = static_cast<std::uint64_t>(end);
  }
  std::uint64_t bytes() const override { return bytes_; }
  void read(std::span<std::byte> out, std::uint64_t offset) override { pread_all(fd_.get(), out, offset, path_.c_str()); }
  void write(std::span<const std::byte> data, std::uint64_t offset) override { pwrite_all(fd_.get(), data, offset, path_.c_str()); }
  void zero(std::uint64_t bytes, std::uint64_t offset) override {
    constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (::fallocate(fd_.get(), kPunch, static_cast<off_t>(offset), static_cast<off_t>(bytes)) == 0) return;
    if (errno != EOPNOTSUPP) throw_errno("cannot zero a part of " + path_);
    const std::vector<std::byte> zeros(std::min<std::uint64_t>(bytes, 1u << 20));
    for (std::uint64_t done = 0; done < bytes; done += zeros.size()) {
      const auto run = std::min<std::uint64_t>(zeros.size(), bytes - done);
      write(std::span(zeros).first(static_cast<std::size_t>(run)), offset + done);
    }
  }
  void sync() override {
    if (::fdatasync(fd_.get()) != 0) throw_errno("cannot sync " + path_);
  }

 private:
  Fd fd_;
  std::string path_;
  std::uint64_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<BaseImage> open_raw_image(const std::string& path) { return std::make_unique<RawImage>(path); }

}  // namespace mhv::disk
