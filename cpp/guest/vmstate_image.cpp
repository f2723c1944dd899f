// A qcow2 image made by hand (QEMU docs/interop/qcow2.txt), all numbers big endian, in clusters of 64 KiB:
//
//   0 header   1 refcount table   2 refcount block   3 active L1   4 the snapshot's L1   5 the snapshot's L2 for VM state
//   6 snapshot table   7... VM state
//
// VM state lies behind the virtual disk: behind the last byte that the disk's L1 entries can map. The disk is empty and
// needs one entry, so the state begins where the second entry of the snapshot's L1 does.
// QEMU writes to it: going back to a snapshot copies its L1 over the active one. So its refcounts have to be right.
#include <algorithm>

#include "base/error.h"
#include "guest/bytes.h"
#include "guest/stream.h"

namespace mhv::guest {
namespace {

constexpr unsigned kClusterBits = 16;
constexpr std::uint64_t kCluster = 1ull << kClusterBits;
constexpr std::uint64_t kDiskBytes = kCluster;
constexpr std::uint64_t kStreamMax = kDeviceStateMax + kCluster;  // an L2 maps 512 MiB, a refcount block 2 GiB

enum Cluster : std::uint64_t { kHeader, kRefcountTable, kRefcountBlock, kActiveL1, kSnapshotL1, kStateL2, kSnapshotTable, kState };

void put_header(Bytes& out) {
  out.big(std::uint32_t{0x514649fb}).big(std::uint32_t{3});                    // "QFI\xfb", version
  out.big(std::uint64_t{0}).big(std::uint32_t{0});                             // no backing file
  out.big(std::uint32_t{kClusterBits}).big(kDiskBytes).big(std::uint32_t{0});  // no encryption
  out.big(std::uint32_t{1}).big(kActiveL1 * kCluster);                         // L1 entries, offset
  out.big(kRefcountTable * kCluster).big(std::uint32_t{1});                    // clusters of the table
  out.big(std::uint32_t{1}).big(kSnapshotTable * kCluster);                    // snapshots
  out.big(std::uint64_t{0}).big(std::uint64_t{0}).big(std::uint64_t{0});       // features
  out.big(std::uint32_t{4}).big(std::uint32_t{104});                           // 16-bit refcounts, header length
}

void put_snapshot(Bytes& out, const std::string& tag, std::uint64_t state_bytes) {
  const std::string id = "1";
  out.big(kSnapshotL1 * kCluster).big(std::uint32_t{2});
  out.big(static_cast<std::uint16_t>(id.size())).big(static_cast<std::uint16_t>(tag.size()));
  out.big(std::uint32_t{0}).big(std::uint32_t{0}).big(std::uint64_t{0});    // date, guest clock
  out.big(static_cast<std::uint32_t>(state_bytes)).big(std::uint32_t{16});  // length of the extra data:
  out.big(state_bytes).big(kDiskBytes);
  out.text(id).text(tag);
}

}  // namespace

std::vector<std::byte> vmstate_image(const std::string& tag, std::span<const std::byte> stream) {
  if (tag.empty() || tag.size() > 127) throw Error(Code::kInvalid, "a snapshot's name has 1 to 127 bytes");
  if (stream.empty() || stream.size() > kStreamMax) throw Error(Code::kInvalid, "the device state is empty or too long");
  const std::uint64_t clusters = (stream.size() + kCluster - 1) / kCluster;
  Bytes out;
  put_header(out);
  out.zeros_to(kRefcountTable * kCluster).big(kRefcountBlock * kCluster);
  out.zeros_to(kRefcountBlock * kCluster);
  for (std::uint64_t i = 0; i < kState + clusters; ++i) out.big(std::uint16_t{1});
  out.zeros_to(kSnapshotL1 * kCluster).big(std::uint64_t{0}).big(kStateL2 * kCluster);
  out.zeros_to(kStateL2 * kCluster);
  for (std::uint64_t i = 0; i < clusters; ++i) out.big((kState + i) * kCluster);
  out.zeros_to(kSnapshotTable * kCluster);
  put_snapshot(out, tag, stream.size());
  out.zeros_to(kState * kCluster).raw(stream);
  out.zeros_to((kState + clusters) * kCluster);
  return std::move(out).take();
}

}  // namespace mhv::guest
