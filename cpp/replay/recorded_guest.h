// The memory and the processors of a guest at one of its checkpoints after the other.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "guest/pc_ram.h"
#include "ring/abi.h"
#include "stack/running_layer.h"
#include "store/store.h"

namespace mhv::replay {

// Of one thread, but for read().
class RecordedGuest : public stack::GuestMemory {
 public:
  // Throws what Store::open() and guest::pc_ram() do, kInvalid: it has no checkpoint.
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
  void load_page(PageNo page, std::span<const std::byte, kPageSize> content);
  void add_written(std::uint64_t start);

  std::unique_ptr<store::Store> store_;
  std::vector<store::CheckpointInfo> checkpoints_;
  std::size_t at_ = SIZE_MAX;  // before the first
  std::vector<guest::RamPart> parts_;
  Fd file_;  // one part behind the other
  std::vector<ring::Vcpu> vcpus_;
  std::vector<ring::PageRange> written_;
  std::uint64_t written_pages_ = 0;
};

}  // namespace mhv::replay
