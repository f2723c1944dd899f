#include "introspection/walk.h"

#include <algorithm>

#include "base/units.h"

namespace mhv::introspection {
namespace {

// About half a second, 64 MiB of text or 256 Ki things found.
constexpr std::size_t kCostMax = 1u << 28;
constexpr std::size_t kPageCost = 512, kCopyCost = 16, kTextCost = 4;  // of a page read, of a copy out of it, of a byte of text

}  // namespace

Walk::Walk(const Kernel& kernel) : look_(kernel.space()), pages_(std::make_unique_for_overwrite<Page[]>(kPages)) { forget(); }

void Walk::pay(std::size_t cost) {
  cost_ += cost;
  if (cost_ > kCostMax) {
    throw Error(Code::kBusy, "the guest has more to look at than one look may take",
                "ask for one process; where there is none so large, the guest's kernel was tampered with");
  }
}

void Walk::give_up(std::string_view what) {
  throw Error(Code::kBusy, "the guest's " + std::string(what) + " does not hold together",
              "try again, or look at a checkpoint: it stands still; if it never does, the guest's kernel was tampered with");
}

const Walk::Page& Walk::page(GuestVirt at) {
  const GuestVirt begin{at.value - at.value % kPageSize};
  const std::size_t place = begin.value / kPageSize % kPages;
  if (page_at_[place] != begin) {
    pay(kPageCost);
    page_at_[place] = {kNowhere};
    if (!look_.read(begin, pages_[place])) throw Torn();
    page_at_[place] = begin;
  }
  return pages_[place];
}

void Walk::read(GuestVirt at, std::span<std::byte> out) {
  if (out.size() > kPageSize) {
    pay(out.size() / kPageSize * kPageCost);
    if (!look_.read(at, out)) throw Torn();
    return;
  }
  while (!out.empty()) {
    pay(kCopyCost);
    const std::size_t inside = at.value % kPageSize, some = std::min(out.size(), kPageSize - inside);
    std::copy_n(page(at).begin() + static_cast<std::ptrdiff_t>(inside), some, out.begin());
    at = at + some;
    out = out.subspan(some);
  }
}

std::string Walk::text(GuestVirt at, std::size_t max) {
  std::string out;
  while (out.size() < max) {
    pay(kCopyCost);
    const std::size_t inside = at.value % kPageSize, some = std::min(max - out.size(), kPageSize - inside);
    const auto* const begin = reinterpret_cast<const char*>(page(at).data()) + inside;
    const auto* const end = std::find(begin, begin + some, '\0');
    out.append(begin, end);
    pay(static_cast<std::size_t>(end - begin) * kTextCost);
    if (end != begin + some) break;
    at = at + some;
  }
  return out;
}

}  // namespace mhv::introspection
