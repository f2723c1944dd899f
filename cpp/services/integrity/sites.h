// Where a Linux kernel changes its own code while it runs, and what may stand there.
//
//   jump label    a NOP of 2 or 5 bytes, or a jump to the one place its entry names      __jump_table
//   ftrace        a NOP of 5 bytes, or a call to one of ftrace's entries or trampolines  ftrace_pages_start
//   static call   a call of (a jump to) what its key holds at the moment                 static_call_sites, __SCT__* with their __SCK__*
//   ftrace entry  in ftrace's own entries: a call of code                                ftrace_call, ftrace_regs_call
//
// While it is changed, a site begins with int3, and the kernel holds a lock.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "integrity/code_map.h"
#include "integrity/reader.h"

namespace mhv::integrity {

inline constexpr std::size_t kSiteBytesMax = 6;

// What functions return by where processors guess wrong: which of them, the kernel chooses at its start.
inline constexpr std::array<const char*, 6> kReturnThunks = {"__x86_return_thunk",      "retbleed_return_thunk",   "srso_return_thunk",
                                                             "srso_alias_return_thunk", "call_depth_return_thunk", "its_return_thunk"};

struct Site {
  enum class Kind : std::uint8_t { kJump, kFtrace, kStaticCall, kFtraceEntry };
  GuestVirt at;
  GuestVirt target;  // of a jump; of a static call its key
  Kind kind = Kind::kJump;
  std::uint8_t bytes = 5;
};

enum class SiteState { kRight, kChanging, kWrong };

// Not thread-safe. What it is made from outlives it.
class SiteJudge {
 public:
  SiteJudge(Reader& reader, CodeMap& map);
  SiteState judge(const Site& site);
  // Where the bytes at a site lead; 0: nowhere.
  GuestVirt target_of(const Site& site);

 private:
  using Bytes = std::array<std::uint8_t, kSiteBytesMax>;
  bool is_jump(const Site& site, const Bytes& now) const;
  bool is_traced(const Site& site, const Bytes& now);
  bool is_static_call(const Site& site, const Bytes& now);
  SiteState judge_bytes(const Site& site, const Bytes& now);
  bool is_held(std::optional<GuestVirt> mutex);

  Reader& reader_;
  CodeMap& map_;
  GuestVirt caller_, regs_caller_, return0_;
  std::array<GuestVirt, kReturnThunks.size()> return_thunks_{};
  std::optional<GuestVirt> text_lock_, call_lock_;  // held while code is changed, and while a static call is
};

// All of the kernel itself, sorted; those whose bytes are none of what may be there are left out: code as any other.
std::vector<Site> kernel_sites(Reader& reader, CodeMap& map, const Image& image);
std::vector<Site> module_sites(Reader& reader, CodeMap& map, const Module& module);

}  // namespace mhv::integrity
