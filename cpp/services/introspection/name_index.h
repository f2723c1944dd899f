// Numbers by name, for hundreds of thousands of names: open-addressed, made in one go.
#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

namespace mhv::introspection {

// The names stay with their owner, who says of a number what its name is. Where many names meet on purpose, some are not found.
class NameIndex {
 public:
  explicit NameIndex(std::size_t names) : slots_(std::bit_ceil(names * 2 + 1)) {}

  // Of equal names the first counts.
  template <typename NameOf>
  void add(std::uint32_t number, NameOf&& name_of) {
    const std::string_view name = name_of(number);
    const std::size_t home = std::hash<std::string_view>{}(name);
    for (std::size_t probe = 0; probe < kProbesMax; ++probe) {
      Slot& slot = at(home + probe);
      if (!slot.used) {
        slot = {check_of(home), 1, number & kNumberMask};
        return;
      }
      if (slot.check == check_of(home) && name_of(slot.number) == name) return;
    }
  }

  template <typename NameOf>
  std::optional<std::uint32_t> find(std::string_view name, NameOf&& name_of) const {
    const std::size_t home = std::hash<std::string_view>{}(name);
    for (std::size_t probe = 0; probe < kProbesMax; ++probe) {
      const Slot& slot = slots_[(home + probe) & (slots_.size() - 1)];
      if (!slot.used) break;
      if (slot.check == check_of(home) && name_of(slot.number) == name) return slot.number;
    }
    return std::nullopt;
  }

 private:
  static constexpr std::size_t kProbesMax = 64;
  static constexpr std::uint32_t kNumberMask = (1u << 23) - 1;
  struct Slot {
    std::uint32_t check : 8 = 0, used : 1 = 0, number : 23 = 0;
  };
  static_assert(sizeof(Slot) == 4);

  static std::uint8_t check_of(std::size_t hash) { return static_cast<std::uint8_t>(hash >> 56); }
  Slot& at(std::size_t place) { return slots_[place & (slots_.size() - 1)]; }

  std::vector<Slot> slots_;
};

}  // namespace mhv::introspection
