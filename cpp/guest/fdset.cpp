#include "guest/fdset.h"

#include "base/error.h"

namespace mhv::guest {
namespace {

int number_of(const Qmp::Json& object, const char* key) {
  const auto field = object.find(key);
  return field != object.end() && field->is_number_integer() ? field->get<int>() : -1;
}

}  // namespace

GivenFd give_fd(Qmp& qmp, const Fd& fd, const char* opaque) {
  const int number = fd.get();
  const Qmp::Json reply = qmp.call("add-fd", {{"opaque", opaque}}, std::span(&number, 1));
  const GivenFd given{number_of(reply, "fdset-id"), number_of(reply, "fd")};
  if (given.set < 0 || given.number < 0) throw Error(Code::kUnavailable, "QEMU's answer to add-fd names no descriptor");
  return given;
}

std::string fdset_path(int set) { return "/dev/fdset/" + std::to_string(set); }

void remove_fdsets(Qmp& qmp, const char* opaque) {
  for (const auto& set : qmp.call("query-fdsets")) {
    if (!set.contains("fdset-id") || !set.contains("fds") || set["fds"].empty() || text_of(set["fds"][0], "opaque") != opaque) continue;
    qmp.try_call("remove-fd", {{"fdset-id", set["fdset-id"]}});
  }
}

}  // namespace mhv::guest
