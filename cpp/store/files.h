// The one place through which the store changes its folder, so that a test can fail or stop it at every step.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/fd.h"

namespace mhv::store {

// Each call is one step that succeeds, or throws Error. Used by one thread at a time.
class FileOps {
 public:
  virtual ~FileOps() = default;
  virtual Fd create(const std::string& path);  // empty, for reading and writing
  virtual Fd open_to_write(const std::string& path);
  virtual void write(const Fd& file, std::span<const std::byte> data, std::uint64_t offset, const std::string& path);
  virtual void sync(const Fd& file, const std::string& path);  // data and length
  virtual void truncate(const std::string& path, std::uint64_t bytes);
  virtual void rename(const std::string& from, const std::string& to);
  virtual void unlink(const std::string& path);          // missing: no error
  virtual void make_directory(const std::string& path);  // there already: no error
  virtual void remove_directory(const std::string& path);
  virtual void sync_directory(const std::string& path);
};

// `path`.new with this content, durable; rename it to commit. Leaves no such file behind when it throws.
std::string write_beside(FileOps& files, const std::string& path, std::span<const std::byte> data);
// Durable replacement: after a power loss it is either the old file or the new one.
void replace(FileOps& files, const std::string& path, std::span<const std::byte> data);
std::string folder_of(const std::string& path);

}  // namespace mhv::store
