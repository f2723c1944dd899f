// What a guest writes to its disks: QEMU keeps count of it, and copies it out itself.
//
// INVARIANT: a copy is what the disks held at one moment. QEMU copies a cluster before the guest may write it again (a backup job
// inserts copy-before-write in the same transaction that begins a new dirty bitmap), and what was copied is counted against the old bitmap.
// INVARIANT: no write of the guest fails because of the engine, nor waits for it: the copy goes into memory that QEMU holds a
// descriptor of, and only as much is copied as copy() was told to.
//
// (QEMU's interfaces: docs/interop/bitmaps.rst, docs/interop/live-block-operations.rst, blockdev-backup with bitmap-mode "never".)
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "guest/machine.h"

namespace mhv::guest {

// So many bytes of a disk at a time, as QEMU's backup job copies. The last of a disk may be shorter.
struct DiskCluster {
  static constexpr std::size_t kBytes = 65536;
  std::uint32_t disk = 0;  // its place in the list that was given
  std::uint64_t index = 0;
  friend auto operator<=>(const DiskCluster&, const DiskCluster&) = default;
};

// One QEMU, one thread at a time; `qmp` outlives it. A QEMU that refuses or vanishes: as Qmp::call().
class DiskChanges {
 public:
  using EachCluster = std::function<void(DiskCluster, std::span<const std::byte>)>;

  explicit DiskChanges(Qmp& qmp) : qmp_(qmp) {}
  DiskChanges(const DiskChanges&) = delete;
  DiskChanges& operator=(const DiskChanges&) = delete;

  // Watches the disks from now on; with `tag`, from one internal snapshot of all of them on: all have it, or none.
  void watch(std::span<const DiskNode> disks, const std::string& tag = {});
  // Clusters that may have been written since the newest moment (watch(), copy()); nullopt: that is not known, or a disk has another
  // size now.
  std::optional<std::uint64_t> written();
  // A new moment: QEMU begins to copy what was written between the last one and now. The guest may run. finish_copy() comes
  // before the next copy(). Throws kInvalid when QEMU does not; then nothing is known any more.
  void copy();
  struct Copied {
    std::uint64_t written = 0;  // clusters that had to be copied
    std::uint64_t copied = 0;   // clusters that were handed over. Fewer: some were zeroed without a write, and leave no trace of where
    std::string error;          // why QEMU could not; nothing is known any more
    bool whole() const { return error.empty() && written == copied; }
  };
  // Waits for QEMU, and hands over what it copied, in ascending order.
  Copied finish_copy(const EachCluster& each);
  // Leaves nothing of it in QEMU, also of a former engine. The disks: which may have been watched.
  void stop(std::span<const DiskNode> disks);

 private:
  struct Watched {
    DiskNode node;
    Fd memory;         // QEMU's copy goes there; not open before the first one
    std::string path;  // by which QEMU opens it
    std::uint64_t bytes = 0, memory_bytes = 0;
    int bitmap = 0;                                 // the one of two that watches
    bool has_other = false;                         // the other one is there as well
    std::uint64_t written = 0, written_before = 0;  // clusters in them, by the last look()
    bool copying = false;
  };
  bool look();
  void add_node(Watched& disk, std::size_t number);
  std::string finish_job(std::size_t number);
  std::uint64_t hand_over(const Watched& disk, std::uint32_t number, const EachCluster& each) const;

  Qmp& qmp_;
  std::vector<Watched> watched_;  // empty: nothing is known
  bool looked_ = false;           // since the newest moment
};

}  // namespace mhv::guest
