// What a check of a live guest costs: usage: integrity_bench MEMORY CR3 CR4 CR0 EFER IDT IDT_LIMIT, numbers in base 16. MEMORY is the file
// that the guest's RAM is. Prints one JSON object a line (tests/bench/introspect.py); a floor is the bytes that were read, copied by
// memcpy.
#include <set>

#include "integrity/checker.h"
#include "integrity/task_slabs.h"
#include "introspection/testing_live.h"

namespace mhv::integrity {
namespace {

using introspection::testing::Copies;
using introspection::testing::line;
using introspection::testing::LiveMemory;
using introspection::testing::median_us;

class Bench {
 public:
  Bench(const std::string& path, const Registers& registers)
      : memory_(path), kernel_(memory_, {registers.cr3, (registers.cr4 & kCr4FiveLevels) != 0}), registers_{registers} {
    registers_.front().lstar = kernel_.symbol("entry_SYSCALL_64").value;
  }

  // False: something was found.
  bool run() {
    const auto trust = [&] { Checker(kernel_, registers_); };
    run_one("integrity.trust_ms", 5, trust);
    Checker checker(kernel_, registers_);
    const Written nothing;
    bool clean = true;
    run_one("integrity.epoch_ms", 21, [&] { clean &= checker.check(registers_).empty(); });
    run_one("integrity.idle_epoch_ms", 41, [&] { clean &= checker.check(registers_, &nothing).empty(); });
    walk_slabs();
    line("integrity.pages", static_cast<double>(checker.measured_pages()), "pages");
    line("integrity.pointers", static_cast<double>(checker.measured_pointers()), "pointers");
    return clean;
  }

 private:
  // A check's part of the walk, when the lists were just made.
  void walk_slabs() {
    const TaskLists lists(kernel_);
    Reader reader(kernel_);
    std::set<GuestVirt> known;
    const auto listed = lists.listed(reader).value_or(std::vector<Task>{});
    for (const Task& task : listed) known.insert(task.at);
    TaskSlabs slabs(kernel_);
    run_one("integrity.slabs_ms", 41, [&] {
      slabs.advance(reader);
      slabs.hidden(reader, lists, listed, [&](GuestVirt at) { return known.contains(at); });
    });
  }

  void run_one(const char* name, unsigned batches, const std::function<void()>& one) {
    Copies floor(memory_.sizes_read_by(one));
    line(name, median_us(batches, 1, one) / 1e3, "ms", median_us(batches, 1, floor) / 1e3);
  }

  LiveMemory memory_;
  introspection::Kernel kernel_;
  std::vector<Registers> registers_;
};

}  // namespace
}  // namespace mhv::integrity

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  const auto number = [&](int i) { return std::stoull(argv[i], nullptr, 16); };
  mhv::integrity::Registers registers;
  registers.cr3 = number(2);
  registers.cr4 = number(3);
  registers.cr0 = number(4);
  registers.efer = number(5);
  registers.idt_base = number(6);
  registers.idt_limit = static_cast<std::uint32_t>(number(7));
  if (mhv::integrity::Bench(argv[1], registers).run()) return 0;
  fmt::print(stderr, "integrity_bench: a guest that was left alone was accused\n");
  return 1;
}
