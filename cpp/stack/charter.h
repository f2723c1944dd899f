// What a layer's manifest claims, as the worker grants it.
#pragma once

#include <string>

#include "stack/manifest.h"
#include "stack/running_layer.h"

namespace mhv::stack {

// `configuration`: what Configuration::check() returned, or empty. A setting "epoch_ms" in it, of a layer that has one, is how often it is
// called.
Charter charter_of(const Manifest& manifest, const std::string& configuration);

}  // namespace mhv::stack
