#include "introspection/answers.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "introspection/files.h"
#include "introspection/log.h"
#include "introspection/modules.h"
#include "introspection/mounts.h"
#include "introspection/processes.h"
#include "introspection/sockets.h"
#include "introspection/syscalls.h"
#include "introspection/threads.h"

namespace mhv::introspection {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t kLinkedAt = 0xffff'ffff'8100'0000;  // _text without KASLR
constexpr std::size_t kHostnameBytesMax = 64, kCommandLineBytesMax = 4096;
constexpr std::int32_t kInit = 1;

std::string hex(GuestVirt at) { return fmt::format("{:#x}", at.value); }

// Rows, and no more of them than the answer may have.
class Rows {
 public:
  void add(Json row) {
    bytes_ += row.dump().size() + 1;
    if (bytes_ > kAnswerBytesMax) {
      throw Error(Code::kInvalid, "the answer is larger than " + std::to_string(kAnswerBytesMax >> 20) + " MiB",
                  R"(ask for one process: {"pid": N})");
    }
    rows_.push_back(std::move(row));
  }
  Json take() { return std::move(rows_); }

 private:
  Json rows_ = Json::array();
  std::size_t bytes_ = 0;
};

template <typename T, typename RowOf>
Json rows_of(const std::vector<OfProcess<T>>& processes, RowOf&& row_of) {
  Rows rows;
  for (const OfProcess<T>& one : processes) {
    const auto add = [&](const Json& more) {
      Json row{{"pid", one.process.pid}, {"process", to_utf8(one.process.name)}};
      row.update(more);
      rows.add(std::move(row));
    };
    if (!one.readable) add({{"unreadable", true}});
    for (const T& found : one.found) add(row_of(found));
  }
  return rows.take();
}

using Pid = std::optional<std::int32_t>;

Json kernel_answer(const Kernel& kernel, Pid) {
  Walk walk(kernel);
  const auto text = kernel.symbol("_text");
  const auto hostname = kernel.symbol("init_uts_ns") + kernel.offset("uts_namespace", "name.nodename");
  const auto command_line = kernel.symbol("saved_command_line");
  return walk.again("name", [&] {
    return Json::array({Json{
        {"banner", to_utf8(kernel.banner())},
        {"hostname", to_utf8(walk.text(hostname, kHostnameBytesMax))},
        {"command_line", to_utf8(walk.text(walk.get<GuestVirt>(command_line), kCommandLineBytesMax))},
        {"address", hex(text)},
        {"slide", hex({text.value - kLinkedAt})},
        {"symbols", kernel.symbols().size()},
        {"page_table_levels", kernel.five_levels() ? 5 : 4},
    }});
  });
}

Json processes_answer(const Kernel& kernel, Pid pid) {
  const Processes processes(kernel);
  if (pid) processes.find(*pid);
  Rows rows;
  for (const Process& one : processes.list_with_commands()) {
    if (pid && one.pid != *pid) continue;
    rows.add({{"pid", one.pid},
              {"parent", one.parent},
              {"name", to_utf8(one.name)},
              {"command", to_utf8(one.command)},
              {"kernel_thread", one.kernel_thread},
              {"task", hex(one.task)}});
  }
  return rows.take();
}

Json threads_answer(const Kernel& kernel, Pid pid) {
  return rows_of(Threads(kernel).list(pid), [](const Thread& one) {
    return Json{{"tid", one.tid}, {"name", to_utf8(one.name)}, {"state", std::string(1, one.state)}, {"task", hex(one.task)}};
  });
}

Json modules_answer(const Kernel& kernel, Pid) {
  Rows rows;
  for (const Module& one : Modules(kernel).list()) {
    rows.add({{"name", to_utf8(one.name)}, {"bytes", one.bytes}, {"address", hex(one.at)}, {"state", one.state}});
  }
  return rows.take();
}

Json files_answer(const Kernel& kernel, Pid pid) {
  return rows_of(Files(kernel).list(pid), [](const File& one) {
    return Json{{"fd", one.fd},       {"kind", one.kind},         {"path", to_utf8(one.path)},
                {"inode", one.inode}, {"readable", one.readable}, {"writable", one.writable}};
  });
}

Json sockets_answer(const Kernel& kernel, Pid pid) {
  return rows_of(Sockets(kernel).list(pid), [](const Socket& one) {
    Json row{
        {"fd", one.fd},       {"inode", one.inode},          {"family", one.family},         {"type", one.type}, {"protocol", one.protocol},
        {"state", one.state}, {"local", to_utf8(one.local)}, {"remote", to_utf8(one.remote)}};
    if (one.local_port) row["local_port"] = *one.local_port;
    if (one.remote_port) row["remote_port"] = *one.remote_port;
    return row;
  });
}

Json mounts_answer(const Kernel& kernel, Pid pid) {
  Rows rows;
  for (const Mount& one : Mounts(kernel).list(pid.value_or(kInit))) {
    rows.add({{"device", to_utf8(one.device)}, {"point", to_utf8(one.point)}, {"type", to_utf8(one.type)}, {"read_only", one.read_only}});
  }
  return rows.take();
}

Json syscalls_answer(const Kernel& kernel, Pid) {
  Rows rows;
  for (const Syscall& one : list_syscalls(kernel)) {
    rows.add({{"number", one.number}, {"address", hex(one.at)}, {"symbol", to_utf8(one.symbol)}});
  }
  return rows.take();
}

Json log_answer(const Kernel& kernel, Pid) {
  Rows rows;
  for (const LogRecord& one : Log(kernel).list()) {
    const double seconds = static_cast<double>(one.nanoseconds / 1000) / 1e6;
    rows.add({{"number", one.number}, {"seconds", seconds}, {"level", one.level}, {"text", to_utf8(one.text)}});
  }
  return rows.take();
}

struct Question {
  std::string_view name;
  Json (*answer)(const Kernel&, Pid);
  bool of_process;
};
constexpr std::array<Question, 9> kQuestions{{
    {"kernel", kernel_answer, false},
    {"processes", processes_answer, true},
    {"threads", threads_answer, true},
    {"modules", modules_answer, false},
    {"files", files_answer, true},
    {"sockets", sockets_answer, true},
    {"mounts", mounts_answer, true},
    {"syscalls", syscalls_answer, false},
    {"log", log_answer, false},
}};

Pid pid_of(const Question& kind, const nlohmann::json& args) {
  Pid pid;
  if (!args.is_object() && !args.is_null()) throw Error(Code::kInvalid, "the arguments are no object", R"(give {} or {"pid": N})");
  for (const auto& [key, value] : args.items()) {
    if (key != "pid" || !kind.of_process) {
      throw Error(Code::kInvalid, fmt::format("{} has no argument {}", kind.name, to_utf8(key)),
                  kind.of_process ? "it has pid" : "it has none; processes, threads, files, sockets and mounts have pid");
    }
    if (!value.is_number_integer() || value.get<std::int64_t>() <= 0 || value.get<std::int64_t>() > INT32_MAX) {
      throw Error(Code::kInvalid, "pid is no number of a process", "it is a number from 1 on");
    }
    pid = value.get<std::int32_t>();
  }
  return pid;
}

}  // namespace

nlohmann::ordered_json answer(const Kernel& kernel, std::string_view kind, const nlohmann::json& args) {
  std::string names;
  for (const Question& one : kQuestions) {
    if (one.name == kind) return one.answer(kernel, pid_of(one, args));
    names += (names.empty() ? "" : ", ") + std::string(one.name);
  }
  throw Error(Code::kInvalid, "nothing is known of a guest's " + to_utf8(kind), "ask for " + names);
}

}  // namespace mhv::introspection
