#include "guest/qmp_wire.h"

#include "base/error.h"

namespace mhv::guest {
namespace {

[[noreturn]] void bad(const std::string& why) { throw Error(Code::kInvalid, "QEMU's monitor sent something else than QMP: " + why); }

// The parser's own structures grow with depth: refuse it before parsing.
void check_depth(std::string_view line) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kQmpDepthMax) bad("nested too deeply");
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
}

}  // namespace

void LineReader::feed(std::string_view bytes) {
  bytes_.erase(0, taken_);
  searched_ -= taken_;
  taken_ = 0;
  bytes_.append(bytes);
}

std::optional<std::string> LineReader::next() {
  for (;;) {
    const std::size_t end = bytes_.find('\n', searched_);
    if (end == std::string::npos || end - taken_ > kQmpLineMax) {
      if (bytes_.size() - taken_ > kQmpLineMax) bad("a line is longer than " + std::to_string(kQmpLineMax) + " bytes");
      searched_ = bytes_.size();
      return std::nullopt;
    }
    std::string line = bytes_.substr(taken_, end - taken_);
    taken_ = searched_ = end + 1;
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty()) return line;
  }
}

QmpMessage parse_qmp_message(std::string_view line) {
  check_depth(line);
  nlohmann::json json = nlohmann::json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) bad("a line is not a JSON object");
  QmpMessage message;
  if (const auto id = json.find("id"); id != json.end() && id->is_number_unsigned()) message.id = id->get<std::uint64_t>();
  if (json.contains("QMP")) {
    message.kind = QmpKind::kGreeting;
    message.body = std::move(json);
  } else if (const auto event = json.find("event"); event != json.end()) {
    if (!event->is_string()) bad("an event without a name");
    message.body = std::move(json);
  } else if (const auto value = json.find("return"); value != json.end()) {
    message.kind = QmpKind::kReturn;
    message.body = std::move(*value);
  } else if (const auto error = json.find("error"); error != json.end() && error->is_object()) {
    message.kind = QmpKind::kError;
    const auto name = error->find("class"), text = error->find("desc");
    if (name == error->end() || text == error->end() || !name->is_string() || !text->is_string()) bad("an error without a text");
    message.error_class = name->get<std::string>();
    message.error_text = text->get<std::string>();
  } else {
    bad("a message of no known kind");
  }
  return message;
}

}  // namespace mhv::guest
