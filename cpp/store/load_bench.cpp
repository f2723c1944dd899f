// The store under recorded load, beside its floors and peers: usage: store_load_bench FOLDER STREAM...
//
// A STREAM is one guest's memory at its checkpoints: for each of them a count (4 bytes), so many page numbers (4 bytes each), so many
// pages; what is not named is as before, in the first one zeros (tests/bench/store.py records them). Prints one JSON object a line.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <zdict.h>
#include <zstd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>

#include "base/error.h"
#include "base/fd.h"
#include "store/files.h"
#include "store/format.h"
#include "store/page_namer.h"
#include "store/random.h"
#include "store/store.h"

namespace mhv::store {
namespace {

using Clock = std::chrono::steady_clock;
using Page = std::array<std::byte, kPageSize>;

// Of this process's processor: what one core does, on a machine that others use too. Waiting for the disk is not in it.
class Cpu {
 public:
  double seconds() const { return now() - start_; }

 private:
  static double now() {
    timespec t{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
  }
  double start_ = now();
};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void line(const std::string& name, double value, const char* unit, double floor = 0) {
  fmt::print(R"({{"name": "{}", "value": {:.3f}, "unit": "{}", "floor": {}, "ratio": {}}})"
             "\n",
             name, value, unit, floor == 0 ? "null" : fmt::format("{:.3f}", floor),
             floor == 0 ? "null" : fmt::format("{:.3f}", value / floor));
  std::fflush(stdout);
}

double percentile(std::vector<double> values, double of) {
  std::sort(values.begin(), values.end());
  return values.at(static_cast<std::size_t>(static_cast<double>(values.size() - 1) * of));
}

struct Checkpoint {
  std::vector<std::uint32_t> numbers;
  std::vector<Page> pages;
};
using Guest = std::vector<Checkpoint>;

Guest load_guest(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  Guest out;
  for (std::uint32_t count = 0; in.read(reinterpret_cast<char*>(&count), 4);) {
    Checkpoint one;
    one.numbers.resize(count);
    one.pages.resize(count);
    in.read(reinterpret_cast<char*>(one.numbers.data()), count * 4ll);
    in.read(reinterpret_cast<char*>(one.pages.data()), static_cast<std::streamsize>(count * kPageSize));
    if (!in) throw Error(Code::kCorrupt, path + " is cut short");
    out.push_back(std::move(one));
  }
  return out;
}

std::string id_of(unsigned number) { return fmt::format("00000000-0000-4000-8000-{:012x}", number); }

CheckpointInfo info(unsigned number, std::uint32_t pages) {
  CheckpointInfo out;
  out.id = id_of(number);
  out.automatic = true;
  out.created_ns = number * 25'000'000ll;
  out.domain_xml = std::string(10'000, 'x');
  out.blocks = {{"pc.ram", std::uint64_t{pages} * kPageSize, false}};
  return out;
}

std::uint32_t pages_of_guest(const Guest& guest) {
  std::uint32_t most = 0;
  for (const Checkpoint& one : guest) {
    for (const std::uint32_t number : one.numbers) most = std::max(most, number);
  }
  return most + 1;
}

// Every guest into a store of its own, and back.
class Load {
 public:
  explicit Load(std::vector<Guest> guests) : guests_(std::move(guests)) {
    for (const Guest& guest : guests_) {
      for (const Checkpoint& one : guest) raw_bytes_ += one.pages.size() * kPageSize;
    }
  }

  void run(const std::string& folder) {
    floors();
    for (std::size_t i = 0; i < guests_.size(); ++i) ingest(folder + "/guest" + std::to_string(i), guests_[i]);
    const auto raw = static_cast<double>(raw_bytes_);
    line("store.ingest_GBps", raw / put_s_ / 1e9, "GB/s", memcpy_GBps_);
    line("store.ingest_root_GBps", static_cast<double>(root_bytes_) / root_s_ / 1e9, "GB/s", memcpy_GBps_);
    line("store.ingest_increment_GBps", (raw - static_cast<double>(root_bytes_)) / (put_s_ - root_s_) / 1e9, "GB/s", memcpy_GBps_);
    line("store.zstd1_GBps", zstd_GBps_, "GB/s", memcpy_GBps_);
    line("store.restore_GBps", static_cast<double>(restored_bytes_) / restore_s_ / 1e9, "GB/s", memcpy_GBps_);
    line("store.restore_compacted_GBps", static_cast<double>(restored_bytes_) / restore_compacted_s_ / 1e9, "GB/s", memcpy_GBps_);
    line("store.zstd1_decompress_GBps", unzstd_GBps_, "GB/s", memcpy_GBps_);
    line("store.changed_MB", raw / 1e6, "MB");
    line("store.saved_fraction", 1 - static_cast<double>(stored_bytes_) / raw, "of changed pages");
    line("store.saved_fraction_compacted", 1 - static_cast<double>(compacted_bytes_) / raw, "of changed pages");
    line("store.saved_fraction_pages_alone", 1 - static_cast<double>(pages_bytes_) / raw, "of changed pages");
    line("store.compact_step_p50_ms", percentile(compact_steps_ms_, 0.5), "ms");
    line("store.compact_step_max_ms", percentile(compact_steps_ms_, 1), "ms");
    line("peer.sharing.saved_fraction", 1 - static_cast<double>(shared_bytes_) / raw, "of changed pages");
    line("peer.sharing_zstd1.saved_fraction", 1 - static_cast<double>(shared_zstd_bytes_) / raw, "of changed pages");
    line("peer.sharing_zstd1_trained.saved_fraction", 1 - static_cast<double>(shared_trained_bytes_) / raw, "of changed pages");
    line("peer.sharing_zstd1_8_pages.saved_fraction", 1 - static_cast<double>(shared_packed_bytes_) / raw, "of changed pages");
  }

 private:
  // What any store does at least: copy each page; and what the peers make of the same pages.
  void floors() {
    std::vector<std::byte> to(1 << 20);
    std::size_t at = 0;
    const Cpu start;
    for (const Guest& guest : guests_) {
      for (const Checkpoint& one : guest) {
        for (const Page& page : one.pages) {
          std::memcpy(to.data() + at, page.data(), kPageSize);
          at = (at + kPageSize) % to.size();
        }
      }
    }
    memcpy_GBps_ = static_cast<double>(raw_bytes_) / start.seconds() / 1e9;
    const PageNamer name({random_bytes<Secret>(), std::nullopt});
    const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> zstd(ZSTD_createCCtx(), &ZSTD_freeCCtx);
    std::vector<char> room(ZSTD_compressBound(kPageSize));
    Page back;
    const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> unzstd(ZSTD_createDCtx(), &ZSTD_freeDCtx);
    constexpr double kTimedBytes = 100e6;
    std::vector<const Page*> timed;
    double tried = 0;
    for (const Guest& guest : guests_) {
      std::set<PageKey> seen;  // no sharing between guests: as the store itself
      std::vector<const Page*> shared;
      for (const Checkpoint& one : guest) {
        for (const Page& page : one.pages) {
          const PageKey key = name(page);
          if (key.is_zero_page() || !seen.insert(key).second) continue;
          shared_bytes_ += kPageSize;
          shared.push_back(&page);
          const std::size_t n = ZSTD_compressCCtx(zstd.get(), room.data(), room.size(), page.data(), kPageSize, 1);
          if (tried < kTimedBytes) {
            timed.push_back(&page);
            tried += kPageSize;
          }
          shared_zstd_bytes_ += std::min(n, kPageSize);
        }
      }
      shared_trained_bytes_ += trained(shared);
      shared_packed_bytes_ += packed(shared);
    }
    std::vector<std::vector<char>> frames;
    const Cpu compressing;
    for (const Page* page : timed) {
      const std::size_t n = ZSTD_compressCCtx(zstd.get(), room.data(), room.size(), page->data(), kPageSize, 1);
      frames.emplace_back(room.begin(), room.begin() + static_cast<std::ptrdiff_t>(n));
    }
    zstd_GBps_ = tried / compressing.seconds() / 1e9;
    const Cpu decompressing;
    for (const auto& frame : frames) ZSTD_decompressDCtx(unzstd.get(), back.data(), back.size(), frame.data(), frame.size());
    unzstd_GBps_ = tried / decompressing.seconds() / 1e9;
  }

  // The bytes of the pages, each compressed with a dictionary that was trained on the first of them.
  static std::uint64_t trained(const std::vector<const Page*>& pages) {
    constexpr std::size_t kDictionaryBytes = 64 << 10, kSamples = 8192;
    std::vector<std::byte> samples, dictionary(kDictionaryBytes);
    for (std::size_t i = 0; i < std::min(kSamples, pages.size()); ++i) samples.insert(samples.end(), pages[i]->begin(), pages[i]->end());
    const std::vector<std::size_t> sizes(samples.size() / kPageSize, kPageSize);
    const std::size_t bytes =
        ZDICT_trainFromBuffer(dictionary.data(), dictionary.size(), samples.data(), sizes.data(), static_cast<unsigned>(sizes.size()));
    if (ZDICT_isError(bytes) != 0) throw Error(Code::kInternal, ZDICT_getErrorName(bytes));
    const std::unique_ptr<ZSTD_CDict, decltype(&ZSTD_freeCDict)> ready(ZSTD_createCDict(dictionary.data(), bytes, 1), &ZSTD_freeCDict);
    const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> zstd(ZSTD_createCCtx(), &ZSTD_freeCCtx);
    std::vector<char> room(ZSTD_compressBound(kPageSize));
    std::uint64_t sum = bytes;
    for (const Page* page : pages) {
      const std::size_t n = ZSTD_compress_usingCDict(zstd.get(), room.data(), room.size(), page->data(), kPageSize, ready.get());
      sum += std::min(n, kPageSize);
    }
    return sum;
  }

  // The bytes of the pages, eight together.
  static std::uint64_t packed(const std::vector<const Page*>& pages) {
    constexpr std::size_t kTogether = 8;
    const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> zstd(ZSTD_createCCtx(), &ZSTD_freeCCtx);
    std::vector<char> room(ZSTD_compressBound(kTogether * kPageSize));
    std::vector<Page> pack;
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < pages.size(); ++i) {
      pack.push_back(*pages[i]);
      if (pack.size() < kTogether && i + 1 < pages.size()) continue;
      const std::size_t bytes = pack.size() * kPageSize;
      sum += std::min(ZSTD_compressCCtx(zstd.get(), room.data(), room.size(), pack.data(), bytes, 1), bytes);
      pack.clear();
    }
    return sum;
  }

  void ingest(const std::string& folder, const Guest& guest) {
    const auto store = Store::open(folder);
    const std::uint32_t pages = pages_of_guest(guest);
    std::string parent;
    unsigned number = 0;
    for (const Checkpoint& one : guest) {
      const Cpu start;
      Writer writer = store->begin(parent);
      for (std::size_t i = 0; i < one.pages.size(); ++i) writer.put(PageNo{one.numbers[i]}, one.pages[i]);
      parent = writer.commit(info(++number, pages)).id;
      const double took = start.seconds();
      put_s_ += took;
      if (number != 1) continue;
      root_s_ += took;
      root_bytes_ += one.pages.size() * kPageSize;
    }
    stored_bytes_ += store->bytes_on_disk();
    restored_bytes_ += restore(*store, guest, restore_s_);
    for (bool more = true; more;) {
      const auto step = Clock::now();
      more = store->compact(true).has_value();
      compact_steps_ms_.push_back(seconds_since(step) * 1e3);
    }
    restore(*store, guest, restore_compacted_s_);
    compacted_bytes_ += store->bytes_on_disk();
    const StoreStat stat = store->stat();
    pages_bytes_ +=
        stat.raw_bytes + stat.lz4_bytes + stat.filled_bytes + stat.delta_bytes + stat.zstd_bytes - stat.contents * record_bytes(0);
  }

  // The last checkpoint, all of its memory, compared with what was recorded.
  static std::uint64_t restore(const Store& store, const Guest& guest, double& took) {
    const PageTable table = store.resolve(id_of(static_cast<unsigned>(guest.size())));
    std::vector<Page> memory(table.size());
    constexpr std::size_t kAtOnce = 4096;
    std::uint64_t bytes = 0;
    const Cpu start;
    for (std::size_t at = 0; at < table.size(); at += kAtOnce) {
      std::vector<PageRead> reads;
      for (std::size_t i = at; i < std::min(at + kAtOnce, table.size()); ++i) {
        if (!table[i].is_zero_page()) reads.push_back({table[i], memory[i].data()});
      }
      store.read_many(reads);
      bytes += reads.size() * kPageSize;
    }
    took += start.seconds();
    std::vector<Page> expected(table.size());
    for (const Checkpoint& one : guest) {
      for (std::size_t i = 0; i < one.pages.size(); ++i) expected[one.numbers[i]] = one.pages[i];
    }
    if (memory != expected) throw Error(Code::kCorrupt, "the restored memory differs");
    return bytes;
  }

  const std::vector<Guest> guests_;
  std::uint64_t raw_bytes_ = 0, root_bytes_ = 0, stored_bytes_ = 0, compacted_bytes_ = 0, pages_bytes_ = 0, restored_bytes_ = 0,
                shared_bytes_ = 0, shared_zstd_bytes_ = 0, shared_trained_bytes_ = 0, shared_packed_bytes_ = 0;
  double put_s_ = 0, root_s_ = 0, restore_s_ = 0, restore_compacted_s_ = 0, memcpy_GBps_ = 0, zstd_GBps_ = 0, unzstd_GBps_ = 0;
  std::vector<double> compact_steps_ms_;
};

// 1,000 pages of which a word has changed, as a counter does; the floor appends as many bytes as were stored and syncs them.
void commits(const std::string& folder) {
  constexpr std::uint32_t kRam = 131072, kPages = 1000;
  const auto store = Store::open(folder + "/commits");
  std::mt19937_64 random(1);
  std::vector<Page> pages(kPages);
  for (Page& page : pages) {
    for (std::size_t i = 0; i < kPageSize; i += 8) {
      const std::uint64_t value = random() & 0xffffff;
      std::memcpy(page.data() + i, &value, 8);
    }
  }
  const Fd floor_file = Fd::open(folder + "/floor", O_RDWR | O_CREAT | O_TRUNC);
  FileOps files;
  std::vector<double> commit_ms, epoch_ms, floor_ms;
  std::uint64_t floor_at = 0;
  std::string parent;
  for (unsigned number = 1; number <= 300; ++number) {
    for (Page& page : pages) std::memcpy(page.data() + random() % 500 * 8, &number, sizeof number);
    const auto start = Clock::now();
    Writer writer = store->begin(parent);
    for (std::uint32_t i = 0; i < kPages; ++i) writer.put(PageNo{(i * 7919) % kRam}, pages[i]);
    const auto put = Clock::now();
    const CheckpointInfo made = writer.commit(info(number, kRam));
    commit_ms.push_back(seconds_since(put) * 1e3);
    epoch_ms.push_back(seconds_since(start) * 1e3);
    parent = made.id;
    const std::vector<std::byte> data(made.bytes_stored);
    const auto before = Clock::now();
    files.write(floor_file, data, floor_at, "floor");
    files.sync(floor_file, "floor");
    floor_ms.push_back(seconds_since(before) * 1e3);
    floor_at += data.size();
  }
  line("store.commit_ms", percentile(commit_ms, 0.5), "ms", percentile(floor_ms, 0.5));
  line("store.commit_p99_ms", percentile(commit_ms, 0.99), "ms", percentile(floor_ms, 0.99));
  line("store.epoch_ms", percentile(epoch_ms, 0.5), "ms", percentile(floor_ms, 0.5));
}

void many(const std::string& folder) {
  constexpr unsigned kCheckpoints = 10'000;
  constexpr std::uint32_t kRam = 131072, kPages = 50;
  std::vector<double> commit_ms;
  std::mt19937_64 random(2);
  {
    const auto store = Store::open(folder + "/many");
    std::string parent;
    Page page{};
    for (unsigned number = 1; number <= kCheckpoints; ++number) {
      Writer writer = store->begin(parent);
      for (std::uint32_t i = 0; i < kPages; ++i) {
        const std::uint64_t words[2] = {random(), number};
        std::memcpy(page.data() + random() % 100 * 16, words, sizeof words);
        writer.put(PageNo{static_cast<std::uint32_t>(random() % 5000 * 26)}, page);
      }
      const auto start = Clock::now();
      parent = writer.commit(info(number, kRam)).id;
      commit_ms.push_back(seconds_since(start) * 1e3);
    }
  }
  const auto head = std::vector(commit_ms.begin(), commit_ms.begin() + 1000), tail = std::vector(commit_ms.end() - 1000, commit_ms.end());
  line("store.commit_ms_at_10000", percentile(tail, 0.5), "ms", percentile(head, 0.5));
  std::vector<double> open_ms, remove_ms;
  for (int round = 0; round < 3; ++round) {
    const auto start = Clock::now();
    const auto store = Store::open(folder + "/many");
    open_ms.push_back(seconds_since(start) * 1e3);
    if (store->count() != kCheckpoints) throw Error(Code::kInternal, "checkpoints are missing");
  }
  line("store.open_ms", percentile(open_ms, 0.5), "ms");
  const auto store = Store::open(folder + "/many");
  auto start = Clock::now();
  const auto table = store->resolve(id_of(kCheckpoints - 1));
  line("store.resolve_ms", seconds_since(start) * 1e3, "ms");
  for (unsigned first = 1; first + 40 < kCheckpoints; first += 40) {
    std::vector<std::string> ids;
    for (unsigned i = first; i < first + 39; ++i) ids.push_back(id_of(i));
    start = Clock::now();
    store->remove(ids);
    remove_ms.push_back(seconds_since(start) * 1e3);
  }
  line("store.remove_ms", percentile(remove_ms, 0.5), "ms for 39");
  line("store.remove_p99_ms", percentile(remove_ms, 0.99), "ms for 39");
}

}  // namespace
}  // namespace mhv::store

int main(int argc, char** argv) {
  using namespace mhv::store;
  if (argc < 2) {
    fmt::print(stderr, "usage: {} FOLDER STREAM...\n", argv[0]);
    return 2;
  }
  try {
    commits(argv[1]);
    many(argv[1]);
    std::vector<Guest> guests;
    for (int i = 2; i < argc; ++i) guests.push_back(load_guest(argv[i]));
    if (!guests.empty()) Load(std::move(guests)).run(argv[1]);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
