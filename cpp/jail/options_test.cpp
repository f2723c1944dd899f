#include "jail/options.h"

#include <gtest/gtest.h>

#include "base/code_of_test.h"

namespace mhv::jail {
namespace {

using Words = std::vector<const char*>;

Options parse(const Words& more) {
  Words words = {"mhv-jail", "--uid", "100000", "--memory-mib", "64", "--cpu-percent", "50", "--pids", "8", "--descriptors", "4"};
  words.insert(words.end(), more.begin(), more.end());
  std::string help;
  return parse_options(static_cast<int>(words.size()), words.data(), help);
}

TEST(Options, TakesWhatItIsGiven) {
  const Options options = parse({"--package", "/var/lib/x", "--program", "bin/layer", "--", "--memory-mib", "-x"});
  EXPECT_EQ(options.package, "/var/lib/x");
  EXPECT_EQ(options.program, "bin/layer");
  EXPECT_EQ(options.descriptors, 4u);
  EXPECT_EQ(options.arguments, (std::vector<std::string>{"--memory-mib", "-x"}));
}

TEST(Options, RefusesWhatLeadsOutOfThePackage) {
  for (const char* program : {"../layer", "/usr/bin/env", "a/../../b", ""}) {
    EXPECT_EQ(code_of([&] { parse({"--package", "/var/lib/x", "--program", program}); }), Code::kInvalid) << program;
  }
  for (const char* folder : {"x", "/var/../etc", "/var/"}) {
    EXPECT_EQ(code_of([&] { parse({"--package", folder, "--program", "layer"}); }), Code::kInvalid) << folder;
    EXPECT_EQ(code_of([&] { parse({"--package", "/x", "--program", "layer", "--data", folder}); }), Code::kInvalid) << folder;
  }
}

TEST(Options, AMachineIsAProgramOfTheHost) {
  EXPECT_EQ(parse({"--machine", "--program", "/usr/bin/qemu-system-x86_64"}).program, "/usr/bin/qemu-system-x86_64");
  for (const char* program : {"/bin/sh", "/usr/bin/../sbin/x", "qemu-system-x86_64"}) {
    EXPECT_EQ(code_of([&] { parse({"--machine", "--program", program}); }), Code::kInvalid) << program;
  }
  EXPECT_EQ(code_of([] { parse({"--machine", "--package", "/x", "--program", "/usr/bin/env"}); }), Code::kInvalid);
}

TEST(Options, RefusesRoot) {
  EXPECT_EQ(code_of([] { parse({"--package", "/x", "--program", "y", "--uid", "0"}); }), Code::kInvalid);
  EXPECT_EQ(code_of([] { parse({"--package", "/x"}); }), Code::kInvalid);
}

}  // namespace
}  // namespace mhv::jail
