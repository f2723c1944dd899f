#include "export/nbd_image.h"

#include <libnbd.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"

namespace mhv::disk {
namespace {

constexpr std::size_t kConnections = 4;          // as many requests at a time
constexpr std::uint64_t kRequestMax = 1u << 20;  // every server takes so much
constexpr auto kRetry = std::chrono::milliseconds(20);

struct CloseHandle {
  void operator()(nbd_handle* handle) const { nbd_close(handle); }
};
using Handle = std::unique_ptr<nbd_handle, CloseHandle>;

// Each connection does one request at a time; a thread takes one that is free.
class NbdImage : public BaseImage {
 public:
  NbdImage(std::string socket, unsigned patience_s) : socket_(std::move(socket)), patience_(patience_s), lines_(kConnections) {
    std::int64_t size = 0;
    with_line([&](nbd_handle* handle) { return (size = nbd_get_size(handle)) >= 0; });
    bytes_ = static_cast<std::uint64_t>(size);
  }
  std::uint64_t bytes() const override { return bytes_; }
  void read(std::span<std::byte> out, std::uint64_t offset) override {
    in_parts(out.size(), [&](std::uint64_t at, std::uint64_t n) {
      with_line([&](nbd_handle* handle) { return nbd_pread(handle, out.data() + at, n, offset + at, 0) == 0; });
    });
  }
  void write(std::span<const std::byte> data, std::uint64_t offset) override {
    in_parts(data.size(), [&](std::uint64_t at, std::uint64_t n) {
      with_line([&](nbd_handle* handle) { return nbd_pwrite(handle, data.data() + at, n, offset + at, 0) == 0; });
    });
  }
  void zero(std::uint64_t bytes, std::uint64_t offset) override {
    in_parts(bytes, [&](std::uint64_t at, std::uint64_t n) {
      with_line([&](nbd_handle* handle) { return nbd_zero(handle, n, offset + at, 0) == 0; });
    });
  }
  void sync() override {
    with_line([](nbd_handle* handle) { return nbd_flush(handle, 0) == 0; });
  }

 private:
  struct Line {
    std::mutex mutex;
    Handle handle;
  };

  template <typename Fn>
  void in_parts(std::uint64_t bytes, Fn&& fn) {
    for (std::uint64_t at = 0; at < bytes; at += kRequestMax) fn(at, std::min(kRequestMax, bytes - at));
  }

  Handle connect() {
    Handle handle(nbd_create());
    if (!handle) throw Error(Code::kInternal, "cannot make an NBD connection");
    return nbd_connect_unix(handle.get(), socket_.c_str()) == 0 ? std::move(handle) : Handle();
  }

  template <typename Fn>
  void with_line(Fn&& request) {
    Line& line = lines_[next_++ % kConnections];
    const std::lock_guard lock(line.mutex);
    const auto deadline = std::chrono::steady_clock::now() + patience_;
    for (;;) {
      if (!line.handle) line.handle = connect();
      if (line.handle && request(line.handle.get())) return;
      const int error = nbd_get_errno();
      const std::string message = nbd_get_error() != nullptr ? nbd_get_error() : "no reason given";
      // The image's own answer, not the connection's end: sending it again would not change it.
      if (line.handle && nbd_aio_is_ready(line.handle.get()) == 1) throw_errno("the base image: " + message, error);
      line.handle.reset();
      if (std::chrono::steady_clock::now() > deadline)
        throw Error(Code::kUnavailable, "no server of the base image answers at " + socket_ + ": " + message);
      std::this_thread::sleep_for(kRetry);
    }
  }

  const std::string socket_;
  const std::chrono::seconds patience_;
  std::vector<Line> lines_;
  std::atomic<std::size_t> next_ = 0;
  std::uint64_t bytes_ = 0;
};

}  // namespace

std::unique_ptr<BaseImage> open_nbd_image(const std::string& socket, unsigned patience_s) {
  return std::make_unique<NbdImage>(socket, patience_s);
}

}  // namespace mhv::disk
