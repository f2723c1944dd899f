#include "base/fd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"

namespace mhv {

Fd Fd::open(const std::string& path, int flags, unsigned mode) {
  int number;
  do {
    number = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (number < 0 && errno == EINTR);
  if (number < 0) throw_errno("cannot open " + path);
  return Fd(number);
}

Fd Fd::memory(const char* name) {
  const int number = ::memfd_create(name, MFD_CLOEXEC);
  if (number < 0) throw_errno("cannot create memory file");
  return Fd(number);
}

void Fd::close() noexcept {
  if (number_ >= 0) ::close(std::exchange(number_, -1));
}

Fd Fd::duplicate() const {
  const int number = ::fcntl(number_, F_DUPFD_CLOEXEC, 3);
  if (number < 0) throw_errno("cannot duplicate a descriptor");
  return Fd(number);
}

void pread_all(int fd, std::span<std::byte> out, std::uint64_t offset, const char* what) {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      throw_errno(std::string("cannot read ") + what);
    }
    if (n == 0) throw Error(Code::kCorrupt, std::string(what) + " ends early");
    out = out.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

void pwrite_all(int fd, std::span<const std::byte> data, std::uint64_t offset, const char* what) {
  while (!data.empty()) {
    const ssize_t n = ::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      throw_errno(std::string("cannot write ") + what);
    }
    data = data.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

void write_all(int fd, std::span<const std::byte> data, const char* what) {
  while (!data.empty()) {
    const ssize_t n = ::write(fd, data.data(), data.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      throw_errno(std::string("cannot write ") + what);
    }
    data = data.subspan(static_cast<std::size_t>(n));
  }
}

std::string read_file(const std::string& path, std::size_t limit) {
  const Fd fd = Fd::open(path, O_RDONLY);
  std::string text;
  for (;;) {
    const std::size_t at = text.size();
    text.resize(at + 65536);
    const ssize_t n = ::read(fd.get(), text.data() + at, 65536);
    if (n < 0) {
      if (errno != EINTR) throw_errno("cannot read " + path);
      text.resize(at);
      continue;
    }
    text.resize(at + static_cast<std::size_t>(n));
    if (text.size() > limit) throw Error(Code::kInvalid, path + " is larger than " + std::to_string(limit) + " bytes");
    if (n == 0) return text;
  }
}

void fsync_directory(const std::string& path) {
  const Fd fd = Fd::open(path, O_RDONLY | O_DIRECTORY);
  if (::fsync(fd.get()) != 0) throw_errno("cannot sync folder " + path);
}

void replace_file(const std::string& path, std::span<const std::byte> data) {
  const std::string beside = path + ".new";
  {
    const Fd fd = Fd::open(beside, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    write_all(fd.get(), data, beside.c_str());
    if (::fsync(fd.get()) != 0) throw_errno("cannot sync " + beside);
  }
  if (::rename(beside.c_str(), path.c_str()) != 0) throw_errno("cannot replace " + path);
  const auto slash = path.rfind('/');
  fsync_directory(slash == std::string::npos ? "." : path.substr(0, slash));
}

}  // namespace mhv
