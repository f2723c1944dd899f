// For the benchmarks of this folder and of integrity: a live guest's memory as a layer reads it, and the floor of what is read of it.
#pragma once

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "introspection/kernel.h"
#include "sdk/memory_file.h"

namespace mhv::introspection::testing {

// One block of RAM from address 0 on, as a guest of up to 3 GiB has it.
class LiveMemory : public PhysicalMemory {
 public:
  explicit LiveMemory(const std::string& path) : bytes_(std::filesystem::file_size(path)), file_(Fd::open(path, O_RDONLY)) {}

  bool read(GuestPhys at, std::span<std::byte> out) const override {
    if (sizes_ != nullptr) sizes_->push_back(out.size());
    return file_.read(at.value, out);
  }
  std::vector<PhysRange> ranges() const override { return {{{0}, bytes_}}; }

  // Of all that `work` reads, one after the other.
  std::vector<std::size_t> sizes_read_by(const std::function<void()>& work) {
    std::vector<std::size_t> sizes;
    sizes_ = &sizes;
    work();
    sizes_ = nullptr;
    return sizes;
  }

 private:
  std::uint64_t bytes_;
  sdk::MemoryFile file_;
  std::vector<std::size_t>* sizes_ = nullptr;
};

// As many bytes, in pieces of those sizes, copied from one place of memory to another.
class Copies {
 public:
  explicit Copies(std::vector<std::size_t> sizes) : sizes_(std::move(sizes)) {
    std::size_t all = 0, most = 0;
    for (const std::size_t size : sizes_) all += size, most = std::max(most, size);
    from_.assign(all, std::byte{1});
    to_.resize(most);
  }
  void operator()() {
    const std::byte* at = from_.data();
    for (const std::size_t size : sizes_) {
      std::memcpy(to_.data(), at, size);
      asm volatile("" : : "r"(to_.data()) : "memory");
      at += size;
    }
  }

 private:
  std::vector<std::size_t> sizes_;
  std::vector<std::byte> from_, to_;
};

// Leaves nothing of what was used before in the processor's caches.
inline void empty_caches() {
  static std::vector<std::byte> other(128u << 20);
  for (std::size_t at = 0; at < other.size(); at += 64) other[at] = static_cast<std::byte>(at >> 6);
  asm volatile("" : : "r"(other.data()) : "memory");
}

// The median over `batches` of what one of `count` takes, in microseconds; `before` each batch something that does not count.
inline double median_us(unsigned batches, unsigned count, const std::function<void()>& one, const std::function<void()>& before = {}) {
  std::vector<double> out;
  for (unsigned batch = 0; batch < batches; ++batch) {
    if (before) before();
    const auto start = std::chrono::steady_clock::now();
    for (unsigned i = 0; i < count; ++i) one();
    out.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count() / count);
  }
  std::ranges::nth_element(out, out.begin() + batches / 2);
  return out[batches / 2];
}

inline void line(const char* name, double value, const char* unit, double floor) {
  fmt::print(R"({{"name": "{}", "value": {:.3f}, "unit": "{}", "floor": {:.3f}, "ratio": {:.3f}}})"
             "\n",
             name, value, unit, floor, value / floor);
}

inline void line(const char* name, double value, const char* unit) {
  fmt::print(R"({{"name": "{}", "value": {:.3f}, "unit": "{}", "floor": null, "ratio": null}})"
             "\n",
             name, value, unit);
}

}  // namespace mhv::introspection::testing
