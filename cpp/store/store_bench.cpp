// The store's hot paths: nanoseconds for each page.
#include <benchmark/benchmark.h>

#include <cstring>
#include <filesystem>
#include <random>

#include "store/page_codec.h"
#include "store/page_namer.h"
#include "store/random.h"
#include "store/store.h"

namespace mhv::store {
namespace {

enum class Kind { kRandom, kText, kZero, kSame };

struct Fixture {
  std::string folder;
  Fixture() {
    std::string text = (std::filesystem::temp_directory_path() / "mhv-bench-XXXXXX").string();
    folder = ::mkdtemp(text.data());
  }
  ~Fixture() { std::filesystem::remove_all(folder); }
};

using Page = std::array<std::byte, kPageSize>;

// `serial` makes it unlike all others.
void fill(Page& page, Kind kind, std::uint64_t serial, std::mt19937_64& random) {
  if (kind == Kind::kZero) {
    page.fill(std::byte{0});
    return;
  }
  for (std::size_t i = 0; i < page.size(); i += 8) {
    const std::uint64_t value = kind == Kind::kText ? (random() & 0x0f0f0f0f0f0f0f) * (i % 24 == 0) : random();
    std::memcpy(page.data() + i, &value, 8);
  }
  std::memcpy(page.data() + 128, &serial, 8);
}

StoreOptions options(std::int64_t encrypted) {
  StoreOptions out;
  if (encrypted != 0) out.key.emplace(std::string(32, 'k'));
  return out;
}

CheckpointInfo info(unsigned id, std::uint32_t pages) {
  CheckpointInfo out;
  char text[40];
  std::snprintf(text, sizeof text, "00000000-0000-4000-8000-%012x", id);
  out.id = text;
  out.blocks = {{"ram", std::uint64_t{pages} * kPageSize, false}};
  return out;
}

// put() of 65,536 pages, without the commit.
void BM_Put(benchmark::State& state) {
  const auto kind = static_cast<Kind>(state.range(0));
  constexpr std::uint32_t kPages = 65536;
  std::mt19937_64 random(1);
  std::vector<Page> pages(kPages);
  for (std::uint32_t i = 0; i < kPages; ++i) fill(pages[i], kind, i, random);
  const Fixture fixture;
  const auto store = Store::open(fixture.folder, options(state.range(1)));
  if (kind == Kind::kSame) {
    Writer writer = store->begin("");
    for (std::uint32_t i = 0; i < kPages; ++i) writer.put(PageNo{i}, pages[i]);
    writer.commit(info(1, kPages));
  }
  for (auto _ : state) {
    Writer writer = store->begin("");
    for (std::uint32_t i = 0; i < kPages; ++i) writer.put(PageNo{i}, pages[i]);
    state.PauseTiming();
    { const Writer dropped = std::move(writer); }
    state.ResumeTiming();
  }
  state.counters["ns_per_page"] = benchmark::Counter(static_cast<double>(state.iterations()) * kPages * 1e-9,
                                                     benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK(BM_Put)->ArgNames({"random0_text1_zero2_same3", "encrypted"})->ArgsProduct({{0, 1, 2, 3}, {0, 1}})->Unit(benchmark::kMillisecond);

// A whole epoch of 1,000 pages, commit included.
void BM_Epoch(benchmark::State& state) {
  const auto kind = static_cast<Kind>(state.range(0));
  constexpr std::uint32_t kRam = 131072, kPages = 1000;
  std::mt19937_64 random(2);
  const Fixture fixture;
  const auto store = Store::open(fixture.folder, options(state.range(1)));
  std::vector<Page> pages(kPages);
  unsigned id = 0;
  std::string parent;
  for (auto _ : state) {
    state.PauseTiming();
    for (std::uint32_t i = 0; i < kPages; ++i) fill(pages[i], kind, random(), random);
    state.ResumeTiming();
    Writer writer = store->begin(parent);
    for (std::uint32_t i = 0; i < kPages; ++i) writer.put(PageNo{(i * 7919) % kRam}, pages[i]);
    parent = writer.commit(info(++id, kRam)).id;
  }
}
BENCHMARK(BM_Epoch)->ArgNames({"random0_text1", "encrypted"})->ArgsProduct({{0, 1}, {0, 1}})->Unit(benchmark::kMillisecond);

void BM_Read(benchmark::State& state) {
  const auto kind = static_cast<Kind>(state.range(0));
  constexpr std::uint32_t kPages = 65536;
  std::mt19937_64 random(3);
  const Fixture fixture;
  const auto store = Store::open(fixture.folder, options(state.range(1)));
  std::vector<PageKey> keys;
  Writer writer = store->begin("");
  Page page;
  for (std::uint32_t i = 0; i < kPages; ++i) {
    fill(page, kind, i, random);
    keys.push_back(writer.put(PageNo{i}, page));
  }
  writer.commit(info(1, kPages));
  std::size_t at = 0;
  for (auto _ : state) {
    store->read(keys[at++ % kPages], page);
    benchmark::DoNotOptimize(page);
  }
}
BENCHMARK(BM_Read)->ArgNames({"random0_text1", "encrypted"})->ArgsProduct({{0, 1}, {0, 1}});

void BM_Parts(benchmark::State& state) {
  std::mt19937_64 random(4);
  Page page;
  const PageNamer name({random_bytes<Secret>(), std::nullopt}), covered({random_bytes<Secret>(), keys::Key(std::string(32, 'k'))});
  std::array<std::byte, kPageSize + sizeof(PageKey)> room;
  fill(page, state.range(0) < 2 ? Kind::kRandom : Kind::kText, 1, random);
  for (auto _ : state) {
    if (state.range(0) == 0) {
      benchmark::DoNotOptimize(name(page));
    } else if (state.range(0) == 3) {
      benchmark::DoNotOptimize(covered(page));
    } else {
      benchmark::DoNotOptimize(encode_page(page, Effort::kQuick, room));
    }
  }
}
BENCHMARK(BM_Parts)->ArgName("hash0_encode1_encodetext2_coveredhash3")->DenseRange(0, 3);

// A record of so many bytes, its checksum included; beside it, the same in the clear.
void BM_Record(benchmark::State& state) {
  std::mt19937_64 random(5);
  Page page;
  fill(page, Kind::kRandom, 1, random);
  const auto payload = std::span(page).first(static_cast<std::size_t>(state.range(0)));
  const auto kind = payload.size() == kPageSize ? store::Kind::kRaw : store::Kind::kZstd;
  const Seal seal{keys::Key(std::string(32, 'k'))};
  const PageKey key{{1}};
  std::array<std::byte, kPageRecordBytesMax> record, room;
  std::uint64_t offset = 48;
  serialize_sealed(kind, key, payload, seal, offset, record.data());
  const auto parsed = parse_record(std::span(record));
  for (auto _ : state) {
    switch (state.range(1)) {
      case 0: benchmark::DoNotOptimize(serialize_record(kind, key, payload, record.data())); break;
      case 1: benchmark::DoNotOptimize(serialize_sealed(kind, key, payload, seal, offset += 8, record.data())); break;
      default: benchmark::DoNotOptimize(open_record(*parsed, &seal, 48, room)); break;
    }
  }
}
BENCHMARK(BM_Record)->ArgNames({"bytes", "plain0_seal1_open2"})->ArgsProduct({{200, 1000, 4096}, {0, 1, 2}});

}  // namespace
}  // namespace mhv::store

BENCHMARK_MAIN();
