// Every step of every change fails once, stops the process once, and loses the power once.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "store/faulty_files.h"
#include "store/store_testing.h"

namespace mhv::store {
namespace {

enum class Mode { kError, kKilled, kPowerLoss, kUnluckyPowerLoss };

struct Scenario {
  const char* name;
  std::function<void(Store&, Model&)> before;
  std::function<void(Store&, Model&)> change;  // throws when it fails
  std::function<void(Model&)> done;            // in the model, when the change took place though it threw
  std::function<bool(const Store&)> took_place;
};

void base(Store& store, Model& model) {
  model.commit(store, 1, 0, {{0, 1}, {1, 3}, {2, 5}, {3, 7}, {4, 9}, {5, 11}, {6, 12}, {7, 13}});
  model.commit(store, 2, 1, {{0, 101}, {1, 103}, {2, 105}, {3, 0}, {8, 1}});
  model.commit(store, 3, 2, {{0, 201}, {9, 3}, {10, 203}});
  model.commit(store, 4, 2, {{0, 301}, {1, 303}, {11, 305}, {12, 307}, {13, 309}});
}

Scenario removal(const char* name, unsigned id) {
  return {name, base, [id](Store& store, Model& model) { model.remove(store, id); }, [id](Model& model) { model.forget(id); },
          [id](const Store& store) {
            for (const auto& info : store.list()) {
              if (info.id == uuid(id)) return false;
            }
            return true;
          }};
}

std::vector<Scenario> scenarios() {
  const auto committed = [](const Store& store) {
    for (const auto& info : store.list()) {
      if (info.id == uuid(9)) return true;
    }
    return false;
  };
  const auto accept = [](Model& model) { model.accept_pending(); };
  return {
      {"first", [](Store&, Model&) {},
       [](Store& s, Model& m) {
         m.commit(s, 9, 0, {{0, 1}, {1, 3}, {2, 5}, {3, 7}, {4, 8}});
       },
       accept, committed},
      {"incremental", base,
       [](Store& s, Model& m) {
         m.commit(s, 9, 3, {{0, 1}, {1, 403}, {2, 405}, {3, 407}, {4, 409}, {5, 408}});
       },
       accept, committed},
      removal("remove root", 1),
      removal("remove fork", 2),
      removal("remove leaf", 4),
      {"remove many", base,
       [](Store& s, Model& m) {
         s.remove({uuid(1), uuid(2), uuid(4)});
         for (unsigned id : {1, 2, 4}) m.forget(id);
       },
       [](Model& m) {
         for (unsigned id : {1, 2, 4}) m.forget(id);
       },
       [](const Store& s) { return !s.contains(uuid(4)); }},
      {"compact",
       [](Store& s, Model& m) {
         base(s, m);
         m.commit(s, 5, 3, {{0, 1'100'001}, {1, 1'051'001}, {3, 111}});
         m.remove(s, 2);
         m.remove(s, 4);
       },
       [](Store& s, Model&) { compact_all(s); }, [](Model&) {}, [](const Store&) { return false; }},
      {"remove all", base,
       [](Store& s, Model& m) {
         s.remove_all();
         for (unsigned id : {4, 3, 2, 1}) m.forget(id);
       },
       [](Model& m) {
         for (unsigned id : {4, 3, 2, 1}) m.forget(id);
       },
       [](const Store& s) { return s.list().empty(); }},
  };
}

void expect_no_leftovers(const std::string& folder) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    EXPECT_NE(entry.path().extension(), ".new") << entry.path();
}

// One change with a fault at step `at`. False: it has fewer steps.
bool run(const Scenario& scenario, Mode mode, Sealing sealing, unsigned at, unsigned luck_seed) {
  TempFolder temp;
  auto files = std::make_shared<FaultyFiles>();
  const StoreOptions options = of_kind(sealing, {files, 3 * kPageSize});
  Model model;
  bool threw_nothing = false;  // the fault hit what the caller need not know about
  {
    auto store = Store::open(temp.path(), options);
    scenario.before(*store, model);
    store.reset();
    store = Store::open(temp.path(), options);
    files->arm(at, mode != Mode::kError);
    bool threw = false;
    try {
      scenario.change(*store, model);
    } catch (const Error&) {
      threw = true;
    }
    if (!files->failed()) {
      files->disarm();
      return false;
    }
    if (mode == Mode::kError) {
      files->disarm();
      if (threw && scenario.took_place(*store)) scenario.done(model);
      model.check(*store);
      if (!scenario.took_place(*store)) scenario.change(*store, model);  // there is room again
      model.check(*store);
    }
    store.reset();
    files->disarm();
    if (mode == Mode::kPowerLoss) files->lose_power(temp.path(), nullptr);
    std::mt19937 luck(luck_seed);
    if (mode == Mode::kUnluckyPowerLoss) files->lose_power(temp.path(), &luck);
    if (!threw) threw_nothing = true;
  }
  auto store = Store::open(temp.path(), options);
  if (mode != Mode::kError && !threw_nothing && scenario.took_place(*store)) scenario.done(model);
  model.check(*store);
  expect_no_leftovers(temp.path());
  if (!scenario.took_place(*store)) scenario.change(*store, model);
  model.check(*store);
  model.commit(*store, 77, 0, {{0, 777}, {1, 101}});
  store.reset();
  store = Store::open(temp.path(), options);
  model.check(*store);
  return true;
}

class Faults : public testing::TestWithParam<std::tuple<Mode, Sealing>> {};

TEST_P(Faults, EveryStepOfEveryChange) {
  for (const Scenario& scenario : scenarios()) {
    const auto [mode, sealing] = GetParam();
    const unsigned rounds = mode != Mode::kUnluckyPowerLoss || kSanitized ? 1 : sealing == Sealing::kPlain ? 4 : 2;
    unsigned steps = 0;
    for (unsigned at = 1;; at += kSanitized ? 5 : 1) {
      bool any = false;
      for (unsigned round = 0; round < rounds; ++round) {
        SCOPED_TRACE(std::string(scenario.name) + ", step " + std::to_string(at) + ", luck " + std::to_string(round));
        any = run(scenario, mode, sealing, at, at * 100 + round);
        if (testing::Test::HasFailure()) return;
      }
      if (!any) break;
      steps = at;
    }
    EXPECT_GE(steps, kSanitized ? 1u : 3u) << scenario.name;
    RecordProperty(scenario.name, static_cast<int>(steps));
  }
}

INSTANTIATE_TEST_SUITE_P(Store, Faults,
                         testing::Combine(testing::Values(Mode::kError, Mode::kKilled, Mode::kPowerLoss, Mode::kUnluckyPowerLoss),
                                          testing::Values(Sealing::kPlain, Sealing::kEncrypted)));

// The same once more with a process that really ends, holding its lock until then.
class EndingFiles : public FileOps {
 public:
  explicit EndingFiles(unsigned steps) : steps_(steps) {}
  void write(const Fd& file, std::span<const std::byte> data, std::uint64_t offset, const std::string& path) override {
    if (--steps_ == 0) {
      FileOps::write(file, data.first(data.size() / 2), offset, path);
      ::_exit(1);
    }
    FileOps::write(file, data, offset, path);
  }
  void sync(const Fd&, const std::string&) override { end(); }
  void rename(const std::string& from, const std::string& to) override {
    end();
    FileOps::rename(from, to);
  }

