#include "stack/arbiter.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "stack/builtin.h"

namespace mhv::stack {
namespace {

[[noreturn]] void conflict(const Manifest& one, const Manifest& other, const std::string& what, const std::string& hint) {
  throw Error(Code::kInvalid, fmt::format("{} and {} cannot be on one guest: {}", one.name, other.name, what), hint);
}

// ---------------------------------------------------------------- what the engine cannot give yet

void refuse_if(bool claimed, const Manifest& layer, const char* claim, const char* reason) {
  if (!claimed) return;
  throw Error(Code::kUnsupported, fmt::format("{} claims {}, which this engine cannot give: {}", layer.name, claim, reason),
              "use a version of the layer that does without, or leave the layer out");
}

void check_available(const Manifest& layer) {
  const Claims& claims = layer.claims;
  refuse_if(claims.has(MemoryAccess::kWrite), layer, "memory write", "memory is handed over for reading alone");
  refuse_if(claims.has(MemoryAccess::kTrapWrite), layer, "memory trap-write", "writes are found by epoch, after they happened");
  refuse_if(claims.has(MemoryAccess::kTrapMissing), layer, "memory trap-missing", "missing pages come from checkpoints alone");
  for (const MemoryClaim& claim : claims.memory) {
    refuse_if(claim.range.kind != MemoryRange::Kind::kRam, layer, ("memory of " + name_of(claim.range)).c_str(),
              "it enforces claims on all of RAM alone");
  }
  refuse_if(claims.disk >= DiskClaim::kDelay, layer, "disk delay", "no part of it stands in the way of a guest's disks");
  refuse_if(claims.network >= NetworkClaim::kInject, layer, "network inject", "only what the guest sends or is sent goes through it");
  refuse_if(layer.policy == Policy::kFailClosed && claims.network == NetworkClaim::kNone, layer, "fail-closed",
            "of a guest, its packets alone wait for a layer, and it does not claim the network");
  if (layer.built_in) return;
  refuse_if(claims.restore, layer, "restore", "only what is part of the engine puts a guest back");
  refuse_if(claims.vcpu >= VcpuClaim::kPause, layer, "vcpu pause or set", "a layer may ask for the action `pause`");
  refuse_if(claims.disk >= DiskClaim::kSee, layer, "disk see", "a layer is shown no disks");
}

// ---------------------------------------------------------------- what one layer alone may do

// Two layers that both give a text do not go together.
void only_one(std::span<const Manifest> stack, const char* what, const char* hint, bool (*claims)(const Claims&)) {
  const Manifest* first = nullptr;
  for (const Manifest& layer : stack) {
    if (!claims(layer.claims)) continue;
    if (first != nullptr) conflict(*first, layer, fmt::format("both claim {}, which one layer alone may", what), hint);
    first = &layer;
  }
}

bool overlap(const MemoryRange& one, const MemoryRange& other) {
  using Kind = MemoryRange::Kind;
  return one.kind == Kind::kRam || other.kind == Kind::kRam || one == other;
}

void check_pair(const Manifest& one, const Manifest& other, MemoryAccess access, const char* hint) {
  for (const MemoryClaim& mine : one.claims.memory) {
    for (const MemoryClaim& theirs : other.claims.memory) {
      if (!mine.access.contains(access) || !theirs.access.contains(access) || !overlap(mine.range, theirs.range)) continue;
      conflict(one, other,
               fmt::format("both claim memory {} ({} and {}), which one layer alone may", name_of(access), name_of(mine.range),
                           name_of(theirs.range)),
               hint);
    }
  }
}

void check_memory(std::span<const Manifest> stack) {
  for (std::size_t i = 0; i < stack.size(); ++i) {
    for (std::size_t j = i + 1; j < stack.size(); ++j) {
      check_pair(stack[i], stack[j], MemoryAccess::kWrite, "take one of them out; the other one may read what it writes");
      check_pair(stack[i], stack[j], MemoryAccess::kTrapMissing, "take one of them out; a page has one place that it comes from");
    }
  }
}

void check_exclusive(std::span<const Manifest> stack) {
  only_one(stack, "to put the guest back (restore)", "take one of them out", [](const Claims& claims) { return claims.restore; });
  only_one(stack, "vcpu set", "take one of them out, or use a version that reads",
           [](const Claims& claims) { return claims.vcpu == VcpuClaim::kSet; });
  only_one(stack, "disk delay", "take one of them out", [](const Claims& claims) { return claims.disk == DiskClaim::kDelay; });
  only_one(stack, "network inject", "take one of them out", [](const Claims& claims) { return claims.network == NetworkClaim::kInject; });
}

void check_needs(std::span<const Manifest> stack) {
  if (std::ranges::any_of(stack, [](const Manifest& layer) { return layer.claims.restore; })) return;
  for (const Manifest& layer : stack) {
    for (const Action action : {Action::kCheckpoint, Action::kRollback}) {
      if (!layer.claims.actions.contains(action)) continue;
      throw Error(Code::kInvalid,
                  fmt::format("{} claims the action {}, and no layer of this guest makes checkpoints", layer.name, name_of(action)),
                  "add the service checkpoint");
    }
  }
}

void check_names(std::span<const Manifest> stack) {
  if (stack.size() > kLayersMax) {
    throw Error(Code::kInvalid, fmt::format("{} layers on one guest, and {} may be", stack.size(), kLayersMax));
  }
  for (std::size_t i = 0; i < stack.size(); ++i) {
    if (!stack[i].built_in && is_built_in(stack[i].name)) {
      throw Error(Code::kInvalid, fmt::format("the package of {} has the name of a service that is part of the engine", stack[i].name),
                  "its vendor has to give it another name");
    }
    for (std::size_t j = i + 1; j < stack.size(); ++j) {
      if (stack[i].name == stack[j].name) conflict(stack[i], stack[j], "they are one layer twice", "name it once");
    }
  }
}

}  // namespace

Arbitration arbitrate(std::span<const Manifest> stack) {
  check_names(stack);
  check_memory(stack);
  check_exclusive(stack);
  check_needs(stack);
  for (const Manifest& layer : stack) check_available(layer);
  Arbitration out;
  for (const Manifest& layer : stack) {
    const Claims& claims = layer.claims;
    out.grants.push_back({layer.name, claims});
    out.write_protect |= claims.written_pages || claims.has(MemoryAccess::kTrapWrite);
    out.missing |= claims.restore || claims.has(MemoryAccess::kTrapMissing);
  }
  return out;
}

std::vector<Manifest> read_stack(std::span<const std::string> texts) {
  std::vector<Manifest> out;
  for (const std::string& text : texts) {
    if (out.size() == kLayersMax) throw Error(Code::kInvalid, fmt::format("more than {} layers on one guest", kLayersMax));
    if (!text.starts_with('{')) {
      out.push_back(built_in(text));
      continue;
    }
    try {
      out.push_back(parse_manifest(text));
    } catch (const Error& error) {
      throw Error(error.code(), fmt::format("layer {} of the stack: {}", out.size() + 1, error.what()), error.hint());
    }
  }
  return out;
}

}  // namespace mhv::stack
