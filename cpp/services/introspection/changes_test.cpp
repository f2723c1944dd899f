#include "introspection/changes.h"

#include <gmock/gmock.h>

#include "introspection/test_guest.h"

namespace mhv::introspection {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::Style;
using testing::TestGuest;

class ChangesOf : public ::testing::TestWithParam<Style> {
 public:
  TestGuest made{GetParam()};
  Kernel kernel = made.kernel();
  Changes changes;
};
INSTANTIATE_TEST_SUITE_P(Of, ChangesOf, ::testing::Values(Style::kOld, Style::kNew));

TEST_P(ChangesOf, NothingIsNewAtFirst) {
  EXPECT_THAT(changes.look(kernel), IsEmpty());
  EXPECT_THAT(changes.look(kernel), IsEmpty());
}

TEST_P(ChangesOf, ProcessesComeAndGo) {
  changes.look(kernel);
  made.add_task("new\xff", 99, 1);
  EXPECT_THAT(changes.look(kernel), ElementsAre(Json{{"kind", "process_start"}, {"pid", 99}, {"name", "new\xef\xbf\xbd"}}));
  made.set(made.task(3), "task_struct", "pid", 98);
  made.set(made.task(3), "task_struct", "tgid", 98);
  EXPECT_THAT(changes.look(kernel), ElementsAre(Json{{"kind", "process_exit"}, {"pid", 99}, {"name", "new\xef\xbf\xbd"}},
                                                Json{{"kind", "process_start"}, {"pid", 98}, {"name", "new\xef\xbf\xbd"}}));
}

TEST_P(ChangesOf, ModulesComeAndGo) {
  changes.look(kernel);
  const std::uint64_t list = made.symbol("dmodules"), first = made.get<std::uint64_t>(list), last = made.get<std::uint64_t>(list + 8);
  made.put(list, list);
  made.put(list + 8, list);
  const auto gone = changes.look(kernel);
  ASSERT_FALSE(gone.empty());
  for (const Json& one : gone) EXPECT_EQ(one["kind"], "module_unload");
  made.put(list, first);
  made.put(list + 8, last);
  const auto back = changes.look(kernel);
  EXPECT_EQ(back.size(), gone.size());
  for (const Json& one : back) EXPECT_EQ(one["kind"], "module_load");
}

TEST_P(ChangesOf, ConnectionsOpenAndClose) {
  changes.look(kernel);
  const auto connection = [](const char* kind) {
    return Json{{"kind", kind},         {"pid", 1},           {"process", "init"},    {"protocol", "tcp"},
                {"local", "127.0.0.1"}, {"local_port", 7000}, {"remote", "10.0.2.2"}, {"remote_port", 80}};
  };
  const auto file = made.get<std::uint64_t>(made.descriptors + 50 * 8);
  made.open(50, 0);
  EXPECT_THAT(changes.look(kernel), ElementsAre(connection("connection_close")));
  made.open(50, file);
  EXPECT_THAT(changes.look(kernel), ElementsAre(connection("connection_open")));
}

// Nor are those of a process that cannot be read taken for closed.
TEST_P(ChangesOf, AProcessThatLiesCloses) {
  changes.look(kernel);
  const std::uint64_t files = made.get<std::uint64_t>(made.init + made.offset("task_struct", "files"));
  const std::uint64_t table = made.get<std::uint64_t>(files + made.offset("files_struct", "fdt"));
  const auto many = made.get<std::uint32_t>(table + made.offset("fdtable", "max_fds"));
  made.set(table, "fdtable", "max_fds", std::uint32_t{0xffff'ffff});
  EXPECT_THAT(changes.look(kernel), IsEmpty());
  made.set(table, "fdtable", "max_fds", many);
  EXPECT_THAT(changes.look(kernel), IsEmpty());
}

// A guest may have any number; what does not fit comes later.
TEST_P(ChangesOf, AreToldInParts) {
  changes.look(kernel);
  for (std::uint32_t i = 0; i < kChangesMax + 10; ++i) made.add_task("many", 1000 + i, 1);
  EXPECT_EQ(changes.look(kernel).size(), kChangesMax);
  EXPECT_EQ(changes.look(kernel).size(), 10u);
  EXPECT_THAT(changes.look(kernel), IsEmpty());
}

// What cannot be read hides nothing else, and nothing is told of it.
TEST_P(ChangesOf, WaitsForWhatDoesNotHoldTogether) {
  changes.look(kernel);
  made.set(made.symbol("dmodules"), "list_head", "next", made.symbol("dmodules") + 8);
  made.add_task("new", 99, 1);
  EXPECT_THAT(changes.look(kernel), ElementsAre(Json{{"kind", "process_start"}, {"pid", 99}, {"name", "new"}}));
}

}  // namespace
}  // namespace mhv::introspection
