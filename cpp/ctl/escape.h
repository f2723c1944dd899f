// Text that a guest, or a layer from somebody, had a say in: made fit for a terminal.
#pragma once

#include <string>
#include <string_view>

namespace mhv::ctl {

// One line without terminal escapes: control characters, what turns the direction of writing around, and bytes that are no UTF-8 become
// \xNN or \u{NNNN}; a backslash becomes two, so that nothing else can look like that.
std::string escaped(std::string_view text);

// Of UTF-8 text: how many characters, and the first `characters` of it, with an ellipsis for the last where there are more.
std::size_t length(std::string_view text);
std::string shortened(std::string_view text, std::size_t characters);

}  // namespace mhv::ctl
