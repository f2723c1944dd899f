#include "introspection/kernel.h"

#include <array>
#include <utility>

#include "base/error.h"

namespace mhv::introspection {
namespace {

constexpr std::size_t kBannerBytesMax = 512;
constexpr const char* kTried = "Debian's kernel 6.1 has it; if this one ought to, it was tampered with";
constexpr std::string_view kBannerBegins = "Linux version ";
// With page table isolation a process has two roots, side by side; the kernel's own is the lower one.
constexpr std::uint64_t kUserRoot = 1u << 12;

std::vector<std::byte> read_btf(const AddressSpace& space, const Kallsyms& symbols, const std::string& banner) {
  const auto start = symbols.find("__start_BTF"), stop = symbols.find("__stop_BTF");
  if (!start || !stop || *stop <= *start || *stop - *start > kBtfBytesMax) {
    throw Error(Code::kUnsupported, "the guest's kernel says nothing of its structures: " + banner,
                "it takes a kernel built with CONFIG_DEBUG_INFO_BTF, as Debian's are since 5.10");
  }
  std::vector<std::byte> bytes(*stop - *start);
  if (!space.read(*start, bytes)) throw Error(Code::kUnsupported, "the guest's kernel has its BTF where nothing can be read", "try again");
  return bytes;
}

}  // namespace

// A kernel's data is where its symbols say only if it is the one whose page tables are in use. Those of a process go with it; the kernel's
// own, init_top_pgt, stay.
Kernel::Parts Kernel::find(const PhysicalMemory& memory, const Paging& paging) {
  std::vector<FoundKallsyms> found = find_kallsyms(memory);
  for (const std::uint64_t cr3 : std::array{paging.cr3, paging.cr3 & ~kUserRoot}) {
    const AddressSpace space(memory, cr3, paging.five_levels);
    for (FoundKallsyms& one : found) {
      const auto at = one.symbols.find("linux_banner"), root = one.symbols.find("init_top_pgt");
      const auto root_phys = root ? space.translate(*root) : std::nullopt;
      if (!at || !root_phys) continue;
      const AddressSpace own(memory, root_phys->at.value, paging.five_levels);
      auto banner = own.read_string(*at, kBannerBytesMax);
      if (!banner || !banner->starts_with(kBannerBegins)) continue;
      if (banner->ends_with('\n')) banner->pop_back();
      return {&memory, paging.five_levels, std::move(*banner), std::move(one.symbols), own};
    }
  }
  if (found.empty()) {
    throw Error(Code::kUnsupported, "no Linux kernel was found in the guest's memory",
                "it takes Linux 4.20 to 6.12 on x86-64 with CONFIG_KALLSYMS; try again when the guest has started");
  }
  throw Error(Code::kUnsupported, "the guest's memory has the symbols of a kernel that does not run",
              "try again when the guest has started");
}

Kernel::Kernel(const PhysicalMemory& memory, const Paging& paging) : Kernel(find(memory, paging)) {}

Kernel::Kernel(Parts parts)
    : memory_(parts.memory),
      five_levels_(parts.five_levels),
      banner_(std::move(parts.banner)),
      symbols_(std::move(parts.symbols)),
      space_(parts.space),
      types_(read_btf(space_, symbols_, banner_)) {}

std::optional<AddressSpace> Kernel::space_of(GuestVirt root) const {
  const auto phys = space_.translate(root);
  if (!phys) return std::nullopt;
  return space_at(phys->at);
}

GuestVirt Kernel::symbol(std::string_view name) const {
  if (const auto at = symbols_.find(name)) return *at;
  throw Error(Code::kUnsupported, "the guest's kernel has no " + std::string(name) + ": " + banner_, kTried);
}

std::uint32_t Kernel::offset(std::string_view structure, std::string_view member) const {
  if (const auto field = types_.field(structure, member)) return field->offset;
  throw Error(Code::kUnsupported, "the guest's kernel has no " + std::string(structure) + "." + std::string(member) + ": " + banner_,
              kTried);
}

}  // namespace mhv::introspection
