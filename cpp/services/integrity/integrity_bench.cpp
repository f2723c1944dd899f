// What a check costs, of a kernel made by hand: each page of text and read-only data, everything at once, and an epoch in which nothing
// of the kernel was written.
#include <benchmark/benchmark.h>

#include "integrity/digest.h"
#include "integrity/testing.h"

namespace mhv::integrity {
namespace {

using namespace testing;

struct Fixture {
  MadeKernel made;
  Kernel kernel{made.memory, made.paging()};
  Checker checker{kernel, made.registers()};
};

void hash_page(benchmark::State& state) {
  Digester digester;
  const std::vector<std::byte> page(kPageSize, std::byte{0x5a});
  for (auto _ : state) benchmark::DoNotOptimize(digester(page));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kPageSize));
}
BENCHMARK(hash_page);

void check_all(benchmark::State& state) {
  Fixture fixture;
  const auto registers = fixture.made.registers();
  for (auto _ : state) benchmark::DoNotOptimize(fixture.checker.check(registers));
  state.counters["pages"] = static_cast<double>(fixture.checker.measured_pages());
}
BENCHMARK(check_all)->Unit(benchmark::kMicrosecond);

void check_nothing_written(benchmark::State& state) {
  Fixture fixture;
  const auto registers = fixture.made.registers();
  const Written nothing;
  for (auto _ : state) benchmark::DoNotOptimize(fixture.checker.check(registers, &nothing));
}
BENCHMARK(check_nothing_written)->Unit(benchmark::kMicrosecond);

void trust(benchmark::State& state) {
  Fixture fixture;
  const auto registers = fixture.made.registers();
  for (auto _ : state) benchmark::DoNotOptimize(Checker(fixture.kernel, registers));
}
BENCHMARK(trust)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace mhv::integrity

BENCHMARK_MAIN();
