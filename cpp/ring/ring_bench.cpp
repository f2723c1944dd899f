// A channel's speed beside its floors, in one run: usage: ring_bench. Prints one JSON object a line (tests/bench/stack.py).
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <thread>

#include "ring/ring.h"
#include "ring/ring_sys.h"

namespace mhv::ring {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr unsigned kBatches = 41;
constexpr auto kNever = Clock::time_point::max();

void line(const char* name, double value, const char* unit, double floor) {
  fmt::print(R"({{"name": "{}", "value": {:.3f}, "unit": "{}", "floor": {:.3f}, "ratio": {:.3f}}})"
             "\n",
             name, value, unit, floor, value / floor);
}

// The median over batches of what one of `count` takes, in microseconds.
double median_us(unsigned count, const std::function<void()>& one) {
  std::vector<double> out;
  for (unsigned batch = 0; batch < kBatches; ++batch) {
    const auto start = Clock::now();
    for (unsigned i = 0; i < count; ++i) one();
    out.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count() / count);
  }
  std::ranges::nth_element(out, out.begin() + kBatches / 2);
  return out[kBatches / 2];
}

struct Pair {
  NewChannel ends = make_channel();
  Channel engine{std::move(ends.engine), Side::kEngine};
  Channel layer{std::move(ends.layer), Side::kLayer};
};

double line_one_way_us() {
  struct alignas(64) Line {
    std::atomic<std::uint64_t> value{0};
  } there, back;
  constexpr unsigned kCount = 20'000;
  std::thread other([&] {
    for (std::uint64_t i = 1; i <= std::uint64_t{kCount} * kBatches; ++i) {
      while (there.value.load(std::memory_order_acquire) != i) {
      }
      back.value.store(i, std::memory_order_release);
    }
  });
  std::uint64_t i = 0;
  const double out = median_us(kCount, [&] {
    there.value.store(++i, std::memory_order_release);
    while (back.value.load(std::memory_order_acquire) != i) {
    }
  });
  other.join();
  return out / 2;
}

double ring_one_way_us(unsigned count, microseconds spin) {
  Pair pair;
  std::thread other([&] {
    for (Message message; pair.layer.receive_until(message, kNever, spin) && message.type != Type::kStop;) {
      pair.layer.send(Type::kEpochDone, message.id, message.payload);
    }
  });
  Message answer;
  const std::vector<std::byte> payload(64);
  const double out = median_us(count, [&] {
    pair.engine.send(Type::kEpoch, 0, payload);
    pair.engine.receive_until(answer, kNever, spin);
  });
  pair.engine.send(Type::kStop, 0, {});
  other.join();
  return out / 2;
}

double socket_one_way_us(unsigned count) {
  const auto ends = make_wakes();
  const auto pass = [](const Fd& end) {
    wake(end);
    pollfd polled{end.get(), POLLIN, 0};
    ::poll(&polled, 1, -1);
    return take_wakes(end);
  };
  std::thread other([&] {
    pollfd polled{ends.second.get(), POLLIN, 0};
    ::poll(&polled, 1, -1);
    take_wakes(ends.second);
    for (unsigned i = 1; i < count * kBatches; ++i) pass(ends.second);
    wake(ends.second);
  });
  const double out = median_us(count, [&] { pass(ends.first); });
  other.join();
  return out / 2;
}

constexpr std::size_t kLarge = 64 << 10;

double ring_GBps() {
  constexpr unsigned kCount = 400;
  Pair pair;
  std::thread other([&] {
    Message message;
    for (unsigned i = 0; i < kCount * kBatches; ++i) pair.layer.receive_until(message, kNever);
  });
  const std::vector<std::byte> payload(kLarge, std::byte{1});
  const double us = median_us(kCount, [&] { pair.engine.send_until(kNever, Type::kBytes, 0, payload); });
  other.join();
  return kLarge / us / 1e3;
}

// Through memory as large as a ring.
double memcpy_GBps() {
  std::vector<std::byte> from(kLarge, std::byte{1}), to(kRingBytes);
  std::size_t at = 0;
  const double us = median_us(400, [&] {
    std::memcpy(to.data() + at, from.data(), kLarge);
    asm volatile("" : : "r"(to.data()) : "memory");
    at = (at + kLarge) % kRingBytes;
  });
  return kLarge / us / 1e3;
}

}  // namespace
}  // namespace mhv::ring

int main() {
  using namespace mhv::ring;
  line("stack.ring_one_way_us", ring_one_way_us(20'000, std::chrono::seconds(1)), "us", line_one_way_us());
  line("stack.ring_one_way_woken_us", ring_one_way_us(2'000, microseconds(0)), "us", socket_one_way_us(2'000));
  line("stack.ring_GBps", ring_GBps(), "GB/s", memcpy_GBps());
}
