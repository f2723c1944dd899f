// The store's hot paths: nanoseconds for each page.
#include <benchmark/benchmark.h>

#include <cstring>
#include <filesystem>
#include <random>

#include "store/page_codec.h"
#include "store/page_namer.h"
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
  const auto store = Store::open(fixture.folder);
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
BENCHMARK(BM_Put)->ArgName("random0_text1_zero2_same3")->DenseRange(0, 3)->Unit(benchmark::kMillisecond);

// A whole epoch of 1,000 pages, commit included.
void BM_Epoch(benchmark::State& state) {
  const auto kind = static_cast<Kind>(state.range(0));
  constexpr std::uint32_t kRam = 131072, kPages = 1000;
  std::mt19937_64 random(2);
  const Fixture fixture;
  const auto store = Store::open(fixture.folder);
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
BENCHMARK(BM_Epoch)->ArgName("random0_text1")->DenseRange(0, 1)->Unit(benchmark::kMillisecond);

void BM_Read(benchmark::State& state) {
  const auto kind = static_cast<Kind>(state.range(0));
  constexpr std::uint32_t kPages = 65536;
  std::mt19937_64 random(3);
  const Fixture fixture;
  const auto store = Store::open(fixture.folder);
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
BENCHMARK(BM_Read)->ArgName("random0_text1")->DenseRange(0, 1);

void BM_Parts(benchmark::State& state) {
  std::mt19937_64 random(4);
  Page page;
  const PageNamer name(random_secret());
  std::array<std::byte, kPageSize + sizeof(PageKey)> room;
  fill(page, state.range(0) < 2 ? Kind::kRandom : Kind::kText, 1, random);
  for (auto _ : state) {
    if (state.range(0) == 0) {
      benchmark::DoNotOptimize(name(page));
    } else {
      benchmark::DoNotOptimize(encode_page(page, Effort::kQuick, room));
    }
  }
}
BENCHMARK(BM_Parts)->ArgName("hash0_encode1_encodetext2")->DenseRange(0, 2);

}  // namespace
}  // namespace mhv::store

BENCHMARK_MAIN();
