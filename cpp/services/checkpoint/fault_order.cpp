#include "checkpoint/fault_order.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"

namespace mhv::checkpoint {
namespace {

constexpr std::string_view kMagic = "MHVORDR1";
constexpr std::size_t kHeadBytes = kMagic.size() + sizeof(std::uint32_t);

}  // namespace

std::vector<PageNo> parse_fault_order(std::span<const std::byte> bytes) {
  std::uint32_t count = 0;
  if (bytes.size() < kHeadBytes || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0)
    throw Error(Code::kCorrupt, "this is no order of page faults");
  std::memcpy(&count, bytes.data() + kMagic.size(), sizeof(count));
  if (count > kFaultOrderMax || bytes.size() != kHeadBytes + std::size_t{count} * sizeof(std::uint32_t))
    throw Error(Code::kCorrupt, "an order of page faults has the wrong length");
  std::vector<PageNo> pages(count);
  static_assert(sizeof(PageNo) == sizeof(std::uint32_t));
  if (count > 0) std::memcpy(pages.data(), bytes.data() + kHeadBytes, bytes.size() - kHeadBytes);
  return pages;
}

std::vector<PageNo> load_fault_order(const std::string& path) noexcept {
  try {
    const std::string text = read_file(path, kHeadBytes + kFaultOrderMax * sizeof(std::uint32_t));
    return parse_fault_order(std::as_bytes(std::span(text)));
  } catch (const std::exception& error) {
    spdlog::debug("no order of page faults is known: {}", error.what());
    return {};
  }
}

void save_fault_order(const std::string& path, std::span<const PageNo> pages) noexcept {
  try {
    const auto count = static_cast<std::uint32_t>(std::min(pages.size(), kFaultOrderMax));
    std::vector<std::byte> out(kHeadBytes + std::size_t{count} * sizeof(std::uint32_t));
    std::memcpy(out.data(), kMagic.data(), kMagic.size());
    std::memcpy(out.data() + kMagic.size(), &count, sizeof(count));
    if (count > 0) std::memcpy(out.data() + kHeadBytes, pages.data(), std::size_t{count} * sizeof(std::uint32_t));
    replace_file(path, out);
  } catch (const std::exception& error) {
    spdlog::warn("the order of page faults is not kept: {}", error.what());
  }
}

}  // namespace mhv::checkpoint
