// Appends numbers and text to a growing buffer.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace mhv::guest {

class Bytes {
 public:
  template <std::unsigned_integral T>
  Bytes& big(T value) {
    for (int shift = 8 * static_cast<int>(sizeof(T)) - 8; shift >= 0; shift -= 8) data_.push_back(static_cast<std::byte>(value >> shift));
    return *this;
  }
  template <std::unsigned_integral T>
  Bytes& little(T value) {
    for (unsigned shift = 0; shift < 8 * sizeof(T); shift += 8) data_.push_back(static_cast<std::byte>(value >> shift));
    return *this;
  }
  Bytes& u8(unsigned value) {
    data_.push_back(static_cast<std::byte>(value));
    return *this;
  }
  Bytes& text(std::string_view text) { return raw(std::as_bytes(std::span(text))); }
  Bytes& raw(std::span<const std::byte> bytes) {
    data_.insert(data_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  Bytes& zeros_to(std::size_t size) {
    if (size > data_.size()) data_.resize(size);
    return *this;
  }

  std::size_t size() const { return data_.size(); }
  std::span<const std::byte> view() const { return data_; }
  std::vector<std::byte> take() && { return std::move(data_); }
  void clear() { data_.clear(); }

 private:
  std::vector<std::byte> data_;
};

}  // namespace mhv::guest
