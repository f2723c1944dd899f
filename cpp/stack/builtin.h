// The layers that are part of the engine, and run inside the worker: they claim what they do as any other.
#pragma once

#include <string_view>

#include "stack/manifest.h"

namespace mhv::stack {

bool is_built_in(std::string_view name);
// Throws kNotFound with the names that there are.
const Manifest& built_in(std::string_view name);

}  // namespace mhv::stack
