// QMP's wire format: one JSON object a line. Pure; QEMU may be in a tenant's hands, so whatever comes is checked.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace mhv::guest {

inline constexpr std::size_t kQmpLineMax = 4u << 20;
inline constexpr int kQmpDepthMax = 64;

// Cuts bytes into lines. Throws kInvalid when a line passes kQmpLineMax.
class LineReader {
 public:
  explicit LineReader(std::string pending = {}) : bytes_(std::move(pending)) {}
  void feed(std::string_view bytes);
  // The next whole line without its end; empty lines are left out.
  std::optional<std::string> next();
  std::string release() && { return bytes_.substr(taken_); }

 private:
  std::string bytes_;
  std::size_t taken_ = 0;     // bytes_ before it were returned
  std::size_t searched_ = 0;  // no line end before it
};

enum class QmpKind { kGreeting, kEvent, kReturn, kError };

struct QmpMessage {
  QmpKind kind = QmpKind::kEvent;
  nlohmann::json body;  // greeting and event: the whole message; return: the value
  std::optional<std::uint64_t> id;
  std::string error_class, error_text;
};

// Throws kInvalid on anything but one QMP message.
QmpMessage parse_qmp_message(std::string_view line);

}  // namespace mhv::guest
