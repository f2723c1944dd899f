// What a layer's manifest claims, as the worker grants it.
#pragma once

#include <string>

#include "stack/manifest.h"
#include "stack/running_layer.h"

namespace mhv::stack {

Charter charter_of(const Manifest& manifest);

}  // namespace mhv::stack
