// What a layer's manifest claims, as the worker grants it.
#pragma once

#include <string>

#include "stack/running_layer.h"

namespace mhv::stack {

// `manifest`: JSON that mhvd has checked. Throws kInvalid.
Charter charter_of(const std::string& manifest);

}  // namespace mhv::stack
