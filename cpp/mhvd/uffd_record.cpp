#include "mhvd/uffd_record.h"

#include <sstream>

#include "base/error.h"
#include "guest/ram.h"

namespace mhv::mhvd {

std::optional<UffdRecord> parse_uffd_record(std::string_view line) {
  std::istringstream in{std::string(line)};
  UffdRecord record;
  int tracking = -1;
  std::string rest;
  if (!(in >> record.process.pid >> record.process.start_time >> record.number >> tracking) || in >> rest) return std::nullopt;
  if (record.process.pid <= 0 || record.number < 0 || (tracking != 0 && tracking != 1)) return std::nullopt;
  record.tracking = tracking == 1;
  return record;
}

std::optional<UffdRecord> load_uffd_record(const std::string& path) {
  try {
    return parse_uffd_record(read_file(path, 4096));
  } catch (const Error&) {
    return std::nullopt;  // none, or not one of ours: the guest gets a new userfaultfd
  }
}

void save_uffd_record(const std::string& path, const UffdRecord& record) {
  const std::string line = std::to_string(record.process.pid) + " " + std::to_string(record.process.start_time) + " " +
                           std::to_string(record.number) + " " + (record.tracking ? "1" : "0") + "\n";
  replace_file(path, std::as_bytes(std::span(line)));
}

namespace {

std::string head_of(const ProcessId& process) { return std::to_string(process.pid) + " " + std::to_string(process.start_time) + "\n"; }

}  // namespace

std::optional<std::string> load_ramblock_record(const std::string& path, const ProcessId& process) {
  try {
    const std::string head = head_of(process);
    std::string text = read_file(path, guest::kListingBytesMax + head.size());
    if (!text.starts_with(head)) return std::nullopt;
    return text.substr(head.size());
  } catch (const Error&) {
    return std::nullopt;
  }
}

void save_ramblock_record(const std::string& path, const ProcessId& process, const std::string& listing) {
  const std::string text = head_of(process) + listing;
  replace_file(path, std::as_bytes(std::span(text)));
}

}  // namespace mhv::mhvd
