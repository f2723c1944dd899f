// One look at a kernel's structures, within bounds: whatever a guest arranges there, it ends soon.
#pragma once

#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/error.h"
#include "introspection/kernel.h"

namespace mhv::introspection {

struct ListHead {
  GuestVirt next, prev;
};
static_assert(sizeof(ListHead) == 16);

// Thrown within a walk: what was read cannot be so. The guest changed it meanwhile, or it was tampered with.
struct Torn {};

// Pages that were read are known for as long as the walk lasts. Not thread-safe; the Kernel outlives it.
class Walk {
 public:
  explicit Walk(const Kernel& kernel);

  // Throw Torn: it is not there. All that a walk does costs something, and it throws kBusy when it took too much.
  template <typename T>
  T get(GuestVirt at) {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    read(at, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void read(GuestVirt at, std::span<std::byte> out);
  // Up to the first zero byte, or `max` bytes without one.
  std::string text(GuestVirt at, std::size_t max);
  // Calls `each` with every entry's list_head. Torn: a link does not lead back.
  template <typename Each>
  void list(GuestVirt head, Each&& each) {
    for (GuestVirt at = head;;) {
      const auto next = get<ListHead>(at).next;
      if (get<ListHead>(next).prev != at) throw Torn();
      if (next == head) return;
      row();
      each(next);
      at = next;
    }
  }
  // Each thing that is found.
  void row() { pay(kRowCost); }

  // What `look` returns when it is not Torn, which it may be a few times; nullopt: it always was.
  template <typename Look>
  std::optional<std::invoke_result_t<Look>> attempt(Look&& look) {
    for (int tries = 0; tries < kTries; ++tries) {
      try {
        return look();
      } catch (const Torn&) {
        forget();
      }
    }
    return std::nullopt;
  }
  // Throws kBusy where attempt() returns nothing. `what` of the guest: "list of modules".
  template <typename Look>
  std::invoke_result_t<Look> again(std::string_view what, Look&& look) {
    auto found = attempt(look);
    if (!found) give_up(what);
    return std::move(*found);
  }

 private:
  static constexpr int kTries = 5;
  static constexpr std::size_t kPages = 64;
  static constexpr std::size_t kRowCost = 1024;
  using Page = std::array<std::byte, 4096>;

  [[noreturn]] static void give_up(std::string_view what);
  void pay(std::size_t cost);
  void forget() { page_at_.fill({kNowhere}); }
  const Page& page(GuestVirt at);

  static constexpr std::uint64_t kNowhere = 1;
  Look look_;
  std::array<GuestVirt, kPages> page_at_;
  std::unique_ptr<Page[]> pages_;
  std::size_t cost_ = 0;
};

}  // namespace mhv::introspection
