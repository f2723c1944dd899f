// The memory and the processors of a guest at one of its checkpoints after the other.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "ring/abi.h"
#include "stack/running_layer.h"
#include "store/store.h"

namespace mhv::replay {

// RAM by guest-physical address, one part behind the other in a file.
struct RamPart {
  std::uint64_t start = 0, bytes = 0;
};

// As QEMU's PCs arrange it (hw/i386/pc_piix.c, pc_q35.c): what does not fit below the devices' addresses is above 4 GiB. Throws
// kUnsupported: that is another machine.
std::vector<RamPart> arrange_ram(const std::string& machine, std::uint64_t bytes);

// Of one thread, but for read().
class RecordedGuest : public stack::GuestMemory {
 public:
  // Throws what Store::open() does, kInvalid: it has no checkpoint, kUnsupported as above.
  explicit RecordedGuest(const std::string& store);

  // Goes on to the next checkpoint. False: that was the last.
  bool next();

  const store::CheckpointInfo& checkpoint() const { return checkpoints_[at_]; }
  const std::vector<ring::Vcpu>& vcpus() const { return vcpus_; }
  // Since the checkpoint before; of the first, all.
  const std::vector<ring::PageRange>& written() const { return written_; }
  bool written_all() const { return at_ == 0; }
  std::uint64_t written_pages() const { return written_pages_; }

  const Fd& file() const { return file_; }
  // "memory" of kHello, of that descriptor.
  nlohmann::json describe(int descriptor) const;
  bool read(std::uint64_t start, std::span<std::byte> out) const override;

 private:
  void load(const std::vector<store::PageEntry>& pages);
  void add_written(std::uint64_t offset);

  std::unique_ptr<store::Store> store_;
  std::vector<store::CheckpointInfo> checkpoints_;
  std::size_t at_ = SIZE_MAX;  // before the first
  std::vector<RamPart> parts_;
  PageNo first_{};  // of RAM, among the pages of the store
  std::uint64_t bytes_ = 0;
  Fd file_;
  std::vector<ring::Vcpu> vcpus_;
  std::vector<ring::PageRange> written_;
  std::uint64_t written_pages_ = 0;
};

}  // namespace mhv::replay
