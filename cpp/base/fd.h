// A move-only file descriptor and the few whole-buffer calls that everything else is written with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace mhv {

// Owns one descriptor and closes it. Not thread-safe; the number may be used by several threads while it lives.
class Fd {
 public:
  Fd() noexcept = default;
  static Fd own(int number) noexcept { return Fd(number); }
  // Opens `path` with O_CLOEXEC added; throws Error with the path in its message.
  static Fd open(const std::string& path, int flags, unsigned mode = 0600);
  static Fd memory(const char* name);  // memfd_create, close-on-exec

  Fd(Fd&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      close();
      number_ = std::exchange(other.number_, -1);
    }
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { close(); }

  int get() const noexcept { return number_; }
  explicit operator bool() const noexcept { return number_ >= 0; }
  int release() noexcept { return std::exchange(number_, -1); }
  void close() noexcept;
  Fd duplicate() const;

 private:
  explicit Fd(int number) noexcept : number_(number) {}
  int number_ = -1;
};

// Whole-buffer I/O: retries EINTR and short transfers, throws Error; a short read throws Code::kCorrupt.
void pread_all(int fd, std::span<std::byte> out, std::uint64_t offset, const char* what);
void pwrite_all(int fd, std::span<const std::byte> data, std::uint64_t offset, const char* what);
void write_all(int fd, std::span<const std::byte> data, const char* what);

// The whole of a small file; throws Code::kInvalid when it is larger than `limit` bytes.
std::string read_file(const std::string& path, std::size_t limit);

// Replaces `path` so that after a power loss it is either the old file or the new one: write beside, fsync, rename, fsync the folder.
void replace_file(const std::string& path, std::span<const std::byte> data);
void fsync_directory(const std::string& path);

}  // namespace mhv
