// Every question that can be asked of a guest's kernel, with its answer as JSON: arrays of objects. Addresses are strings ("0x..."),
// other numbers are numbers; where the guest's bytes are no UTF-8, U+FFFD stands for them.
//
//   kernel     banner, hostname, command_line, address (of its code), slide (by how much KASLR moved it), symbols (how many),
//              page_table_levels; one object
//   processes  pid, parent, name, command, kernel_thread, task
//   threads    pid, process, tid, name, state (as ps says it), task
//   modules    name, bytes, address, state
//   files      pid, process, fd, kind, path, inode, readable, writable
//   sockets    pid, process, fd, inode, family, type, protocol, state, local, remote, [local_port, remote_port]
//   mounts     device, point, type, read_only
//   syscalls   number, address, symbol
//   log        number, seconds (since the guest's start), level, text
//
// processes, threads, files and sockets are all of them, or with {"pid": N} those of one process; one at which it did not hold together, or
// that ended meanwhile, has {"pid", "process", "unreadable": true}. mounts are as the process N sees them, 1 without "pid".
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "introspection/kernel.h"

namespace mhv::introspection {

inline constexpr std::size_t kAnswerBytesMax = 16u << 20;  // as JSON

// Throws kInvalid: there is no such kind or argument, or the answer is too large; kNotFound: no such process; kUnsupported; kBusy.
nlohmann::ordered_json answer(const Kernel& kernel, std::string_view kind, const nlohmann::json& args);

// As UTF-8, whatever it was.
std::string to_utf8(std::string_view bytes);

}  // namespace mhv::introspection
