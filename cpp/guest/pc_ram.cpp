#include "guest/pc_ram.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <optional>
#include <string_view>

#include "base/error.h"

namespace mhv::guest {
namespace {

constexpr std::uint64_t kGib = 1ull << 30, kAboveDevices = 4 * kGib;
// Of an AMD processor, what would reach 1,012 GiB with PCI's addresses behind it is above 1 TiB.
constexpr std::uint64_t kRamMax = 960 * kGib;

struct Node {
  std::uint32_t number = 0;
  std::uint64_t bytes = 0;
  PageNo first;
};

std::uint64_t below_devices(const std::string& machine, std::uint64_t bytes) {
  if (machine.starts_with("pc-i440fx")) return bytes >= 7 * kGib / 2 ? 3 * kGib : bytes;
  if (machine.starts_with("pc-q35")) return bytes >= 11 * kGib / 4 ? 2 * kGib : bytes;
  throw Error(Code::kUnsupported, "how machine type \"" + machine + "\" arranges its memory is not known",
              "take a guest of type pc or q35");
}

// "pc.ram", or of a guest with NUMA nodes "ram-node0" and so on; which of them is first in the list, QEMU decides by size.
std::optional<std::uint32_t> node_of(std::string_view block) {
  constexpr std::string_view kObjects = "/objects/", kNode = "ram-node";
  if (block.starts_with(kObjects)) block.remove_prefix(kObjects.size());
  if (block == "pc.ram") return 0;
  if (block.starts_with("mem")) {
    throw Error(Code::kUnsupported, "where the guest has its memory " + std::string(block) + " is not known",
                "take a guest without memory that was plugged in");
  }
  if (!block.starts_with(kNode)) return std::nullopt;
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(block.data() + kNode.size(), block.data() + block.size(), number);
  if (error != std::errc{} || end != block.data() + block.size()) return std::nullopt;
  return number;
}

std::vector<Node> ram_nodes(std::span<const StreamBlock> blocks) {
  std::vector<Node> out;
  std::uint64_t page = 0;
  for (const StreamBlock& block : blocks) {
    if (const auto number = node_of(block.name)) out.push_back({*number, block.bytes, {static_cast<std::uint32_t>(page)}});
    page += block.bytes >> kPageShift;
  }
  if (out.empty()) throw Error(Code::kUnsupported, "none of the guest's memory blocks is RAM of a PC");
  std::ranges::stable_sort(out, {}, &Node::number);
  return out;
}

void add_part(std::vector<RamPart>& parts, const RamPart& part) {
  if (!parts.empty()) {
    RamPart& last = parts.back();
    if (last.start + last.bytes == part.start && last.first.value + (last.bytes >> kPageShift) == part.first.value) {
      last.bytes += part.bytes;
      return;
    }
  }
  parts.push_back(part);
}

}  // namespace

std::vector<RamPart> pc_ram(const std::string& machine, std::span<const StreamBlock> blocks) {
  const std::vector<Node> nodes = ram_nodes(blocks);
  const std::uint64_t bytes =
      std::accumulate(nodes.begin(), nodes.end(), std::uint64_t{0}, [](std::uint64_t sum, const Node& node) { return sum + node.bytes; });
  const std::uint64_t below = below_devices(machine, bytes);
  if (bytes > kRamMax) throw Error(Code::kUnsupported, "how a PC with more than 960 GiB arranges its memory depends on its processor");
  std::vector<RamPart> out;
  std::uint64_t done = 0;  // of all nodes
  for (const Node& node : nodes) {
    const std::uint64_t low = done < below ? std::min(node.bytes, below - done) : 0;
    const PageNo rest{node.first.value + static_cast<std::uint32_t>(low >> kPageShift)};
    if (low > 0) add_part(out, {done, low, node.first});
    if (low < node.bytes) add_part(out, {kAboveDevices + done + low - below, node.bytes - low, rest});
    done += node.bytes;
  }
  return out;
}

}  // namespace mhv::guest
