#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "store/files.h"

namespace mhv::store {

Fd FileOps::create(const std::string& path) { return Fd::open(path, O_RDWR | O_CREAT | O_TRUNC, 0600); }

Fd FileOps::open_to_write(const std::string& path) { return Fd::open(path, O_RDWR); }

void FileOps::write(const Fd& file, std::span<const std::byte> data, std::uint64_t offset, const std::string& path) {
  pwrite_all(file.get(), data, offset, path.c_str());
}

void FileOps::sync(const Fd& file, const std::string& path) {
  if (::fdatasync(file.get()) != 0) throw_errno("cannot sync " + path);
}

void FileOps::truncate(const std::string& path, std::uint64_t bytes) {
  if (::truncate(path.c_str(), static_cast<off_t>(bytes)) != 0) throw_errno("cannot truncate " + path);
}

void FileOps::rename(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw_errno("cannot rename " + from);
}

void FileOps::unlink(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw_errno("cannot delete " + path);
}

void FileOps::make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) throw_errno("cannot make folder " + path);
}

void FileOps::remove_directory(const std::string& path) {
  if (::rmdir(path.c_str()) != 0 && errno != ENOENT) throw_errno("cannot remove folder " + path);
}

void FileOps::sync_directory(const std::string& path) { fsync_directory(path); }

std::string folder_of(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

std::string write_beside(FileOps& files, const std::string& path, std::span<const std::byte> data) {
  const std::string beside = path + ".new";
  try {
    const Fd file = files.create(beside);
    files.write(file, data, 0, beside);
    files.sync(file, beside);
  } catch (const Error&) {
    try {
      files.unlink(beside);
    } catch (const Error&) {  // the next open() deletes it; the first error is the one to tell
    }
    throw;
  }
  return beside;
}

void replace(FileOps& files, const std::string& path, std::span<const std::byte> data) {
  const std::string beside = write_beside(files, path, data);
  try {
    files.rename(beside, path);
  } catch (const Error&) {
    try {
      files.unlink(beside);
    } catch (const Error&) {  // as above
    }
    throw;
  }
  files.sync_directory(folder_of(path));
}

}  // namespace mhv::store
