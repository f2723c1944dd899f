// The one place through which a journal touches its folder, so that a test can stop it, or lose its power, at every step.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace mhv::disk {

// An open file. read() and write() may be called by several threads at once. Errors are thrown as Error; kNoSpace: the
// file system is full, and nothing of this call counts.
class File {
 public:
  virtual ~File() = default;
  virtual void read(std::span<std::byte> out, std::uint64_t offset) = 0;  // beyond the end: kCorrupt
  virtual void write(std::span<const std::byte> data, std::uint64_t offset) = 0;
  virtual void sync() = 0;  // contents and length survive a power loss
  // A hint: this range will be synced next; its transfer may begin.
  virtual void begin_sync(std::uint64_t bytes, std::uint64_t offset) = 0;
  virtual std::uint64_t bytes() = 0;
};

// A folder of files with plain names. Used by one thread at a time.
class Folder {
 public:
  virtual ~Folder() = default;
  // A new file of `bytes` zeros, all of them allocated: writing into it cannot meet a full file system. Replaces what has that name.
  virtual std::unique_ptr<File> create(const std::string& name, std::uint64_t bytes) = 0;
  virtual std::unique_ptr<File> open(const std::string& name) = 0;  // kNotFound
  virtual std::vector<std::string> list() = 0;
  virtual void rename(const std::string& from, const std::string& to) = 0;
  virtual void unlink(const std::string& name) = 0;  // missing: no error
  virtual void sync() = 0;                           // names survive a power loss
};

// A real folder, made when it is missing, locked against other processes. Throws kBusy when another has it.
std::unique_ptr<Folder> open_folder(const std::string& path);

}  // namespace mhv::disk
