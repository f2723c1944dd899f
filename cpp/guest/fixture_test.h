// For tests: a stock QEMU under TCG, without a guest kernel. A boot sector counts up in a few pages for ever.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/temp_folder_test.h"
#include "guest/machine.h"
#include "guest/qmp.h"
#include "guest/ram.h"

namespace mhv::guest::testing {

bool have_qemu();

using mhv::TempFolder;

// Runs a program; its exit status (or 128 + signal), and what it wrote.
struct Output {
  int status = -1;
  std::string text;
};
Output run(const std::vector<std::string>& arguments);

enum class Memory { kPrivate, kShared };

class TestQemu {
 public:
  static constexpr int kCounters = 8;
  // `more`: arguments behind the usual ones (machine pc, 64 MiB, no display, paused).
  TestQemu(const TempFolder& folder, const std::string& name, const std::vector<std::string>& more, Memory memory = Memory::kPrivate);
  ~TestQemu();
  TestQemu(const TestQemu&) = delete;
  TestQemu& operator=(const TestQemu&) = delete;

  Qmp& qmp() { return *qmp_; }
  pid_t pid() const { return pid_; }
  void kill_and_wait();
  // Its RAM blocks, opened as the broker would.
  Ram open_ram();
  std::string machine();
  // What the boot sector counted, as the guest's RAM holds it: a[0] >= a[1] >= ... >= a[0] - 1.
  std::vector<std::uint32_t> counters(const Ram& ram) const;
  void wait_until_counter_passes(const Ram& ram, std::uint32_t value) const;

 private:
  pid_t pid_ = -1;
  std::unique_ptr<Qmp> qmp_;
};

// The device state of a stopped guest.
std::vector<std::byte> save(Qmp& qmp);

// All pages of all blocks.
std::vector<std::byte> read_all(const Ram& ram);

}  // namespace mhv::guest::testing
