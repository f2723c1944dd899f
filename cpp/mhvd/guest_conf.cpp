#include "mhvd/guest_conf.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/fd.h"

namespace mhv::mhvd {
namespace {

constexpr std::size_t kConfBytesMax = 64u << 10;

std::string conf_path(const std::string& folder) { return folder + "/guest.conf"; }

}  // namespace

bool is_uuid(std::string_view text) {
  if (text.size() != 36) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    const char c = text[i];
    if (dash ? c != '-' : !((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
  }
  return true;
}

protocol::GuestConf parse_guest_conf(std::string_view bytes, const std::string& uuid) {
  protocol::GuestConf conf;
  if (bytes.size() > kConfBytesMax || !conf.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || conf.uuid() != uuid) {
    throw Error(Code::kCorrupt, "guest.conf of guest " + uuid + " cannot be read",
                "attach the guest again; its checkpoints are not affected");
  }
  return conf;
}

void save_guest_conf(const std::string& folder, const protocol::GuestConf& conf) {
  std::filesystem::create_directories(folder);
  const std::string bytes = conf.SerializeAsString();
  replace_file(conf_path(folder), std::as_bytes(std::span(bytes)));
}

protocol::GuestConf load_guest_conf(const std::string& folder, const std::string& uuid) {
  return parse_guest_conf(read_file(conf_path(folder), kConfBytesMax), uuid);
}

std::vector<std::string> list_guests(const std::string& guests_dir) {
  std::vector<std::string> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(guests_dir, error)) {
    const std::string name = entry.path().filename().string();
    if (is_uuid(name) && std::filesystem::exists(conf_path(entry.path().string()))) out.push_back(name);
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace mhv::mhvd
