// For tests: a file whose reads end when the test says so. FUSE, spoken raw, with the file as the root of its mount.
#pragma once

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <future>
#include <string>
#include <thread>

#include "base/fd.h"

namespace mhv::guest::testing {

// One read, of one page of kByte. Like a disk's O_DIRECT, it pins the reader's memory while it is under way.
class SlowFile {
 public:
  static constexpr char kByte = '\x5e';

  // `path` is an ordinary file, over which it is mounted. Check mounted(): not every machine lets a test mount.
  explicit SlowFile(std::string path) : path_(std::move(path)), fuse_(Fd::own(::open("/dev/fuse", O_RDWR | O_CLOEXEC))) {
    if (!fuse_) return;
    const std::string options = "fd=" + std::to_string(fuse_.get()) + ",rootmode=100000,user_id=0,group_id=0";
    mounted_ = ::mount("slow-file", path_.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) == 0;
    if (mounted_) server_ = std::thread([this] { serve(); });
  }
  ~SlowFile() {
    if (!mounted_) return;
    ::umount2(path_.c_str(), MNT_DETACH);  // the server's next read of requests fails
    server_.join();
  }
  SlowFile(const SlowFile&) = delete;
  SlowFile& operator=(const SlowFile&) = delete;

  bool mounted() const { return mounted_; }
  void wait_until_read_begins() { began_.get_future().wait(); }
  void let_read_end() { may_end_.set_value(); }

 private:
  template <typename Body>
  void answer(const fuse_in_header& request, const Body& body) {
    struct {
      fuse_out_header header;
      Body body;
    } out{{sizeof(fuse_out_header) + sizeof(Body), 0, request.unique}, body};
    send(&out, out.header.len);
  }
  void answer(const fuse_in_header& request, int error) {
    const fuse_out_header out{sizeof(fuse_out_header), error, request.unique};
    send(&out, sizeof out);
  }
  void send(const void* data, std::size_t bytes) {
    if (::write(fuse_.get(), data, bytes) < 0) errno = 0;  // whoever asked has gone
  }

  void serve() {
    alignas(8) std::array<char, FUSE_MIN_READ_BUFFER * 2> buffer;
    while (::read(fuse_.get(), buffer.data(), buffer.size()) > 0) {
      fuse_in_header request;
      std::memcpy(&request, buffer.data(), sizeof request);
      handle(request);
    }
  }

  void handle(const fuse_in_header& request) {
    if (request.opcode == FUSE_INIT) {
      fuse_init_out out{};
      out.major = FUSE_KERNEL_VERSION;
      out.minor = 31;
      out.max_write = 4096;
      answer(request, out);
    } else if (request.opcode == FUSE_GETATTR) {
      fuse_attr_out out{};
      out.attr.ino = FUSE_ROOT_ID;
      out.attr.mode = S_IFREG | 0600;
      out.attr.nlink = 1;
      out.attr.size = 4096;
      answer(request, out);
    } else if (request.opcode == FUSE_OPEN) {
      fuse_open_out out{};
      out.open_flags = FOPEN_DIRECT_IO;
      answer(request, out);
    } else if (request.opcode == FUSE_READ) {
      began_.set_value();
      may_end_.get_future().wait();
      std::array<char, 4096> page;
      page.fill(kByte);
      answer(request, page);
    } else if (request.opcode == FUSE_FLUSH || request.opcode == FUSE_RELEASE) {
      answer(request, 0);
    } else if (request.opcode != FUSE_FORGET) {
      answer(request, -ENOSYS);
    }
  }

  std::string path_;
  Fd fuse_;
  bool mounted_ = false;
  std::promise<void> began_, may_end_;
  std::thread server_;
};

}  // namespace mhv::guest::testing
