#include "stack/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "stack/json.h"

namespace mhv::stack {
namespace {

using Json = nlohmann::json;

constexpr std::array kRanges = {"ram", "kernel-text", "process"};
constexpr std::array kAccesses = {"read", "write", "trap-write", "trap-missing"};
constexpr std::array kVcpu = {"none", "read", "pause", "set"};
constexpr std::array kNetwork = {"none", "see", "hold", "drop", "inject"};
constexpr std::array kDisk = {"none", "see", "delay"};
constexpr std::array kEvents = {"see", "send"};
constexpr std::array kActions = {"checkpoint", "pause", "hold", "release", "rollback", "stop"};
constexpr std::array kPolicies = {"fail-open", "fail-closed"};
constexpr std::array kMemoryWords = {"none", "read"};

constexpr std::size_t kWordMax = 32;
constexpr std::size_t kProgramMax = 128;
constexpr std::size_t kRangesMax = 16;
constexpr std::size_t kCommandMax = 15;  // TASK_COMM_LEN less its end

bool is_letter(char c) { return c >= 'a' && c <= 'z'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

[[noreturn]] void refuse_member(const std::string& message, const std::string& hint) { throw Error(Code::kInvalid, message, hint); }

// The name of a folder, too.
bool is_version(std::string_view text) {
  return !text.empty() && text.size() <= kWordMax && is_digit(text[0]) && std::ranges::all_of(text, [](char c) {
    return is_letter(c) || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '.' || c == '-' || c == '+' || c == '~';
  });
}

// Plain parts, separated by one slash each: no "..", nothing hidden, nothing absolute.
bool is_program(std::string_view text) {
  bool part_begins = true;
  for (const char c : text) {
    const bool plain = is_letter(c) || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '_' || c == '-' || c == '.';
    if (c == '/' ? part_begins : (!plain || (part_begins && c == '.'))) return false;
    part_begins = c == '/';
  }
  return !part_begins && text.size() <= kProgramMax;
}

bool is_command(std::string_view text) {
  return !text.empty() && text.size() <= kCommandMax && std::ranges::all_of(text, [](char c) { return c > ' ' && c <= '~'; });
}

std::string word(Members& members, const char* name, bool (*fits)(std::string_view), const char* hint) {
  const std::string text = members.text(name);
  if (!fits(text)) refuse_member(fmt::format("{} cannot be {}", members.path_of(name), shown(text)), hint);
  return text;
}

template <typename Enum>
std::set<Enum> as(const std::set<std::size_t>& indices) {
  std::set<Enum> out;
  for (const std::size_t index : indices) out.insert(static_cast<Enum>(index));
  return out;
}

MemoryClaim parse_memory_claim(const Json& json) {
  Members members(json, "claims.memory");
  MemoryClaim out;
  out.range.kind = static_cast<MemoryRange::Kind>(members.choice("range", kRanges));
  if (out.range.kind == MemoryRange::Kind::kProcess) {
    out.range.process = word(members, "process", is_command, "the command of a process: 1 to 15 printable characters");
  }
  out.access = as<MemoryAccess>(members.choices("access", kAccesses));
  if (out.access.empty()) refuse_member("claims.memory.access is empty", "leave out a range that is not needed");
  members.nothing_else();
  return out;
}

std::vector<MemoryClaim> parse_memory(Members& members) {
  const Json& json = members.at("memory");
  if (!json.is_array()) {
    if (members.choice("memory", kMemoryWords) == 0) return {};
    return {{{MemoryRange::Kind::kRam, {}}, {MemoryAccess::kRead}}};
  }
  if (json.size() > kRangesMax) refuse_member(fmt::format("claims.memory has more than {} ranges", kRangesMax), "");
  std::vector<MemoryClaim> out;
  for (const Json& claim : json) out.push_back(parse_memory_claim(claim));
  return out;
}

Claims parse_claims(const Json& json) {
  Members members(json, "claims");
  Claims out;
  if (members.has("memory")) out.memory = parse_memory(members);
  if (members.has("written_pages")) out.written_pages = members.truth("written_pages");
  if (members.has("restore")) out.restore = members.truth("restore");
  if (members.has("vcpu")) out.vcpu = static_cast<VcpuClaim>(members.choice("vcpu", kVcpu));
  if (members.has("network")) out.network = static_cast<NetworkClaim>(members.choice("network", kNetwork));
  if (members.has("disk")) out.disk = static_cast<DiskClaim>(members.choice("disk", kDisk));
  if (members.has("events")) {
    const auto events = members.choices("events", kEvents);
    out.see_events = events.contains(0);
    out.send_events = events.contains(1);
  }
  if (members.has("actions")) out.actions = as<Action>(members.choices("actions", kActions));
  members.nothing_else();
  return out;
}

Resources parse_resources(const Json& json) {
  Members members(json, "resources");
  Resources out;
  if (members.has("memory_mib")) out.memory_mib = members.number("memory_mib", 8, 65536);
  if (members.has("cpu_percent")) out.cpu_percent = members.number("cpu_percent", 1, 6400);
  if (members.has("epoch_ms")) out.epoch_ms = members.number("epoch_ms", 1, 3'600'000);
  if (members.has("budget_ms")) out.budget_ms = members.number("budget_ms", 1, 60'000);
  members.nothing_else();
  if (!members.has("budget_ms")) out.budget_ms = std::min(out.budget_ms, out.epoch_ms);
  if (out.budget_ms > out.epoch_ms) {
    refuse_member("resources.budget_ms is more than resources.epoch_ms", "a layer must be done before its next epoch");
  }
  return out;
}

}  // namespace

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kWordMax && is_letter(text[0]) &&
         std::ranges::all_of(text, [](char c) { return is_letter(c) || is_digit(c) || c == '-'; });
}

Manifest parse_manifest(std::string_view text) {
  constexpr const char* kNameHint = "a small letter, then up to 31 small letters, digits and -";
  const Json json = parse_json(text, kManifestMax, "the manifest");
  Members members(json, "");
  // First: what another ABI added is not wrong, but of another ABI.
  const std::uint32_t abi = members.number("abi", 0, UINT32_MAX);
  if (abi != kLayerAbi) {
    throw Error(Code::kVersion, fmt::format("the layer was built for ABI {}, and this engine has ABI {}", abi, kLayerAbi),
                abi < kLayerAbi ? "ask its vendor for a newer package" : "use a newer nova-mhv, or an older package");
  }
  Manifest out;
  out.name = word(members, "name", is_name, kNameHint);
  out.vendor = word(members, "vendor", is_name, kNameHint);
  out.version = word(members, "version", is_version, "a digit, then up to 31 letters, digits, and . - + ~");
  out.program = word(members, "program", is_program, "a path in the package: letters, digits, _ - . and /, no part beginning with a dot");
  if (members.has("claims")) out.claims = parse_claims(members.at("claims"));
  if (members.has("resources")) out.resources = parse_resources(members.at("resources"));
  out.policy = static_cast<Policy>(members.choice("policy", kPolicies));
  if (members.has("configuration")) out.configuration = Configuration(members.at("configuration"));
  members.nothing_else();
  return out;
}

}  // namespace mhv::stack
