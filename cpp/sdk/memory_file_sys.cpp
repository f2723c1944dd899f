#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "sdk/engine.h"
#include "sdk/memory_file.h"

namespace mhv::sdk {
namespace {

namespace ipc = boost::interprocess;

class ReadMappable {
 public:
  explicit ReadMappable(int file) : handle_{file, false} {}
  ipc::mapping_handle_t get_mapping_handle() const { return handle_; }
  ipc::mode_t get_mode() const { return ipc::read_only; }

 private:
  ipc::mapping_handle_t handle_;
};

}  // namespace

MemoryFile MemoryFile::map(std::span<const Fd> files) {
  MemoryFile out;
  for (const Fd& file : files) {
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) throw_errno("cannot look at a guest's memory");
    try {
      out.regions_.emplace_back(ReadMappable(file.get()), ipc::read_only, 0, static_cast<std::size_t>(status.st_size));
    } catch (const ipc::interprocess_exception& error) {
      throw_errno("cannot map a guest's memory", error.get_native_error());
    }
  }
  return out;
}

bool MemoryFile::read_mapped(std::uint64_t offset, std::span<std::byte> out) const {
  for (const ipc::mapped_region& region : regions_) {
    if (offset >= region.get_size()) {
      offset -= region.get_size();
      continue;
    }
    const std::size_t bytes = std::min<std::uint64_t>(out.size(), region.get_size() - offset);
    std::memcpy(out.data(), static_cast<const std::byte*>(region.get_address()) + offset, bytes);
    out = out.subspan(bytes);
    offset = 0;
    if (out.empty()) break;
  }
  return out.empty();
}

bool MemoryFile::read(std::uint64_t offset, std::span<std::byte> out) const {
  if (!file_) return read_mapped(offset, out);
  while (!out.empty()) {
    const ssize_t n = ::pread(file_.get(), out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    out = out.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return true;
}

Fd adopt_descriptor(int number) {
  if (::fcntl(number, F_SETFD, FD_CLOEXEC) != 0) {
    throw Error(Code::kInvalid, "descriptor " + std::to_string(number) + " is not open: the engine starts this program",
                "to try it by hand, see doc/layers.rst");
  }
  return Fd::own(number);
}

}  // namespace mhv::sdk
