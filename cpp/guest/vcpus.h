// The processors of a guest as its saved device state shows them.
#pragma once

#include <span>
#include <vector>

#include "ring/abi.h"

namespace mhv::guest {

inline constexpr std::size_t kVcpusMax = 512;

// `state`: of xen-save-devices-state on x86-64 (QEMU 7.2 to 10.x: section "cpu", version 12). In the order of their numbers; empty:
// there is none, or it is of another version.
std::vector<ring::Vcpu> parse_vcpus(std::span<const std::byte> state);

}  // namespace mhv::guest
