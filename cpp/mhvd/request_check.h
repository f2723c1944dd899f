// Requests as they come from the wire: parsed, and held against the limits of every field.
#pragma once

#include <string>
#include <string_view>

#include "mhv.pb.h"

namespace mhv::mhvd {

inline constexpr std::size_t kNameBytesMax = 255;
inline constexpr std::size_t kTargetBytesMax = 64;
inline constexpr double kIntervalMaxS = 30.0 * 86400;
inline constexpr double kIntervalMinS = 0.02;
inline constexpr double kOverheadMinPercent = 0.1;
inline constexpr std::uint32_t kKeepMax = 10'000;
inline constexpr double kHoldMaxS = 86400;

// Throws kInvalid. Pure: the fuzz target calls both.
protocol::Request parse_request(std::string_view bytes);
void check_request(const protocol::Request& request, std::size_t fds);

// The guest a request is about; "" for those about all or none.
std::string guest_of(const protocol::Request& request);

}  // namespace mhv::mhvd
