// Every kind of answer, about kernels of two generations; then what a guest may do to its structures.
#include "introspection/answers.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "base/code_of_test.h"
#include "introspection/test_guest.h"

namespace mhv::introspection {
namespace {

using testing::Style;
using testing::TestGuest;

nlohmann::ordered_json ask(const Kernel& kernel, std::string_view kind, const char* args = "{}") {
  return answer(kernel, kind, nlohmann::json::parse(args));
}

void expect(const Kernel& kernel, std::string_view kind, const char* wanted, const char* args = "{}") {
  EXPECT_EQ(ask(kernel, kind, args), nlohmann::ordered_json::parse(wanted)) << ask(kernel, kind, args).dump(1);
}

class Answers : public ::testing::TestWithParam<Style> {
 public:
  TestGuest made{GetParam()};
  Kernel kernel = made.kernel();
};
INSTANTIATE_TEST_SUITE_P(Of, Answers, ::testing::Values(Style::kOld, Style::kNew));

TEST_P(Answers, Kernel) {
  expect(kernel, "kernel",
         R"([{"banner": "Linux version 6.1.0-test (gcc) #1 SMP", "hostname": "made", "command_line": "console=ttyS0 quiet",
      "address": "0xffffffff9a000008", "slide": "0x19000008", "symbols": 65549, "page_table_levels": 4}])");
}

TEST_P(Answers, Processes) {
  expect(kernel, "processes", R"([
    {"pid": 1, "parent": 0, "name": "init", "command": "/sbin/init splash", "kernel_thread": false, "task": "0xffffffff9a301000"},
    {"pid": 17, "parent": 0, "name": "kworker/0:1", "command": "", "kernel_thread": true, "task": "0xffffffff9a302000"}])");
  EXPECT_EQ(ask(kernel, "processes", R"({"pid": 17})").size(), 1u);
  EXPECT_EQ(code_of([&] { ask(kernel, "processes", R"({"pid": 18})"); }), Code::kNotFound);
}

TEST_P(Answers, Threads) {
  const auto all = ask(kernel, "threads");
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[1]["pid"], 1);
  EXPECT_EQ(all[1]["process"], "init");
  EXPECT_EQ(all[1]["tid"], 5);
  EXPECT_EQ(all[1]["name"], "worker");
  EXPECT_EQ(all[1]["state"], "D");
  EXPECT_EQ(all[0]["state"], "R");
  EXPECT_EQ(ask(kernel, "threads", R"({"pid": 1})").size(), 2u);
  EXPECT_EQ(code_of([&] { ask(kernel, "threads", R"({"pid": 2})"); }), Code::kNotFound);
  const char* const state = GetParam() == Style::kOld ? "state" : "__state";
  for (const auto& [value, letter] : {std::pair(0x402u, "I"), {0x1001u, "S"}, {0xffff'ffffu, "P"}, {0xffff'ff80u, "R"}}) {
    made.set(made.worker, "task_struct", state, value);
    EXPECT_EQ(ask(kernel, "threads")[1]["state"], letter) << value;
  }
}

TEST_P(Answers, Modules) {
  expect(kernel, "modules", R"([{"name": "evdev", "bytes": 12288, "address": "0xffffffffc0000000", "state": "live"},
                                {"name": "new", "bytes": 8192, "address": "0xffffffffc0100000", "state": "loading"}])");
}

TEST_P(Answers, Files) {
  const auto all = ask(kernel, "files", R"({"pid": 1})");
  ASSERT_EQ(all.size(), 11u);
  EXPECT_EQ(all[0], nlohmann::ordered_json::parse(R"({"pid": 1, "process": "init", "fd": 0, "kind": "file", "path": "/etc/passwd",
      "inode": 10, "readable": true, "writable": true})"));
  EXPECT_EQ(all[1]["path"], "/mnt/data/gone (deleted)");
  EXPECT_EQ(all[2]["path"], "pipe:[12]");
  EXPECT_EQ(all[3]["path"], "anon_inode:[eventfd]");
  EXPECT_EQ(all[3]["kind"], "other");
  EXPECT_EQ(all[4]["path"], "/memfd:x (deleted)");
  EXPECT_EQ(all[4]["fd"], 40);
  EXPECT_EQ(all[5]["path"], "socket:[1050]");
}

