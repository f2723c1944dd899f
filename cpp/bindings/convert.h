// Protobuf messages as Python dictionaries, keyed by their field names.
#pragma once

#include <google/protobuf/message.h>
#include <pybind11/pybind11.h>

namespace mhv::bindings {

// Every field is there, also one that holds its default. An enum is its value's name in lower case without the prefix
// ("best-effort"); a message and a map are a dict, a repeated field is a list. Needs the GIL.
pybind11::dict to_dict(const google::protobuf::Message& message);

}  // namespace mhv::bindings
