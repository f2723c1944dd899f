// What a look into a live guest costs: usage: introspection_bench MEMORY CR3 CR4, numbers in base 16. MEMORY is the file that the guest's
// RAM is. Prints one JSON object a line (tests/bench/introspect.py); a floor is the bytes that were read, copied by memcpy.
#include <nlohmann/json.hpp>

#include "introspection/answers.h"
#include "introspection/processes.h"
#include "introspection/testing_live.h"

namespace mhv::introspection::testing {
namespace {

constexpr std::uint64_t kFiveLevels = 1 << 12;  // CR4.LA57

void bench_first(LiveMemory& memory, const Paging& paging) {
  const auto find = [&] { Kernel(memory, paging); };
  Copies floor(memory.sizes_read_by(find));
  line("introspect.first_ms", median_us(11, 1, find, empty_caches) / 1e3, "ms", median_us(11, 1, floor, empty_caches) / 1e3);
}

void bench_processes(LiveMemory& memory, const Paging& paging) {
  constexpr unsigned kBatches = 41, kCount = 50;
  const Kernel kernel(memory, paging);
  const auto look = [&] { Processes(kernel).list(); };
  const auto look_closer = [&] { Processes(kernel).list_with_commands(); };
  const auto answer_all = [&] { answer(kernel, "processes", nlohmann::json::object()).dump(); };
  line("introspect.processes", static_cast<double>(Processes(kernel).list().size()), "processes");
  Copies floor(memory.sizes_read_by(look));
  line("introspect.processes_us", median_us(kBatches, kCount, look), "us", median_us(kBatches, kCount, floor));
  line("introspect.processes_cold_us", median_us(kBatches, 1, look, empty_caches), "us", median_us(kBatches, 1, floor, empty_caches));
  Copies closer_floor(memory.sizes_read_by(look_closer));
  const double closer_us = median_us(kBatches, kCount, closer_floor);
  line("introspect.commands_us", median_us(kBatches, kCount, look_closer), "us", closer_us);
  line("introspect.answer_us", median_us(kBatches, kCount, answer_all), "us", closer_us);
}

}  // namespace
}  // namespace mhv::introspection::testing

int main(int argc, char** argv) {
  using namespace mhv::introspection;
  if (argc != 4) return 2;
  testing::LiveMemory memory(argv[1]);
  const Paging paging{std::stoull(argv[2], nullptr, 16), (std::stoull(argv[3], nullptr, 16) & testing::kFiveLevels) != 0};
  testing::bench_first(memory, paging);
  testing::bench_processes(memory, paging);
}
