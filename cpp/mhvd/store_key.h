// The host's key for checkpoints, and what of it each guest's worker is given.
#pragma once

#include <string>

#include "keys/key.h"

namespace mhv::mhvd {

// 32 bytes, or 64 hexadecimal digits and the end of a line, in a regular file that root or this user owns and nobody else can read.
// Throws kNotFound, kPermission, kInvalid, with what to do.
keys::Key read_store_key(const std::string& path);

// Says nothing about the host's key, nor about another guest's.
keys::Key guest_store_key(const keys::Key& host, const std::string& uuid);

}  // namespace mhv::mhvd
