// What a layer may do to a guest. Each is asked for in its manifest, granted by the arbiter, and enforced by the worker.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace mhv::stack {

// Of the guest's memory. A process is named by its command, and found again at each epoch.
struct MemoryRange {
  enum class Kind { kRam, kKernelText, kProcess };
  Kind kind = Kind::kRam;
  std::string process;
  friend bool operator==(const MemoryRange&, const MemoryRange&) = default;
};

enum class MemoryAccess {
  kRead,
  kWrite,
  kTrapWrite,    // is told of a write before it happens
  kTrapMissing,  // supplies a page that is not there
};

struct MemoryClaim {
  MemoryRange range;
  std::set<MemoryAccess> access;
  friend bool operator==(const MemoryClaim&, const MemoryClaim&) = default;
};

// Each of these includes those before it.
enum class VcpuClaim { kNone, kRead, kPause, kSet };
enum class NetworkClaim { kNone, kSee, kHold, kDrop, kInject };  // kDrop: or put another in its place
enum class DiskClaim { kNone, kSee, kDelay };

// What it may ask the engine to do.
enum class Action { kCheckpoint, kPause, kHold, kRelease, kRollback, kStop };

struct Claims {
  std::vector<MemoryClaim> memory;
  bool written_pages = false;  // which pages were written since the last epoch
  bool restore = false;        // stops the guest, and puts all of it back to an earlier moment
  VcpuClaim vcpu = VcpuClaim::kNone;
  NetworkClaim network = NetworkClaim::kNone;
  DiskClaim disk = DiskClaim::kNone;
  bool see_events = false;
  bool send_events = false;
  std::set<Action> actions;

  bool has(MemoryAccess access) const;
  // All of RAM, for reading: what a worker hands over as descriptors.
  bool reads_ram() const;
};

// As a manifest writes them.
const char* name_of(MemoryAccess access);
const char* name_of(Action action);
const char* name_of(VcpuClaim claim);
const char* name_of(NetworkClaim claim);
const char* name_of(DiskClaim claim);
std::string name_of(const MemoryRange& range);  // "ram", "kernel-text", "process nginx"

}  // namespace mhv::stack
