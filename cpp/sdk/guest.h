// The guest of a layer: its memory as far as it was claimed, and the Linux in it.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "introspection/kernel.h"
#include "introspection/memory.h"
#include "ring/abi.h"

namespace mhv::sdk {

using introspection::GuestPhys;
using introspection::GuestVirt;
using introspection::PhysRange;

class Engine;
class MemoryFile;

// Of the layer's thread. A page that the guest never touched reads as zeros, and stays without memory.
class Guest final : public introspection::PhysicalMemory {
 public:
  struct Block {
    PhysRange range;
    std::shared_ptr<const MemoryFile> file;  // none: the engine is asked
    std::uint64_t offset = 0;                // of the range in the file
  };
  Guest(std::string uuid, std::string name, std::vector<Block> blocks, Engine& engine);
  ~Guest() override;
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  const std::string& uuid() const { return uuid_; }
  const std::string& name() const { return name_; }

  std::vector<PhysRange> ranges() const override;
  bool read(GuestPhys at, std::span<std::byte> out) const override;

  // Of the last epoch.
  std::span<const ring::Vcpu> vcpus() const { return vcpus_; }
  std::span<const ring::PageRange> written() const { return written_; }
  bool written_all() const { return written_all_; }

  // The Linux that runs there, found when it is first asked for (some 10 ms) and again after a reboot. Throws kUnsupported: it is none,
  // is not up yet, or processors and memory were not claimed.
  const introspection::Kernel& kernel();
  // The same, for what is kept over epochs: another one means that the guest has started again.
  std::shared_ptr<const introspection::Kernel> shared_kernel();
  // The memory of a process. Throws kNotFound: no such process, or it is a thread of the kernel.
  introspection::AddressSpace process(std::int32_t pid);

 private:
  friend class Runtime;
  bool kernel_is_there() const;
  const Block* block_of(GuestPhys at) const;

  const std::string uuid_, name_;
  std::vector<Block> blocks_;  // by address
  Engine& engine_;
  std::vector<ring::Vcpu> vcpus_;
  std::vector<ring::PageRange> written_;
  bool written_all_ = false;
  std::shared_ptr<const introspection::Kernel> kernel_;
};

}  // namespace mhv::sdk
