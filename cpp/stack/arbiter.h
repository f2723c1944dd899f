// Which layers go together on one guest.
//
//   shared       readers of memory, processors, disks and events, in any number; interest in writes and in missing pages, merged on the
//                one userfaultfd that a guest has
//   in order     filters of packets, one behind the other
//   one only     writer of a range of memory; supplier of missing pages of a range; who sets processors; who delays disks; who injects
//                packets; who puts the whole guest back (`restore`)
//   needed       who may ask for `checkpoint` or `rollback` needs a layer that restores
//   not yet      what this engine cannot give: see arbiter.cpp
#pragma once

#include <span>
#include <string>
#include <vector>

#include "stack/manifest.h"

namespace mhv::stack {

inline constexpr std::size_t kLayersMax = 16;

struct Grant {
  std::string layer;
  Claims claims;
};

struct Arbitration {
  std::vector<Grant> grants;   // in the stack's order
  bool write_protect = false;  // the guest's userfaultfd has to tell of writes,
  bool missing = false;        // of missing pages
};

// `stack`: in the order in which the layers are called. Everything that is claimed is granted, or throws an Error that names the layers,
// the claim and what to do: kInvalid for layers that do not go together, kUnsupported for what the engine cannot give. Pure.
Arbitration arbitrate(std::span<const Manifest> stack);

// Of texts: a manifest, or the name of a built-in layer. Throws what parse_manifest and built_in throw, naming which one.
std::vector<Manifest> read_stack(std::span<const std::string> texts);

}  // namespace mhv::stack
