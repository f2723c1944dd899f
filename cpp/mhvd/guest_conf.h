// guest.conf: what makes a guest known. One small protobuf message (protocol.GuestConf), replaced as a whole.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "mhv.pb.h"

namespace mhv::mhvd {

bool is_uuid(std::string_view text);  // lower case, 8-4-4-4-12

// Throws kCorrupt for anything but a GuestConf about `uuid`. Pure.
protocol::GuestConf parse_guest_conf(std::string_view bytes, const std::string& uuid);
// Makes the folder when it is not there.
void save_guest_conf(const std::string& folder, const protocol::GuestConf& conf);
protocol::GuestConf load_guest_conf(const std::string& folder, const std::string& uuid);
// UUIDs of the folders of known guests; other entries are passed over.
std::vector<std::string> list_guests(const std::string& guests_dir);

}  // namespace mhv::mhvd
