#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "base/fd.h"
#include "disk/files.h"

namespace mhv::disk {
namespace {

constexpr std::size_t kZeroRun = 1u << 20;

class RealFile : public File {
 public:
  RealFile(Fd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  void read(std::span<std::byte> out, std::uint64_t offset) override { pread_all(fd_.get(), out, offset, path_.c_str()); }
  void write(std::span<const std::byte> data, std::uint64_t offset) override { pwrite_all(fd_.get(), data, offset, path_.c_str()); }
  void sync() override {
    if (::fdatasync(fd_.get()) != 0) throw_errno("cannot sync " + path_);
  }
  void begin_sync(std::uint64_t bytes, std::uint64_t offset) override {
    ::sync_file_range(fd_.get(), static_cast<off_t>(offset), static_cast<off_t>(bytes), SYNC_FILE_RANGE_WRITE);
  }
  std::uint64_t bytes() override {
    struct stat about {};
    if (::fstat(fd_.get(), &about) != 0) throw_errno("cannot look at " + path_);
    return static_cast<std::uint64_t>(about.st_size);
  }

 private:
  Fd fd_;
  std::string path_;
};

class RealFolder : public Folder {
 public:
  explicit RealFolder(const std::string& path) : path_(path) {
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) throw_errno("cannot make folder " + path);
    lock_ = Fd::open(path, O_RDONLY | O_DIRECTORY);
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) == 0) return;
    if (errno == EWOULDBLOCK) throw Error(Code::kBusy, "another process has the journal " + path);
    throw_errno("cannot lock " + path);
  }

  // Written with zeros rather than only allocated: the first sync of a block that was never written has to change the
  // file system's metadata, too, and takes half as long again.
  std::unique_ptr<File> create(const std::string& name, std::uint64_t bytes) override {
    Fd fd = Fd::open(at(name), O_RDWR | O_CREAT | O_TRUNC, 0600);
    try {
      int error = 0;
      if (bytes > 0) error = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes));
      if (error != 0) throw_errno("cannot allocate " + at(name), error);
      const std::vector<std::byte> zeros(static_cast<std::size_t>(std::min<std::uint64_t>(bytes, kZeroRun)));
      for (std::uint64_t done = 0; done < bytes; done += zeros.size()) {
        const auto run = std::min<std::uint64_t>(zeros.size(), bytes - done);
        pwrite_all(fd.get(), {zeros.data(), static_cast<std::size_t>(run)}, done, at(name).c_str());
      }
    } catch (const Error&) {
      ::unlink(at(name).c_str());
      throw;
    }
    return std::make_unique<RealFile>(std::move(fd), at(name));
  }

  std::unique_ptr<File> open(const std::string& name) override { return std::make_unique<RealFile>(Fd::open(at(name), O_RDWR), at(name)); }

  std::vector<std::string> list() override {
    DIR* folder = ::opendir(path_.c_str());
    if (folder == nullptr) throw_errno("cannot list " + path_);
    std::vector<std::string> names;
    while (const dirent* entry = ::readdir(folder)) {
      if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
    }
    ::closedir(folder);
    return names;
  }

  void rename(const std::string& from, const std::string& to) override {
    if (::rename(at(from).c_str(), at(to).c_str()) != 0) throw_errno("cannot rename " + at(from));
  }

  void unlink(const std::string& name) override {
    if (::unlink(at(name).c_str()) != 0 && errno != ENOENT) throw_errno("cannot delete " + at(name));
  }

  void sync() override {
    if (::fsync(lock_.get()) != 0) throw_errno("cannot sync folder " + path_);
  }

 private:
  std::string at(const std::string& name) const { return path_ + "/" + name; }

  std::string path_;
  Fd lock_;
};

}  // namespace

std::unique_ptr<Folder> open_folder(const std::string& path) { return std::make_unique<RealFolder>(path); }

}  // namespace mhv::disk
