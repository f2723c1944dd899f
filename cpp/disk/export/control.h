// The control socket of a disk's export: marks, and what goes with them.
#pragma once

#include <atomic>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "disk_schema/control.pb.h"
#include "export/disk.h"

namespace mhv::disk {

// Carries out one request. Never throws: what fails is in the reply. `payload` may be anything.
wire::Reply serve(Disk& disk, std::string_view payload);

// Answers connections on a unix socket of its own, one request at a time, in a thread of its own. What stands at `path` is
// replaced. `disk` outlives it.
class ControlServer {
 public:
  ControlServer(Disk& disk, const std::string& path);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

 private:
  void run();
  bool answer(const Fd& connection);

  Disk& disk_;
  Fd listener_;
  Fd stop_read_, stop_write_;
  std::vector<Fd> connections_;
  std::thread thread_;
};

// The request of that verb ("mark", "rollback", "drop", "list", ...), about the marks `names` (UUIDs) where it is about any. kInvalid.
wire::Request request_for(const std::string& verb, const std::vector<std::string>& names);

// The other end. Not thread-safe. Every call throws Error: the journal's own, or kUnavailable when the export is gone.
class ControlClient {
 public:
  explicit ControlClient(const std::string& path);
  wire::Reply call(const wire::Request& request);

 private:
  Fd socket_;
};

// "01234567-89ab-..." and back; kInvalid.
MarkName parse_name(const std::string& uuid);
std::string format_name(const MarkName& name);
std::string name_bytes(const MarkName& name);
MarkName name_from_bytes(const std::string& bytes);

}  // namespace mhv::disk