 private:
  void end() {
    if (--steps_ == 0) ::_exit(1);
  }
  unsigned steps_;
};

class StoreEnds : public EitherKind {};
MHV_EITHER_KIND(StoreEnds);

TEST_P(StoreEnds, AtAnyStepOfACommit) {
  for (unsigned steps = 1;; ++steps) {
    TempFolder temp;
    Model model;
    {
      auto store = open(temp.path());
      base(*store, model);
    }
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        auto store = open(temp.path(), {std::make_shared<EndingFiles>(steps), 3 * kPageSize});
        Model copy = model;
        copy.commit(*store, 9, 3, {{0, 1}, {1, 403}, {2, 405}, {3, 407}, {4, 409}});
        ::_exit(0);
      } catch (...) {
        ::_exit(2);
      }
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) < 2);
    auto store = open(temp.path());
    if (WEXITSTATUS(status) == 0) {
      EXPECT_EQ(store->list().size(), 5u);
      EXPECT_GE(steps, 5u);
      break;
    }
    if (store->list().size() == model.all().size()) {
      model.check(*store);
      continue;
    }
    ASSERT_EQ(store->list().back().id, uuid(9));  // it ended behind the commit point
    EXPECT_TRUE(store->check(nullptr).problems.empty());
    for (const auto& [id, known] : model.all()) Model::check_checkpoint(*store, id, known);
  }
}

}  // namespace
}  // namespace mhv::store