TEST_P(Answers, Sockets) {
  expect(kernel, "sockets", R"([
    {"pid": 1, "process": "init", "fd": 50, "inode": 1050, "family": "ipv4", "type": "stream", "protocol": "tcp", "state": "established",
     "local": "127.0.0.1", "remote": "10.0.2.2", "local_port": 7000, "remote_port": 80},
    {"pid": 1, "process": "init", "fd": 51, "inode": 1051, "family": "ipv6", "type": "datagram", "protocol": "udp", "state": "unconnected",
     "local": "fe80::", "remote": "::", "local_port": 53, "remote_port": 0},
    {"pid": 1, "process": "init", "fd": 52, "inode": 1052, "family": "unix", "type": "stream", "protocol": "0", "state": "listen",
     "local": "/run/x", "remote": ""},
    {"pid": 1, "process": "init", "fd": 53, "inode": 1053, "family": "unix", "type": "seqpacket", "protocol": "0", "state": "established",
     "local": "@hidden", "remote": "/run/x"},
    {"pid": 1, "process": "init", "fd": 54, "inode": 1054, "family": "netlink", "type": "raw", "protocol": "uevent",
     "state": "unconnected", "local": "99", "remote": "0"},
    {"pid": 1, "process": "init", "fd": 55, "inode": 1055, "family": "packet", "type": "raw", "protocol": "0x0003",
     "state": "unconnected", "local": "if-2", "remote": ""}])");
}

TEST_P(Answers, Mounts) {
  expect(kernel, "mounts", R"([{"device": "/dev/vda1", "point": "/", "type": "ext4", "read_only": false},
                               {"device": "a b", "point": "/mnt/data", "type": "tmpfs", "read_only": true}])");
  EXPECT_TRUE(ask(kernel, "mounts", R"({"pid": 17})").empty()) << "a process that has none";
}

TEST_P(Answers, Syscalls) {
  expect(kernel, "syscalls", R"([{"number": 0, "address": "0xffffffff9a000010", "symbol": "fill_16"},
                                 {"number": 1, "address": "0xffffffff9a000014", "symbol": "fill_16+0x4"},
                                 {"number": 2, "address": "0xffffffffc0001234", "symbol": "[evdev]"}])");
}

TEST_P(Answers, Log) {
  expect(kernel, "log", R"([{"number": 9, "seconds": 9.0, "level": 6, "text": "first"},
                            {"number": 10, "seconds": 10.0, "level": 6, "text": "at the beginning, for it did not fit"},
                            {"number": 11, "seconds": 11.0, "level": 6, "text": "third"}])");
}

TEST_P(Answers, WhatIsNotAsked) {
  EXPECT_EQ(code_of([&] { ask(kernel, "secrets"); }), Code::kInvalid);
  EXPECT_EQ(code_of([&] { ask(kernel, "log", R"({"pid": 1})"); }), Code::kInvalid);
  for (const char* args : {R"({"pid": "1"})", R"({"pid": 0})", R"({"pid": 4294967297})", R"({"pid": 1.5})", R"({"uid": 1})", "[1]"}) {
    EXPECT_EQ(code_of([&] { ask(kernel, "files", args); }), Code::kInvalid) << args;
  }
  try {
    ask(kernel, "secrets");
  } catch (const Error& error) {
    EXPECT_THAT(error.hint(), ::testing::HasSubstr("processes, threads, modules"));
  }
}

