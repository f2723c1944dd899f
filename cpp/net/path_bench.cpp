// What the packet path costs beside the bridge alone, with every kernel object real: usage: path_bench, as root
//
// A tap that this program holds as QEMU would, a bridge, and a packet socket at the bridge's other port; all in network and mount
// namespaces of its own. The floor of each figure is the same without an interposition, and the two take turns. Prints one JSON object a
// line.
#include <fmt/format.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "net/lab_test.h"
#include "net/packet_path.h"
#include "net/tap_swap.h"

namespace mhv::net::testing {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTurns = 15;
constexpr std::uint32_t kFrames = 2000;  // a turn
constexpr std::uint32_t kWindow = 64;    // sent before the first is waited for
constexpr std::size_t kSegmented = 64'000;
constexpr std::uint32_t kLargeFrames = 1000;

class NoOvs : public Switch {
 public:
  bool has_port(const std::string&) override { return false; }
  void reopen(const std::string&, int) override {}
};

double us(Clock::duration time) { return std::chrono::duration<double, std::micro>(time).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.at(values.size() / 2);
}

void print(const char* name, double value, const char* unit, std::optional<double> floor = {}) {
  fmt::print("{{\"name\": \"packet.{}\", \"value\": {:.3f}, \"unit\": \"{}\", ", name, value, unit);
  if (floor) {
    fmt::print("\"floor\": {:.3f}, \"ratio\": {:.3f}}}\n", *floor, value / *floor);
  } else {
    fmt::print("\"floor\": null, \"ratio\": null}}\n");
  }
  std::fflush(stdout);
}

// struct virtio_net_hdr: linux/virtio_net.h is no C++.
struct Offload {
  std::uint8_t flags = 1;     // VIRTIO_NET_HDR_F_NEEDS_CSUM
  std::uint8_t gso_type = 1;  // VIRTIO_NET_HDR_GSO_TCPV4
  std::uint16_t header = 14 + sizeof(iphdr) + sizeof(tcphdr);
  std::uint16_t segment = 1448;
  std::uint16_t sum_start = 14 + sizeof(iphdr);
  std::uint16_t sum_offset = offsetof(tcphdr, check);
};
static_assert(sizeof(Offload) == kPacketHeader);

// A TCP segment as a guest's driver hands it over: to be cut by whoever needs it cut.
std::vector<std::uint8_t> large_packet() {
  const Offload offload;
  iphdr ip{};
  ip.version = 4;
  ip.ihl = 5;
  ip.ttl = 64;
  ip.protocol = IPPROTO_TCP;
  ip.tot_len = htons(static_cast<std::uint16_t>(kSegmented - 14));
  ip.saddr = htonl(0x0a4d0002);
  ip.daddr = htonl(0x0a4d0001);
  std::array<std::uint16_t, sizeof ip / 2> words{};
  std::memcpy(words.data(), &ip, sizeof ip);
  std::uint32_t sum = 0;
  for (const std::uint16_t word : words) sum += word;
  ip.check = static_cast<std::uint16_t>(~((sum & 0xffff) + (sum >> 16)));  // where a bridge calls netfilter, that looks at it
  tcphdr tcp{};
  tcp.doff = 5;
  std::vector<std::uint8_t> packet(sizeof offload + kSegmented, 0);
  const Frame ethernet = frame_of(0, true);
  std::memcpy(packet.data(), &offload, sizeof offload);
  std::memcpy(packet.data() + sizeof offload, ethernet.data(), 12);
  packet[sizeof offload + 12] = 0x08;  // IPv4
  std::memcpy(packet.data() + sizeof offload + 14, &ip, sizeof ip);
  std::memcpy(packet.data() + sizeof offload + 14 + sizeof ip, &tcp, sizeof tcp);
  return packet;
}

// One run of something with an interposition and one without, by turns.
class Bench {
 public:
  Bench() : namespaces_(folder_.path() + "/netns"), guest_("tap0") {
    sh("ip link set tap0 address fe:54:00:00:00:01 up && ip link set tap0 master br0");
    outside_.emplace("far1");
    // The bridge learns where both are.
    outside_->send(1);
    guest_.send(1);
    drain();
  }
  ~Bench() { namespaces_.remove("tap0"); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  template <typename Run>
  void compare(const char* name, const char* unit, const Run& run) {
    std::vector<double> with;
    std::vector<double> without;
    for (int turn = 0; turn < kTurns; ++turn) {
      without.push_back(run());
      {
        PacketPath path(std::move(swap().interpose("tap0")[0]));
        path.start();
        warm();
        with.push_back(run());
      }
      swap().undo("tap0");
      warm();
    }
    print(name, median(with), unit, median(without));
  }

  // From the guest's write to the far end's read, nothing else under way.
  double one_way_us() {
    std::vector<double> times;
    for (std::uint32_t i = 0; i < kFrames; ++i) {
      const auto before = Clock::now();
      guest_.send(i);
      outside_->receive();
      times.push_back(us(Clock::now() - before));
    }
    return median(times);
  }
  double frame_us() {
    const auto before = Clock::now();
    for (std::uint32_t sent = 0, seen = 0; seen < kFrames;) {
      while (sent < kFrames && sent - seen < kWindow) guest_.send(sent++);
      outside_->receive();
      ++seen;
    }
    return us(Clock::now() - before) / kFrames;
  }
  double large_mbps() {
    const std::vector<std::uint8_t> packet = large_packet();
    const Fd far = Fd::own(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(0x0800)));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(0x0800);
    address.sll_ifindex = static_cast<int>(::if_nametoindex("far1"));
    if (::bind(far.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) throw std::runtime_error("AF_PACKET");
    std::vector<std::uint8_t> buffer(kPacketMax);
    std::size_t bytes = 0;
    const auto before = Clock::now();
    for (std::uint32_t sent = 0, seen = 0; seen < kLargeFrames;) {
      while (sent < kLargeFrames && sent - seen < 2) {
        if (::write(guest_.fd(), packet.data(), packet.size()) < 0) throw std::runtime_error("write");
        ++sent;
      }
      if (!readable(far.get(), kSoonMs)) throw std::runtime_error("a large packet did not arrive");
      const ssize_t n = ::recv(far.get(), buffer.data(), buffer.size(), 0);
      bytes += static_cast<std::size_t>(n);
      ++seen;
    }
    return static_cast<double>(bytes) / us(Clock::now() - before);
  }

  // Of a swap and of an undo: all of it, and how long the guest's frames did not come through.
  void swaps() {
    std::vector<double> swap_ms;
    std::vector<double> undo_ms;
    std::vector<double> swap_gap;
    std::vector<double> undo_gap;
    for (int turn = 0; turn < kTurns; ++turn) {
      std::optional<PacketPath> path;
      const auto [forth, forth_gap] = during([&] { path.emplace(std::move(swap().interpose("tap0")[0])).start(); });
      const auto [back, back_gap] = during([&] { swap().undo("tap0"); });
      swap_ms.push_back(forth);
      swap_gap.push_back(forth_gap);
      undo_ms.push_back(back);
      undo_gap.push_back(back_gap);
    }
    print("swap_ms", median(swap_ms), "ms");
    print("swap_gap_ms", median(swap_gap), "ms");
    print("undo_ms", median(undo_ms), "ms");
    print("undo_gap_ms", median(undo_gap), "ms");
  }

 private:
  TapSwap swap() { return TapSwap(namespaces_, ovs_); }
  void drain() {
    while (outside_->receive(50)) {
    }
    while (guest_.receive(0)) {
    }
  }
  void warm() {
    outside_->send(1);
    for (std::uint32_t i = 0; i < 200; ++i) guest_.send(i);
    drain();
  }

  // Milliseconds of `work`, and of the longest time that nothing arrived while the guest sent without a break.
  template <typename Work>
  std::pair<double, double> during(const Work& work) {
    std::atomic<bool> stop{false};
    std::thread sender([&] {
      for (std::uint32_t i = 0; !stop; ++i) {
        guest_.send(i);
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    });
    double longest = 0;
    std::thread receiver([&] {
      for (auto last = Clock::now(); outside_->receive(200);) {
        const auto now = Clock::now();
        longest = std::max(longest, us(now - last) / 1000);
        last = now;
      }
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    const auto before = Clock::now();
    work();
    const double taken = us(Clock::now() - before) / 1000;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    stop = true;
    sender.join();
    receiver.join();
    return {taken, longest};
  }

  Folder folder_;
  NoOvs ovs_;
  Namespaces namespaces_;
  GuestTap guest_;
  std::optional<Outside> outside_;
};

void run() {
  if (!enter_lab().empty()) throw std::runtime_error(enter_lab());
  sh("ip link add br0 type bridge && ip link set br0 up");
  sh("ip link add far0 type veth peer name far1 && ip link set far0 master br0 up && ip link set far1 up");
  Bench bench;
  bench.compare("one_way_us", "us", [&] { return bench.one_way_us(); });
  bench.compare("frame_us", "us", [&] { return bench.frame_us(); });
  bench.compare("large_MBps", "MB/s", [&] { return bench.large_mbps(); });
  bench.swaps();
}

}  // namespace
}  // namespace mhv::net::testing

int main() {
  try {
    mhv::net::testing::run();
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
