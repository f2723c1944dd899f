#include "checkpoint/export.h"

#include <gtest/gtest.h>

namespace mhv::checkpoint {
namespace {

constexpr const char* kOwn =
    "  <qemu:commandline>\n"
    "    <qemu:arg value='-chardev'/>\n"
    "    <qemu:arg value='socket,id=mhv,path=/run/nova-mhv/qmp/x.sock,server=on,wait=off'/>\n"
    "    <qemu:arg value='-mon'/>\n"
    "    <qemu:arg value='chardev=mhv,mode=control'/>\n";

TEST(WithoutOwnMonitor, DropsTheWholeElementWhenNothingElseIsInIt) {
  EXPECT_EQ(without_own_monitor(std::string("<domain>\n") + kOwn + "  </qemu:commandline>\n</domain>"), "<domain>\n</domain>");
}

TEST(WithoutOwnMonitor, KeepsTheArgumentsOfOthers) {
  const std::string other = "    <qemu:arg value='-foo'/>\n  </qemu:commandline>\n</domain>";
  EXPECT_EQ(without_own_monitor(std::string("<domain>\n") + kOwn + other), "<domain>\n  <qemu:commandline>\n" + other);
}

TEST(WithoutOwnMonitor, LeavesOtherMachinesAlone) {
  const std::string xml =
      "<domain>\n  <qemu:commandline>\n    <qemu:arg value='-chardev'/>\n    <qemu:arg value='null,id=a'/>\n  "
      "</qemu:commandline>\n</domain>";
  EXPECT_EQ(without_own_monitor(xml), xml);
}

}  // namespace
}  // namespace mhv::checkpoint
