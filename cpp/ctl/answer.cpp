#include "ctl/answer.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"
#include "ctl/escape.h"

namespace mhv::ctl {
namespace {

constexpr int kDepthMax = 16;
constexpr std::size_t kKeysMax = 64;     // of an object, and of all in a table together
constexpr std::size_t kAlignedMax = 80;  // a longer cell pushes its own line out, not the others

Error bad_answer(const std::string& what) { return Error(Code::kCorrupt, "the layer's answer " + what, "tell its vendor"); }

std::string dump(const Answer& value) { return value.dump(-1, ' ', false, Answer::error_handler_t::replace); }

std::string cell(const Answer& value) {
  if (value.is_null()) return "-";
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    return text.empty() ? "-" : escaped(text);
  }
  return value.is_number() ? value.dump() : escaped(dump(value));
}

std::string heading(const std::string& key) {
  std::string out = escaped(key);
  for (char& c : out) c = c == '_' ? ' ' : c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return out;
}

class Column {
 public:
  Column(std::string key, std::size_t width) : key_(std::move(key)), width_(width) {}

  const std::string& key() const { return key_; }
  void add(const Answer& value) {
    cells_.push_back(cell(value));
    width_ = std::max(width_, std::min(length(cells_.back()), kAlignedMax));
    numbers_ = numbers_ && (value.is_number() || value.is_null());
  }
  std::string aligned(const std::string& text) const {
    const std::string blanks(width_ - std::min(width_, length(text)), ' ');
    return numbers_ ? blanks + text : text + blanks;
  }
  std::string row(std::size_t at) const { return aligned(cells_[at]); }

 private:
  std::string key_;
  std::size_t width_;
  bool numbers_ = true;
  std::vector<std::string> cells_;
};

std::vector<Column> columns_of(const Answer& rows) {
  std::vector<Column> columns;
  for (const Answer& row : rows) {
    for (const auto& [key, value] : row.items()) {
      if (std::ranges::find(columns, key, &Column::key) != columns.end()) continue;
      if (columns.size() == kKeysMax) throw bad_answer("has more kinds of keys than a table can show");
      columns.emplace_back(key, std::min(length(heading(key)), kAlignedMax));
    }
  }
  for (const Answer& row : rows) {
    for (Column& column : columns) {
      const auto found = row.find(column.key());
      column.add(found == row.end() ? Answer() : *found);
    }
  }
  return columns;
}

std::string line(std::string text, std::size_t width) {
  text.erase(text.find_last_not_of(' ') + 1);
  return shortened(text, width) + "\n";
}

std::string table_text(const Answer& rows, std::size_t width) {
  const std::vector<Column> columns = columns_of(rows);
  const auto joined = [&](const auto& of) {
    std::string out;
    for (const Column& column : columns) out += (out.empty() ? "" : "  ") + of(column);
    return line(std::move(out), width);
  };
  std::string out = joined([](const Column& column) { return column.aligned(heading(column.key())); });
  for (std::size_t i = 0; i < rows.size(); ++i) out += joined([&](const Column& column) { return column.row(i); });
  return out;
}

std::string object_text(const Answer& object, std::size_t width) {
  std::size_t widest = 0;
  for (const auto& [key, value] : object.items()) widest = std::max(widest, length(escaped(key)));
  std::string out;
  for (const auto& [key, value] : object.items()) {
    const std::string name = escaped(key);
    out += line(name + std::string(widest + 2 - length(name), ' ') + cell(value), width);
  }
  return out;
}

}  // namespace

Answer parse_answer(const std::string& text) {
  std::array<std::size_t, kDepthMax + 1> keys{};  // of the object that is open at each depth
  const auto within = [&](int depth, Answer::parse_event_t event, Answer&) {
    const bool opens = event == Answer::parse_event_t::array_start || event == Answer::parse_event_t::object_start;
    if (opens && depth == kDepthMax) throw bad_answer("is nested too deeply");
    const auto at = static_cast<std::size_t>(depth);
    if (event == Answer::parse_event_t::key && ++keys[at] > kKeysMax) throw bad_answer("has an object with too many keys");
    if (event == Answer::parse_event_t::object_end && at + 1 < keys.size()) keys[at + 1] = 0;
    return true;
  };
  try {
    return Answer::parse(text, within);
  } catch (const nlohmann::json::exception&) {
    throw bad_answer("is no JSON");
  }
}

std::string answer_text(const Answer& answer, std::size_t width) {
  if (!answer.is_structured()) return line(cell(answer), width);
  if (answer.empty()) return "none\n";
  if (answer.is_object()) return object_text(answer, width);
  if (std::ranges::all_of(answer, [](const Answer& row) { return row.is_object(); })) return table_text(answer, width);
  std::string out;
  for (const Answer& value : answer) out += line(cell(value), width);
  return out;
}

std::string answer_json(const Answer& answer) { return answer.dump(-1, ' ', true, Answer::error_handler_t::replace); }

std::size_t terminal_width() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

}  // namespace mhv::ctl
