#include "guest/physical_map.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/error.h"

namespace mhv::guest {
namespace {

constexpr std::size_t kPartsMax = 4096;

[[noreturn]] void bad_tree(const std::string& why) {
  throw Error(Code::kInvalid, "QEMU's memory tree is not understood: " + why, "QEMU 7.2 to 10.x are supported");
}

std::string_view take_tree_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

std::optional<std::uint64_t> take_hex(std::string_view& text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

bool take(std::string_view& text, std::string_view what) {
  if (!text.starts_with(what)) return false;
  text.remove_prefix(what.size());
  return true;
}

// A region "pc.ram" is the block "pc.ram", "/objects/pc.ram" or "0000:00:02.0/pc.ram".
std::optional<std::size_t> find_block(std::string_view region, std::span<const RamBlock> blocks) {
  const auto same = [&](const RamBlock& block) {
    const std::string_view name = block.name;
    return name == region || (name.ends_with(region) && name[name.size() - region.size() - 1] == '/');
  };
  const auto found = std::ranges::find_if(blocks, same);
  if (found == blocks.end() || std::any_of(found + 1, blocks.end(), same)) return std::nullopt;
  return static_cast<std::size_t>(found - blocks.begin());
}

// "  0000000100000000-000000013fffffff (prio 0, ram): pc.ram @00000000c0000000 KVM"
std::optional<PhysicalPart> parse_part(std::string_view line, std::span<const RamBlock> blocks) {
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  const auto start = take_hex(line);
  if (!start || !take(line, "-")) return std::nullopt;
  const auto last = take_hex(line);
  if (!last || !take(line, " (prio ")) return std::nullopt;
  const std::size_t kind = line.find(", ram): ");
  if (kind == std::string_view::npos) return std::nullopt;
  line.remove_prefix(kind + 8);
  const std::string_view region = line.substr(0, line.find(' '));
  line.remove_prefix(region.size());
  std::uint64_t offset = 0;
  if (take(line, " @")) {
    const auto value = take_hex(line);
    if (!value) bad_tree("an offset is malformed");
    offset = *value;
  }
  const auto block = find_block(region, blocks);
  if (!block || blocks[*block].read_only) return std::nullopt;
  if (*last < *start || *last - *start >= blocks[*block].bytes || offset > blocks[*block].bytes - (*last - *start + 1)) {
    bad_tree("it shows more of " + blocks[*block].name + " than there is");
  }
  PhysicalPart part{*start, *last - *start + 1, *block, offset};
  // Whole pages: devices may lie over the rest.
  const std::uint64_t skipped = (kPageSize - part.start % kPageSize) % kPageSize;
  if (part.bytes < skipped + kPageSize) return std::nullopt;
  part.start += skipped;
  part.offset += skipped;
  part.bytes = (part.bytes - skipped) / kPageSize * kPageSize;
  return part;
}

void add_part(std::vector<PhysicalPart>& parts, const PhysicalPart& part) {
  if (!parts.empty()) {
    PhysicalPart& last = parts.back();
    if (part.start < last.start + last.bytes) bad_tree("parts overlap or descend");
    if (part.start == last.start + last.bytes && part.block == last.block && part.offset == last.offset + last.bytes) {
      last.bytes += part.bytes;
      return;
    }
  }
  if (parts.size() == kPartsMax) bad_tree("too many parts");
  parts.push_back(part);
}

}  // namespace

std::vector<PhysicalPart> parse_memory_tree(std::string_view text, std::span<const RamBlock> blocks) {
  if (text.size() > kMemoryTreeBytesMax) bad_tree("it is too long");
  std::vector<PhysicalPart> parts;
  bool in_memory = false;  // in the view of which "memory" is one of the address spaces
  while (!text.empty()) {
    const std::string_view line = take_tree_line(text);
    if (line.starts_with("FlatView #")) {
      if (in_memory) break;
    } else if (line.starts_with(" AS \"memory\",")) {
      in_memory = true;
    } else if (in_memory) {
      if (const auto part = parse_part(line, blocks)) add_part(parts, *part);
    }
  }
  if (parts.empty()) bad_tree("it shows none of the guest's RAM");
  return parts;
}

}  // namespace mhv::guest
