#include "sdk/guest.h"

#include <algorithm>

#include "base/error.h"
#include "introspection/processes.h"
#include "sdk/engine.h"
#include "sdk/memory_file.h"

namespace mhv::sdk {
namespace {

constexpr std::uint64_t kFiveLevels = 1 << 12;  // CR4.LA57

}  // namespace

Guest::Guest(std::string uuid, std::string name, std::vector<Block> blocks, Engine& engine)
    : uuid_(std::move(uuid)), name_(std::move(name)), blocks_(std::move(blocks)), engine_(engine) {
  std::ranges::sort(blocks_, {}, [](const Block& block) { return block.range.start; });
}
Guest::~Guest() = default;

std::vector<PhysRange> Guest::ranges() const {
  std::vector<PhysRange> out;
  for (const Block& block : blocks_) out.push_back(block.range);
  return out;
}

const Guest::Block* Guest::block_of(GuestPhys at) const {
  auto block = std::ranges::upper_bound(blocks_, at, {}, [](const Block& b) { return b.range.start; });
  if (block == blocks_.begin()) return nullptr;
  --block;
  return at - block->range.start < block->range.bytes ? &*block : nullptr;
}

bool Guest::read(GuestPhys at, std::span<std::byte> out) const {
  while (!out.empty()) {
    const Block* const block = block_of(at);
    if (block == nullptr) return false;
    const std::uint64_t before = at - block->range.start;
    const auto part = out.first(static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), block->range.bytes - before)));
    if (!(block->file ? block->file->read(block->offset + before, part) : engine_.read(at, part))) return false;
    out = out.subspan(part.size());
    at = at + part.size();
  }
  return true;
}

bool Guest::kernel_is_there() const {
  const auto banner = kernel_->space().read_string(kernel_->symbol("linux_banner"), kernel_->banner().size());
  return banner == kernel_->banner();
}

const introspection::Kernel& Guest::kernel() { return *shared_kernel(); }

std::shared_ptr<const introspection::Kernel> Guest::shared_kernel() {
  if (kernel_ && kernel_is_there()) return kernel_;
  kernel_.reset();
  if (vcpus_.empty()) {
    throw Error(Code::kUnsupported, "the guest's processors are not known",
                "claim \"vcpu\": \"read\" in the manifest, and wait for the first epoch");
  }
  const ring::Vcpu& vcpu = vcpus_.front();
  kernel_ = std::make_shared<introspection::Kernel>(*this, introspection::Paging{vcpu.cr3, (vcpu.cr4 & kFiveLevels) != 0});
  return kernel_;
}

introspection::AddressSpace Guest::process(std::int32_t pid) {
  const introspection::Kernel& linux = kernel();
  const auto all = introspection::Processes(linux).list();
  const auto found = std::ranges::find(all, pid, &introspection::Process::pid);
  if (found == all.end()) throw Error(Code::kNotFound, "the guest has no process " + std::to_string(pid));
  const auto pointer = [&](GuestVirt at) {
    std::uint64_t value = 0;
    if (!linux.space().read(at, std::as_writable_bytes(std::span(&value, 1)))) value = 0;
    return GuestVirt{value};
  };
  const GuestVirt mm = pointer(found->task + linux.offset("task_struct", "mm"));
  if (mm.value == 0) throw Error(Code::kNotFound, "process " + std::to_string(pid) + " of the guest has no memory of its own");
  const auto space = linux.space_of(pointer(mm + linux.offset("mm_struct", "pgd")));
  if (!space) throw Error(Code::kNotFound, "process " + std::to_string(pid) + " of the guest has just ended");
  return *space;
}

}  // namespace mhv::sdk
