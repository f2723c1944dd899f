// A live guest's memory as its layers see it: by guest-physical address, writable RAM only.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "guest/page_set.h"
#include "guest/physical_map.h"
#include "guest/ram.h"
#include "stack/running_layer.h"

namespace mhv::worker {

// Thread-safe. Has descriptors of its own.
class LayerMemory : public stack::GuestMemory {
 public:
  // `tree`: QEMU's `info mtree -f`.
  LayerMemory(const guest::Ram& ram, const std::string& tree);

  bool read(std::uint64_t start, std::span<std::byte> out) const override;

  // Of the blocks that layers can be given the files of, the numbers (WorkerGuestUp.blocks), in the order of their descriptors there.
  const std::vector<std::uint32_t>& shared_blocks() const { return shared_; }
  // "memory" of kHello. `first_descriptor`: what the first of them is there.
  nlohmann::json describe(int first_descriptor) const;
  // These pages where the guest has them; the others it cannot reach. Above `max` ranges: nothing, and false.
  bool physical_ranges(const guest::PageSet& pages, std::size_t max, std::vector<ring::PageRange>& out) const;

 private:
  const guest::PhysicalPart* find(std::uint64_t at) const;

  guest::Ram ram_;
  std::vector<guest::PhysicalPart> parts_;    // by address
  std::vector<guest::PhysicalPart> by_page_;  // by block and offset
  std::vector<std::uint32_t> shared_;
};

}  // namespace mhv::worker
