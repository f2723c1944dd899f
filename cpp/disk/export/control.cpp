#include "export/control.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <charconv>

#include "base/error.h"
#include "base/frame.h"

namespace mhv::disk {
namespace {

constexpr std::size_t kUuidLength = 36;

std::uint64_t load_big_endian(std::string_view bytes) {
  std::uint64_t out = 0;
  for (const char byte : bytes) out = out << 8 | static_cast<std::uint8_t>(byte);
  return out;
}

void drop(Journal& journal, const wire::Drop& request, wire::Reply& reply) {
  for (const std::string& bytes : request.names()) {
    try {
      journal.drop(name_from_bytes(bytes));
      reply.add_names(bytes);
    } catch (const Error& error) {
      if (error.code() != Code::kNotFound) throw;
    }
  }
}

void fill(const JournalStat& stat, wire::Figures& out) {
  out.set_disk_bytes(stat.disk_bytes);
  out.set_log_bytes(stat.log_bytes);
  out.set_live_bytes(stat.live_bytes);
  out.set_marks(stat.marks);
  out.set_entries(stat.entries);
  out.set_synced_entries(stat.synced_entries);
  out.set_folded_blocks(stat.folded_blocks);
  out.set_moved_blocks(stat.moved_blocks);
}

void ask_journal(Journal& journal, const wire::Request& request, wire::Reply& reply) {
  switch (request.what_case()) {
    case wire::Request::kMark: return journal.mark(name_from_bytes(request.mark().name()));
    case wire::Request::kRollback: return journal.rollback(name_from_bytes(request.rollback().name()));
    case wire::Request::kDrop: return drop(journal, request.drop(), reply);
    case wire::Request::kList:
      for (const MarkName& name : journal.marks()) reply.add_names(name_bytes(name));
      return;
    case wire::Request::kStat: return fill(journal.stat(), *reply.mutable_figures());
    case wire::Request::kSync: return journal.sync();
    case wire::Request::kFold: return reply.set_all_folded(journal.fold_all());
    default: throw Error(Code::kInvalid, "a request that this release does not know");
  }
}

void carry_out(Disk& disk, const wire::Request& request, wire::Reply& reply) {
  if (request.what_case() == wire::Request::kOpen) return disk.open();
  if (request.what_case() == wire::Request::kClose) return reply.set_all_folded(disk.close());
  if (!disk.if_open([&](Journal& journal) { ask_journal(journal, request, reply); }))
    throw Error(Code::kUnavailable, "the disk's image is not open yet", "send open");
}

}  // namespace

std::string name_bytes(const MarkName& name) {
  std::string out;
  for (const std::uint64_t half : {name.high, name.low}) {
    for (int shift = 56; shift >= 0; shift -= 8) out.push_back(static_cast<char>(half >> shift & 0xff));
  }
  return out;
}

MarkName name_from_bytes(const std::string& bytes) {
  if (bytes.size() != 16) throw Error(Code::kInvalid, "a mark's name has 16 bytes");
  return {load_big_endian(std::string_view(bytes).substr(0, 8)), load_big_endian(std::string_view(bytes).substr(8))};
}

std::string format_name(const MarkName& name) {
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", name.high >> 32, name.high >> 16 & 0xffff, name.high & 0xffff, name.low >> 48,
                     name.low & 0xffffffffffff);
}

MarkName parse_name(const std::string& uuid) {
  std::string digits;
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash != (uuid[i] == '-')) digits.clear();
    if (!dash) digits.push_back(uuid[i]);
  }
  MarkName name;
  const auto half = [&](std::size_t at, std::uint64_t& out) {
    const char* end = digits.data() + at + 16;
    const auto [stop, error] = std::from_chars(digits.data() + at, end, out, 16);
    return error == std::errc() && stop == end;
  };
  if (uuid.size() != kUuidLength || digits.size() != 32 || !half(0, name.high) || !half(16, name.low))
    throw Error(Code::kInvalid, "not a UUID: " + uuid);
  return name;
}

wire::Reply serve(Disk& disk, std::string_view payload) {
  wire::Reply reply;
  try {
    wire::Request request;
    if (!request.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) throw Error(Code::kInvalid, "not a request");
    carry_out(disk, request, reply);
  } catch (const Error& error) {
    reply.Clear();
    reply.mutable_error()->set_code(static_cast<std::uint32_t>(error.code()));
    reply.mutable_error()->set_message(error.what());
    reply.mutable_error()->set_hint(error.hint());
  }
  return reply;
}

wire::Request request_for(const std::string& verb, const std::vector<std::string>& names) {
  wire::Request request;
  const auto name = [&](std::size_t i) {
    if (i >= names.size()) throw Error(Code::kInvalid, fmt::format("{}: which mark? Name it by its UUID", verb));
    return name_bytes(parse_name(names[i]));
  };
  if (verb == "mark") request.mutable_mark()->set_name(name(0));
  if (verb == "rollback") request.mutable_rollback()->set_name(name(0));
  for (std::size_t i = 0; verb == "drop" && i < names.size(); ++i) request.mutable_drop()->add_names(name(i));
  if (verb == "list") request.mutable_list();
  if (verb == "stat") request.mutable_stat();
  if (verb == "sync") request.mutable_sync();
  if (verb == "fold") request.mutable_fold();
  if (verb == "open") request.mutable_open();
  if (verb == "close") request.mutable_close();
  return request;
}

wire::Reply ControlClient::call(const wire::Request& request) {
  send_frame(socket_.get(), request.SerializeAsString());
  const auto frame = receive_frame(socket_.get());
  if (!frame) throw Error(Code::kUnavailable, "the disk's export closed the connection");
  wire::Reply reply;
  if (!reply.ParseFromString(frame->payload)) throw Error(Code::kInvalid, "the disk's export gave an answer that is none");
  if (reply.has_error()) throw Error(static_cast<Code>(reply.error().code()), reply.error().message(), reply.error().hint());
  return reply;
}

}  // namespace mhv::disk
