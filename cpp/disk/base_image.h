// What lies under a journal: the disk as it was when the journal began, with what was folded into it since.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace mhv::disk {

// All of a disk's bytes, whatever format they are stored in. Calls may come from several threads at once; they throw Error.
class BaseImage {
 public:
  virtual ~BaseImage() = default;
  virtual std::uint64_t bytes() const = 0;
  virtual void read(std::span<std::byte> out, std::uint64_t offset) = 0;
  virtual void write(std::span<const std::byte> data, std::uint64_t offset) = 0;
  virtual void zero(std::uint64_t bytes, std::uint64_t offset) = 0;  // gives the space back where it can
  virtual void sync() = 0;                                           // what was written survives a power loss
};

// A raw file or block device, locked as QEMU locks an image that it writes. Throws kBusy while another process has it.
std::unique_ptr<BaseImage> open_raw_image(const std::string& path);

}  // namespace mhv::disk
