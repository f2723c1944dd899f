#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "disk/base_image.h"

namespace mhv::disk {
namespace {

class RawImage : public BaseImage {
 public:
  explicit RawImage(const std::string& path) : fd_(Fd::open(path, O_RDWR)), path_(path) {
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
