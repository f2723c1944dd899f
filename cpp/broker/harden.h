// What the broker gives up before it serves anyone.
#pragma once

namespace mhv::broker {

// Keeps four capabilities (trace other users' processes, open the files behind their mappings, and reach files whoever owns
// them), forbids new privileges, and allows only the system calls that the broker makes. Call it with one thread running. Throws.
void harden();

}  // namespace mhv::broker
