// The two text tables that say where a guest's RAM is: QEMU's `info ramblock` and the kernel's /proc/PID/maps.
// Both come from a process that a tenant may have taken over, so nothing of them is believed before it is checked.
#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <set>

#include "base/error.h"
#include "guest/ram.h"

namespace mhv::guest {
namespace {

constexpr std::size_t kMapsBytesMax = 64u << 20;
constexpr std::size_t kMapsEntriesMax = 1u << 20;
constexpr std::uint64_t kUserEnd = 1ull << 63;  // beyond any user address, so that start + length cannot wrap

[[noreturn]] void bad_listing(const std::string& why) {
  throw Error(Code::kInvalid, "QEMU's RAM block table is not understood: " + why, "QEMU 7.2 to 10.x are supported");
}

[[noreturn]] void bad_maps(const std::string& why) { throw Error(Code::kInvalid, "the list of mappings is not understood: " + why); }

std::optional<std::uint64_t> parse_number(std::string_view text, int base) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> parse_hex0x(std::string_view text) {
  if (!text.starts_with("0x")) return std::nullopt;
  return parse_number(text.substr(2), 16);
}

// Takes the next line, without its end ("\r\n" or "\n").
std::string_view take_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

std::string_view take_token(std::string_view& line) {
  const std::size_t start = line.find_first_not_of(' ');
  if (start == std::string_view::npos) {
    line = {};
    return {};
  }
  line.remove_prefix(start);
  const std::string_view token = line.substr(0, line.find(' '));
  line.remove_prefix(token.size());
  return token;
}

std::optional<std::uint64_t> parse_page_size(std::string_view count, std::string_view unit) {
  const auto value = parse_number(count, 10);
  if (!value || *value == 0 || *value > 1024) return std::nullopt;
  if (unit == "KiB") return *value << 10;
  if (unit == "MiB") return *value << 20;
  if (unit == "GiB") return *value << 30;
  return std::nullopt;
}

bool plausible_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < '\x7f'; });
}

// name, page size and its unit, ram_addr offset, used and total length, host address, ro|rw
BlockListing parse_block(std::string_view line) {
  std::array<std::string_view, 8> field;
  for (auto& f : field) f = take_token(line);
  if (!take_token(line).empty()) bad_listing("too many columns");
  BlockListing block;
  const auto page_bytes = parse_page_size(field[1], field[2]);
  const auto used = parse_hex0x(field[4]);
  const auto total = parse_hex0x(field[5]);
  const auto host = parse_hex0x(field[6]);
  if (!plausible_name(field[0]) || !page_bytes || !parse_hex0x(field[3]) || !used || !total || !host) bad_listing("a column is malformed");
  if (field[7] != "ro" && field[7] != "rw") bad_listing("a block is neither ro nor rw");
  if (*used > *total || *total >= kUserEnd || *host >= kUserEnd) bad_listing("a length or address is out of range");
  if (*used % kPageSize != 0 || *host % kPageSize != 0) bad_listing("a length or address is not page-aligned");
  if (*used > 0 && *host == 0) bad_listing("a block has no address");
  return {std::string(field[0]), *used, *host, field[7] == "ro", *page_bytes};
}

void check_distinct(const std::vector<BlockListing>& blocks) {
  std::set<std::string_view> names;
  std::vector<const BlockListing*> by_address;
  for (const auto& block : blocks) {
    if (!names.insert(block.name).second) bad_listing("two blocks are called " + block.name);
    by_address.push_back(&block);
  }
  std::sort(by_address.begin(), by_address.end(), [](auto* a, auto* b) { return a->host_virt < b->host_virt; });
  for (std::size_t i = 1; i < by_address.size(); ++i) {
    const auto& before = *by_address[i - 1];
    if (before.host_virt + before.used_bytes > by_address[i]->host_virt) {
      bad_listing(before.name + " and " + by_address[i]->name + " overlap");
    }
  }
}

MapsEntry parse_mapping(std::string_view line) {
  MapsEntry entry;
  const std::string_view range = take_token(line);
  const std::string_view rights = take_token(line);
  const auto offset = parse_number(take_token(line), 16);
  const std::string_view device = take_token(line);
  const auto inode = parse_number(take_token(line), 10);
  const std::size_t dash = range.find('-');
  if (dash == std::string_view::npos) bad_maps("no address range");
  const auto start = parse_number(range.substr(0, dash), 16);
  const auto end = parse_number(range.substr(dash + 1), 16);
  if (!start || !end || !offset || !inode || rights.size() != 4 || device.find(':') == std::string_view::npos)
    bad_maps("a column is malformed");
  if (*start >= *end || *start % kPageSize != 0 || *end % kPageSize != 0) bad_maps("an address range is empty or not page-aligned");
  if ((rights[3] != 's' && rights[3] != 'p') || (rights[0] != 'r' && rights[0] != '-') || (rights[1] != 'w' && rights[1] != '-')) {
    bad_maps("access rights are malformed");
  }
  const std::size_t path = line.find_first_not_of(' ');
  return {*start,
          *end,
          *offset,
          rights[0] == 'r',
          rights[1] == 'w',
          rights[3] == 's',
          std::string(path == std::string_view::npos ? "" : line.substr(path))};
}

}  // namespace

std::vector<BlockListing> parse_ramblock_listing(std::string_view text) {
  if (text.size() > kListingBytesMax) bad_listing("it is too long");
  std::string_view head = take_line(text);
  for (const char* word : {"Block", "Name", "PSize", "Offset", "Used", "Total", "HVA", "RO"}) {
    if (take_token(head) != word) bad_listing(std::string("no column ") + word);
  }
  std::vector<BlockListing> blocks;
  std::size_t lines = 0;
  while (!text.empty()) {
    const std::string_view line = take_line(text);
    if (line.find_first_not_of(' ') == std::string_view::npos) continue;
    if (++lines > kRamBlocksMax) bad_listing("more than " + std::to_string(kRamBlocksMax) + " blocks");
    BlockListing block = parse_block(line);
    if (block.used_bytes > 0) blocks.push_back(std::move(block));
  }
  if (blocks.empty()) bad_listing("it names no block");
  check_distinct(blocks);
  return blocks;
}

std::vector<MapsEntry> parse_maps(std::string_view text) {
  if (text.size() > kMapsBytesMax) bad_maps("it is too long");
  std::vector<MapsEntry> entries;
  while (!text.empty()) {
    const std::string_view line = take_line(text);
    if (line.empty()) continue;
    if (entries.size() == kMapsEntriesMax) bad_maps("too many mappings");
    MapsEntry entry = parse_mapping(line);
    if (!entries.empty() && entry.start < entries.back().end) bad_maps("mappings overlap");
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace mhv::guest
