// The kernel interface that tracking needs, as of Linux 6.7: userfaultfd write protection in asynchronous mode
// (include/uapi/linux/userfaultfd.h) and PAGEMAP_SCAN (include/uapi/linux/fs.h). Distributions still ship headers of
// 6.1, which lack half of it; so it is carried here under names of our own, with its layout proved.
#pragma once

#include <sys/ioctl.h>

#include <cstddef>
#include <cstdint>

namespace mhv::guest::abi {

// ---- userfaultfd

inline constexpr std::uint64_t kUffdApi = 0xaa;

inline constexpr std::uint64_t kFeaturePagefaultFlagWp = 1u << 0;
inline constexpr std::uint64_t kFeatureWpHugetlbfsShmem = 1u << 12;
inline constexpr std::uint64_t kFeatureWpUnpopulated = 1u << 13;
inline constexpr std::uint64_t kFeatureWpAsync = 1u << 15;

inline constexpr std::uint64_t kRegisterModeMissing = 1u << 0;
inline constexpr std::uint64_t kRegisterModeWp = 1u << 1;
inline constexpr std::uint64_t kRegisterModeMinor = 1u << 2;
inline constexpr std::uint64_t kWriteprotectModeWp = 1u << 0;
inline constexpr std::uint64_t kCopyModeWp = 1u << 1;
inline constexpr std::uint8_t kEventPagefault = 0x12;

struct UffdApi {
  std::uint64_t api, features, ioctls;
};
static_assert(sizeof(UffdApi) == 24 && offsetof(UffdApi, features) == 8 && offsetof(UffdApi, ioctls) == 16);

struct UffdRange {
  std::uint64_t start, len;
};
static_assert(sizeof(UffdRange) == 16 && offsetof(UffdRange, len) == 8);

struct UffdRegister {
  UffdRange range;
  std::uint64_t mode, ioctls;
};
static_assert(sizeof(UffdRegister) == 32 && offsetof(UffdRegister, mode) == 16 && offsetof(UffdRegister, ioctls) == 24);

struct UffdWriteprotect {
  UffdRange range;
  std::uint64_t mode;
};
static_assert(sizeof(UffdWriteprotect) == 24 && offsetof(UffdWriteprotect, mode) == 16);

struct UffdCopy {
  std::uint64_t dst, src, len, mode;
  std::int64_t copy;  // bytes copied, or a negative errno
};
static_assert(sizeof(UffdCopy) == 40 && offsetof(UffdCopy, mode) == 24 && offsetof(UffdCopy, copy) == 32);

// What a read gives. Of the events only page faults are asked for.
struct UffdMessage {
  std::uint8_t event, reserved1;
  std::uint16_t reserved2;
  std::uint32_t reserved3;
  std::uint64_t fault_flags, fault_address, fault_thread;
};
static_assert(sizeof(UffdMessage) == 32 && offsetof(UffdMessage, fault_address) == 16);

inline constexpr unsigned long kIoctlNewUffd = _IO(0xaa, 0x00);  // on /dev/userfaultfd
inline constexpr unsigned long kIoctlApi = _IOWR(0xaa, 0x3f, UffdApi);
inline constexpr unsigned long kIoctlRegister = _IOWR(0xaa, 0x00, UffdRegister);
inline constexpr unsigned long kIoctlUnregister = _IOR(0xaa, 0x01, UffdRange);
inline constexpr unsigned long kIoctlWake = _IOR(0xaa, 0x02, UffdRange);
inline constexpr unsigned long kIoctlCopy = _IOWR(0xaa, 0x03, UffdCopy);
inline constexpr unsigned long kIoctlWriteprotect = _IOWR(0xaa, 0x06, UffdWriteprotect);
static_assert(kIoctlApi == 0xc018aa3f && kIoctlRegister == 0xc020aa00 && kIoctlUnregister == 0x8010aa01 &&
              kIoctlWriteprotect == 0xc018aa06 && kIoctlWake == 0x8010aa02 && kIoctlCopy == 0xc028aa03);

// ---- PAGEMAP_SCAN

inline constexpr std::uint64_t kPageWpAllowed = 1u << 0;
inline constexpr std::uint64_t kPageWritten = 1u << 1;
inline constexpr std::uint64_t kPagePresent = 1u << 3;
inline constexpr std::uint64_t kPageSwapped = 1u << 4;  // a swap entry, a migration entry or a write-protect marker

inline constexpr std::uint64_t kScanWpMatching = 1u << 0;
inline constexpr std::uint64_t kScanCheckWpAsync = 1u << 1;

struct PageRegion {
  std::uint64_t start, end, categories;
};
static_assert(sizeof(PageRegion) == 24 && offsetof(PageRegion, end) == 8 && offsetof(PageRegion, categories) == 16);

struct ScanArg {
  std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted, category_mask, category_anyof_mask,
      return_mask;
};
static_assert(sizeof(ScanArg) == 96 && offsetof(ScanArg, walk_end) == 32 && offsetof(ScanArg, vec) == 40 &&
              offsetof(ScanArg, vec_len) == 48 && offsetof(ScanArg, category_inverted) == 64 && offsetof(ScanArg, return_mask) == 88);

inline constexpr unsigned long kIoctlPagemapScan = _IOWR('f', 16, ScanArg);
static_assert(kIoctlPagemapScan == 0xc0606610);

}  // namespace mhv::guest::abi