// One process that cannot be read hides no other.
TEST_P(Answers, AProcessThatLies) {
  made.add_task("liar", 66, 1);
  const std::uint64_t liar = made.task(3), files = made.add("files_struct"), table = made.add("fdtable");
  made.set(liar, "task_struct", "files", files);
  made.set(files, "files_struct", "fdt", table);
  made.set(table, "fdtable", "max_fds", std::uint32_t{0xffff'ffff});
  made.set(liar, "task_struct", "signal", std::uint64_t{0xdead'0000'0000'0000});
  const auto unreadable = nlohmann::ordered_json::parse(R"({"pid": 66, "process": "liar", "unreadable": true})");
  for (const char* kind : {"files", "threads", "sockets"}) {
    const auto all = ask(kernel, kind);
    EXPECT_EQ(all.back(), unreadable) << kind;
    EXPECT_GT(all.size(), 3u) << kind;
  }
}

TEST_P(Answers, ListsThatDoNotEnd) {
  made.set(made.symbol("dmodules"), "list_head", "next", made.symbol("dmodules") + 8);
  EXPECT_EQ(code_of([&] { ask(kernel, "modules"); }), Code::kBusy);
  EXPECT_EQ(code_of([&] { ask(kernel, "syscalls"); }), Code::kBusy);
  if (GetParam() == Style::kOld) {
    made.set(made.name_space + 0x20, "list_head", "next", made.root_mount + 0x58);
  } else {
    made.put(made.root_mount + 0x50 + 16, made.data_mount + 0x50);  // a tree in itself
  }
  EXPECT_EQ(code_of([&] { ask(kernel, "mounts"); }), Code::kBusy);
  try {
    ask(kernel, "mounts");
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("does not hold together")) << "before it took all that it may";
  }
}

// To the right, where nothing is kept of the way.
TEST_P(Answers, ATreeInItself) {
  if (GetParam() == Style::kOld) return;
  made.put(made.data_mount + 0x50 + 8, made.data_mount + 0x50);
  made.put(made.data_mount + 0x50 + 16, std::uint64_t{0});
  EXPECT_EQ(code_of([&] { ask(kernel, "mounts"); }), Code::kBusy);
}

TEST_P(Answers, APathThatDoesNotEnd) {
  const std::uint64_t loop = made.add_dentry("loop", made.root);
  made.set(loop, "dentry", "d_parent", made.add_dentry("other", loop));
  made.open(0, made.add_file(made.root_mount, loop, 0x81a4, 20));
  const std::string path = ask(kernel, "files")[0]["path"];
  EXPECT_TRUE(path.starts_with("...")) << path;
  EXPECT_TRUE(path.ends_with("/loop/other/loop")) << path;
  // Mounts in one another add nothing to the path, and so need an end of their own.
  made.set(made.root_mount, "mount", "mnt_parent", made.data_mount);
  made.set(made.root_mount, "mount", "mnt_mountpoint", made.get<std::uint64_t>(made.data_mount + 0x20));
  made.set(made.data_mount, "mount", "mnt_mountpoint", made.root);
  EXPECT_EQ(ask(kernel, "files")[0]["unreadable"], true);
}

TEST_P(Answers, ALogThatLies) {
  made.put(made.log_data, std::uint64_t{77});  // another record's text
  EXPECT_EQ(ask(kernel, "log").size(), 2u) << "the one that was overwritten is left out";
  made.put(made.descriptors_of_log + 9 % 8 * 24 + 16, ~std::uint64_t{7});  // a text of gigabytes
  EXPECT_EQ(ask(kernel, "log").size(), 1u);
  made.put(made.descriptors_of_log + 11 % 8 * 24 + 8, std::uint64_t{3});  // none at all
  EXPECT_EQ(ask(kernel, "log")[0]["text"], "");
  made.put(made.log_ring, std::uint32_t{64});
  EXPECT_EQ(code_of([&] { ask(kernel, "log"); }), Code::kBusy);
  made.put(made.log_ring, std::uint32_t{1});  // more records than descriptors
  EXPECT_EQ(code_of([&] { ask(kernel, "log"); }), Code::kBusy);
}

TEST_P(Answers, AreText) {
  made.add_task("\xff\xc3\xa4\x80", 99, 0);
  EXPECT_EQ(ask(kernel, "processes")[2]["name"], "\xef\xbf\xbd\xc3\xa4\xef\xbf\xbd");
}

TEST(Utf8, IsWhatItWasOrReplaced) {
  constexpr std::string_view kBad = "\xef\xbf\xbd";
  for (const std::string_view good : {"", "plain", "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf", "\xed\x9f\xbf"}) {
    EXPECT_EQ(to_utf8(good), good);
  }
  EXPECT_EQ(to_utf8("\xc0\x80"), std::string(kBad) + std::string(kBad)) << "longer than need be";
  for (const std::string_view bad :
       {"\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xf5\x80\x80\x80", "\xe2\x82"}) {
    std::string wanted;
    for (std::size_t i = 0; i < bad.size(); ++i) wanted += kBad;
    EXPECT_EQ(to_utf8(bad), wanted);
  }
  EXPECT_EQ(to_utf8("\xe2\x82("), std::string(kBad) + std::string(kBad) + "(");
}

}  // namespace
}  // namespace mhv::introspection
