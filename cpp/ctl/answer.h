// What a layer answers: JSON, as text for people. A layer is not trusted, nor is the guest that it speaks of.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace mhv::ctl {

using Answer = nlohmann::ordered_json;  // keys stay in the order in which they came

// Throws kCorrupt for what is no JSON, and for JSON that is nested deeper than a table can show.
Answer parse_answer(const std::string& text);

// A list of objects is a table whose columns are their keys, with what is numbers alone to the right; one object is a line per key;
// of anything else it is the value. Lines end after `width` characters; 0: never.
std::string answer_text(const Answer& answer, std::size_t width);

// One line that is ASCII alone.
std::string answer_json(const Answer& answer);

// Of the terminal on standard output; 0: it is none.
std::size_t terminal_width();

}  // namespace mhv::ctl
