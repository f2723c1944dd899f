#include "store/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "store/faulty_files.h"
#include "store/format.h"
#include "store/store_testing.h"

namespace mhv::store {
namespace {

using testing::HasSubstr;

std::vector<std::filesystem::path> files_of(const std::string& folder, const std::string& extension) {
  std::vector<std::filesystem::path> out;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().extension() == extension) out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

void overwrite(const std::filesystem::path& path, const std::string& content) { std::ofstream(path, std::ios::binary) << content; }

template <typename Fn>
void expect_error(Code code, Fn&& fn) {
  try {
    fn();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_FALSE(error.hint().empty()) << error.what();
  }
}

class Stores : public EitherKind {};
MHV_EITHER_KIND(Stores);

TEST_P(Stores, GivesBackWhatWasPut) {
  TempFolder temp;
  Model model;
  {
    auto store = open(temp.path());
    const auto root = model.commit(*store, 1, 0, {{0, 10}, {1, 11}, {5, 12}, {6, 0}}, 100'000);
    EXPECT_EQ(root.pages, 3u);  // a page of zeros needs no entry in a root
    EXPECT_EQ(root.pages_stored, 3u);
    EXPECT_EQ(root.device_state_bytes, 100'000u);
    const auto next = model.commit(*store, 2, 1, {{0, 10}, {1, 21}, {5, 0}, {9, 12}}, 0);
    EXPECT_EQ(next.pages, 3u);         // page 0 is as it was
    EXPECT_EQ(next.pages_stored, 1u);  // 12 and zeros are known
    model.check(*store);
    EXPECT_EQ(store->list().front().name, "n1");
    EXPECT_EQ(store->get(uuid(2)).disks.at(0).snapshot, "s");
    EXPECT_EQ(store->get(uuid(2)).blocks, model.info(2).blocks);
  }
  auto store = open(temp.path());
  model.check(*store);
}

TEST_P(Stores, KeepsOneCopyOfAContent) {
  TempFolder temp;
  Model model;
  auto store = open(temp.path());
  std::map<std::uint32_t, std::uint32_t> same;
  for (std::uint32_t page = 0; page < 16; ++page) same[page] = 7;
  EXPECT_EQ(model.commit(*store, 1, 0, same, 0).pages_stored, 1u);
  EXPECT_LT(store->bytes_on_disk(), 2 * kPageSize);
  const auto again = model.commit(*store, 2, 0, same, 0);
  EXPECT_EQ(again.pages_stored, 0u);
  EXPECT_LT(again.bytes_stored, 1000u);  // what is told about it
  model.check(*store);
}

TEST_P(Stores, LastPutOfAPageCounts) {
  TempFolder temp;
  auto store = open(temp.path());
  Model model;
  Writer writer = store->begin("");
  writer.put(PageNo{3}, content(5));
  writer.put(PageNo{1}, content(5));
  writer.put(PageNo{3}, content(0));
  writer.put(PageNo{1}, content(9));
  EXPECT_EQ(writer.commit(model.info(1)).pages, 1u);
  EXPECT_EQ(store->resolve(uuid(1))[1], store->key_of(content(9)));
  EXPECT_TRUE(store->resolve(uuid(1))[3].is_zero_page());
}

TEST_P(Stores, TellsTheDifferenceOfAnyTwo) {
  TempFolder temp;
  Model model;
  auto store = open(temp.path());
  model.commit(*store, 1, 0, {{0, 1}, {1, 2}, {2, 3}});
  model.commit(*store, 2, 1, {{0, 11}, {3, 4}});
  model.commit(*store, 3, 1, {{1, 12}, {3, 4}});
  model.commit(*store, 4, 0, {{0, 1}});
  for (unsigned from = 1; from <= 4; ++from) {
    for (unsigned to = 1; to <= 4; ++to) {
      PageTable table = store->resolve(uuid(from));
      for (const PageEntry& entry : store->difference(uuid(from), uuid(to))) {
        table[entry.page.value] = entry.key;
      }
      EXPECT_EQ(table, store->resolve(uuid(to)));
    }
  }
  EXPECT_EQ(store->difference(uuid(2), uuid(3)).size(), 3u);  // page 3 too, though it is the same in both
}

TEST_P(Stores, RemovesInAnyOrder) {
  std::vector<unsigned> order{1, 2, 3, 4, 5};
  unsigned number = 0;
  do {
    if (kSanitized && number++ % 4 != 0) continue;
    TempFolder temp;
    Model model;
    const StoreOptions options{std::make_shared<FaultyFiles>(), 3 * kPageSize};
    auto store = open(temp.path(), options);
    model.commit(*store, 1, 0, {{0, 1}, {1, 3}, {2, 5}, {3, 7}});
    model.commit(*store, 2, 1, {{0, 11}, {1, 0}, {4, 9}});
    model.commit(*store, 3, 2, {{0, 1}, {5, 13}});
    model.commit(*store, 4, 2, {{1, 15}, {2, 17}});
    model.commit(*store, 5, 4, {{1, 3}, {2, 0}});
    for (const unsigned id : order) {
      model.remove(*store, id);
      model.check(*store);
      if (id == 2) {
        store.reset();
        store = open(temp.path(), options);
        model.check(*store);
      }
    }
    EXPECT_EQ(files_of(temp.path(), ".seg").size(), 0u);
    EXPECT_EQ(files_of(temp.path(), ".idx").size(), 0u);
    EXPECT_EQ(store->bytes_on_disk(), 0u);
    if (HasFailure()) return;
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST_P(Stores, GivesSpaceBack) {
  TempFolder temp;
  Model model(400);
  const StoreOptions options{nullptr, 40 * kPageSize};
  auto store = open(temp.path(), options);
  std::map<std::uint32_t, std::uint32_t> first, second;
  for (std::uint32_t page = 0; page < 400; ++page) {
    first[page] = 2 * page + 1;
    if (page % 10 != 0) second[page] = 2 * (page + 1000) + 1;
  }
  model.commit(*store, 1, 0, first);
  const std::uint64_t before = store->bytes_on_disk();
  model.commit(*store, 2, 1, second);
  model.remove(*store, 1);
  compact_all(*store);
  EXPECT_LT(store->bytes_on_disk(), before + before / 5);  // the tenth that is still needed was copied
  model.check(*store);
  EXPECT_EQ(store->compact(true), std::nullopt);
  store.reset();
  store = open(temp.path(), options);
  model.check(*store);
  model.commit(*store, 3, 2, first);
  model.remove(*store, 2);
  compact_all(*store);
  model.check(*store);
  EXPECT_LT(store->bytes_on_disk(), before + before / 5);
  store->remove_all();
  EXPECT_EQ(store->bytes_on_disk(), 0u);
  EXPECT_EQ(files_of(temp.path(), ".seg").size(), 0u);
  model = Model(400);
  model.commit(*store, 1, 0, first);
  store.reset();
  store = open(temp.path(), options);
  model.check(*store);
}

// Thinning at 40 a second: what goes costs what it says, not what the root says; the pages that only it saw come free.
TEST_P(Stores, ThinsALongChainInBatches) {
  TempFolder temp;
  constexpr std::uint32_t kPages = 20'000, kHot = 40;
  Model model(kPages);
  auto store = open(temp.path(), {nullptr, 200 * kPageSize});
  std::map<std::uint32_t, std::uint32_t> all;
  for (std::uint32_t page = 0; page < kPages; ++page) all[page] = 2 * (page % 500) + 2;
  model.commit(*store, 1, 0, all);
  const std::uint64_t root = store->bytes_on_disk();
  unsigned id = 1;
  std::uint64_t before_last = 0;
  for (unsigned batch = 0; batch < (kSanitized ? 15 : 60); ++batch) {
    std::vector<std::string> thinned;
    for (unsigned i = 0; i < 10; ++i) {
      thinned.push_back(uuid(id));
      std::map<std::uint32_t, std::uint32_t> hot;
      for (std::uint32_t page = 0; page < kHot; ++page) hot[page * 7 + i % 2] = 100'001 + 2 * (id * kHot + page);
      model.commit(*store, id + 1, id, hot);
      ++id;
    }
    before_last = store->bytes_on_disk();
    store->remove(thinned);
    for (const std::string& one : thinned) model.forget(one);
    EXPECT_LT(store->bytes_on_disk() - before_last, 20'000u);  // the root's entries are 400,000 bytes
    EXPECT_EQ(store->count(), 1u);
    while (store->compact()) {
    }
  }
  EXPECT_LT(store->stat().links, 8u);
  compact_all(*store);
  EXPECT_LT(store->bytes_on_disk(), root + 100 * kPageSize);  // 80 pages are hot
  model.check(*store);
  store.reset();
  store = open(temp.path());
  model.check(*store);
}

TEST_P(Stores, ADeltaKeepsItsBase) {
  TempFolder temp;
  Model model;
  const StoreOptions options{nullptr, 2 * kPageSize};
  auto store = open(temp.path(), options);
  model.commit(*store, 1, 0, {{0, 2001}, {1, 2003}, {2, 2005}});
  // Patches of page 0 in 1; then nobody but them needs that.
  for (unsigned id = 2; id < 12; ++id) {
    const auto info = model.commit(*store, id, id - 1, {{0, 1'000'000 + id}}, 0);
    EXPECT_LT(info.bytes_stored, 900u) << id;
  }
  EXPECT_GE(store->stat().delta, 10u);
  for (unsigned id = 1; id < 11; ++id) {
    model.remove(*store, id);
    compact_all(*store);
    model.check(*store);
  }
  EXPECT_EQ(store->stat().delta, 1u);
  store.reset();
  store = open(temp.path(), options);
  model.check(*store);
  model.commit(*store, 20, 11, {{0, 7}});
  model.remove(*store, 11);
  compact_all(*store);  // now the base goes, with its last delta
  EXPECT_EQ(store->stat().delta, 0u);
  model.commit(*store, 21, 20, {{0, 1'000'011}});  // its content was stored once
  model.check(*store);
}

TEST_P(Stores, ListsInPages) {
  TempFolder temp;
  Model model;
  auto store = open(temp.path());
  EXPECT_EQ(store->newest(), std::nullopt);
  for (unsigned id = 1; id <= 5; ++id) model.commit(*store, id, id - 1, {{0, id}});
  EXPECT_EQ(store->list("", 2).back().id, uuid(2));
  EXPECT_EQ(store->list(uuid(2), 2).front().id, uuid(3));
  EXPECT_EQ(store->list(uuid(5)).size(), 0u);
  expect_error(Code::kNotFound, [&] { store->list(uuid(9)); });
  EXPECT_EQ(store->newest()->id, uuid(5));
  EXPECT_EQ(store->count(), 5u);
  EXPECT_TRUE(store->contains(uuid(3)));
  store->remove({uuid(3), uuid(5)});
  EXPECT_FALSE(store->contains(uuid(3)));
  EXPECT_EQ(store->newest()->id, uuid(4));
  EXPECT_EQ(store->newest()->parent, uuid(2));
  expect_error(Code::kNotFound, [&] { store->remove({uuid(1), uuid(3)}); });
  EXPECT_EQ(store->count(), 3u);
}

TEST_P(Stores, ReadsManyAtOnce) {
  TempFolder temp;
  Model model(300);
  auto store = open(temp.path());
  std::map<std::uint32_t, std::uint32_t> first, second;
  for (std::uint32_t page = 0; page < 300; ++page) {
    first[page] = page % 5 == 0 ? 0 : page % 3 == 0 ? 2 * page : 2001 + 2 * (page % 50);
    if (page % 2 == 0) second[page] = 1'000'000 + page % 50 * 1000 + page;
  }
  model.commit(*store, 1, 0, first);
  model.commit(*store, 2, 1, second);
  EXPECT_GT(store->stat().delta, 10u);
  const PageTable table = store->resolve(uuid(2));
  std::vector<Page> pages(table.size());
  std::vector<PageRead> reads;
  for (std::size_t i = 0; i < table.size(); ++i) reads.push_back({table[i], pages[i].data()});
  store->read_many(reads);
  for (std::size_t i = 0; i < table.size(); ++i) EXPECT_EQ(pages[i], content(model.at(2).contents[i])) << i;
}

TEST_P(Stores, ADroppedWriterLeavesNothing) {
  TempFolder temp;
  Model model;
  const StoreOptions options{nullptr, 3 * kPageSize};
  auto store = open(temp.path(), options);
  model.commit(*store, 1, 0, {{0, 1}});
  const std::uint64_t bytes = store->bytes_on_disk();
  const auto segments = files_of(temp.path(), ".seg").size();
  {
    Writer writer = store->begin(uuid(1));
    for (std::uint32_t page = 0; page < 16; ++page) writer.put(PageNo{page}, content(page * 2 + 101));
    expect_error(Code::kBusy, [&] { store->begin(""); });
    expect_error(Code::kBusy, [&] { store->remove({uuid(1)}); });
  }
  EXPECT_EQ(store->bytes_on_disk(), bytes);
  EXPECT_EQ(files_of(temp.path(), ".seg").size(), segments);
  model.commit(*store, 2, 1, {{0, 101}});
  model.check(*store);
}

TEST_P(Stores, RefusesWhatIsWrong) {
  TempFolder temp;
  Model model;
  auto store = open(temp.path());
  expect_error(Code::kBusy, [&] { open(temp.path()); });
  model.commit(*store, 1, 0, {{0, 1}});
  expect_error(Code::kNotFound, [&] { store->begin(uuid(5)); });
  expect_error(Code::kNotFound, [&] { store->get(uuid(5)); });
  expect_error(Code::kNotFound, [&] { store->resolve("../../x"); });
  expect_error(Code::kNotFound, [&] { store->remove({uuid(5)}); });
  const auto commit = [&](const std::string& parent, const CheckpointInfo& info, std::uint32_t page) {
    Writer writer = store->begin(parent);
    writer.put(PageNo{page}, content(3));
    writer.commit(info);
  };
  CheckpointInfo info = model.info(1);
  EXPECT_THROW(commit("", info, 0), Error);  // exists
  info.id = "../evil";
  EXPECT_THROW(commit("", info, 0), Error);
  info = model.info(2);
  EXPECT_THROW(commit("", info, 16), Error);  // beyond the blocks
  info.blocks.pop_back();
  expect_error(Code::kInvalid, [&] { commit(uuid(1), info, 0); });
  model.commit(*store, 2, 1, {{0, 3}});
  model.check(*store);
}

TEST_P(Stores, RefusesAnotherVersion) {
  TempFolder temp;
  Model model;
  { model.commit(*open(temp.path()), 1, 0, {{0, 1}}); }
  const std::string format = FaultyFiles::read_all(temp.path() + "/FORMAT");
  overwrite(temp.path() + "/FORMAT", "nova-mhv store 1\n");
  expect_error(Code::kVersion, [&] { open(temp.path()); });
  overwrite(temp.path() + "/FORMAT", "something else");
  expect_error(Code::kCorrupt, [&] { open(temp.path()); });
  std::filesystem::remove(temp.path() + "/FORMAT");
  expect_error(Code::kCorrupt, [&] { open(temp.path()); });
  overwrite(temp.path() + "/FORMAT", format);
  for (const std::filesystem::path& path : {std::filesystem::path(temp.path() + "/CATALOG"), files_of(temp.path(), ".seg").at(0)}) {
    const std::string before = FaultyFiles::read_all(path);
    std::string text = before;
    text[8] = 7;
    if (path.extension() != ".seg") text[text.size() / 2 + 8] = 7;
    overwrite(path, text);
    expect_error(Code::kVersion, [&] { open(temp.path()); });
    overwrite(path, before);
  }
  model.check(*open(temp.path()));
}

// Whatever byte is altered, no wrong page comes out and check() tells.
void alter_and_check(Sealing sealing, const std::string& folder, const std::filesystem::path& path, const Model& model,
                     const std::function<void(std::string&)>& alter) {
  const std::string before = FaultyFiles::read_all(path);
  std::string text = before;
  alter(text);
  overwrite(path, text);
  try {
    auto store = Store::open(folder, of_kind(sealing));
    EXPECT_FALSE(store->check(nullptr).problems.empty());
    for (const auto& [id, known] : model.all()) {
      try {
        const PageTable table = store->resolve(id);
        for (std::size_t i = 0; i < table.size(); ++i) {
          Page page;
          store->read(table[i], page);
          EXPECT_EQ(page, content(known.contents[i]));
        }
        EXPECT_EQ(store->device_state(id), known.device_state);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), Code::kCorrupt) << error.what();
      }
    }
  } catch (const Error& error) {
    EXPECT_TRUE(error.code() == Code::kVersion) << error.what();
  }
  overwrite(path, before);
}

TEST_P(Stores, AnAlteredByteIsDetected) {
  TempFolder temp;
  Model model;
  {
    auto store = open(temp.path());
    model.commit(*store, 1, 0, {{0, 1}, {1, 2}, {2, 4}});
    model.commit(*store, 2, 1, {{0, 6}});
  }
  std::mt19937 random(7);
  for (const auto& path : files_of(temp.path(), ".seg")) {
    for (int round = 0; round < 60; ++round) {
      SCOPED_TRACE(path.string() + " round " + std::to_string(round));
      const bool with_index = round % 2 == 0;
      const auto index = files_of(temp.path(), ".idx");
      if (!with_index) {
        for (const auto& file : index) std::filesystem::remove(file);
      }
      alter_and_check(GetParam(), temp.path(), path, model, [&](std::string& text) {
        if (round < 45) {
          text[random() % text.size()] ^= static_cast<char>(1 << random() % 8);
        } else {
          text.resize(random() % text.size());
        }
      });
      if (HasFailure()) return;
    }
  }
  model.check(*open(temp.path()));
}

TEST_P(Stores, ADamagedIndexFileIsMadeAgain) {
  TempFolder temp;
  Model model;
  { model.commit(*open(temp.path()), 1, 0, {{0, 1}, {1, 2}, {2, 4}}); }
  std::mt19937 random(3);
  for (int round = 0; round < 40; ++round) {
    const auto path = files_of(temp.path(), ".idx").at(0);
    std::string text = FaultyFiles::read_all(path);
    text[random() % text.size()] ^= 1;
    if (round % 3 == 0) text.resize(text.size() / 2);
    overwrite(path, text);
    model.check(*open(temp.path()));
  }
}

TEST_P(Stores, IsReadWhileItIsWritten) {
  TempFolder temp;
  Model model;
  const StoreOptions options{std::make_shared<FaultyFiles>(), 6 * kPageSize};
  auto store = open(temp.path(), options);
  model.commit(*store, 1, 0, {{0, 1}, {1, 3}, {2, 5}});
  const Model::Known fixed = model.at(1);
  std::atomic<bool> stop{false};
  const auto reader = [&] {
    while (!stop) {
      EXPECT_FALSE(store->list().empty());
      for (const auto& info : store->list()) {
        try {
          for (const PageKey& key : store->resolve(info.id)) {
            Page page;
            store->read(key, page);
          }
        } catch (const Error& error) {
          EXPECT_THROW(store->get(info.id), Error) << error.what();  // deleted since it was listed
        }
      }
      EXPECT_EQ(store->check(nullptr).problems, std::vector<std::string>{});
      EXPECT_GE(store->stat().segments, 1u);
      EXPECT_GT(store->bytes_on_disk(), 0u);
    }
  };
  std::thread one(reader), two(reader);
  for (unsigned id = 2; id < 40; ++id) {
    model.commit(*store, id, id - 1, {{id % 16, 2 * id + 1}, {(id * 7) % 16, 2 * id + 101}});
    if (id > 6) model.remove(*store, id - 5);
    if (id % 4 == 0) compact_all(*store);
  }
  stop = true;
  one.join();
  two.join();
  model.check(*store);
}

// Nothing is synced: for tests of what is not about that.
class HastyFiles : public FileOps {
 public:
  void sync(const Fd&, const std::string&) override {}
  void sync_directory(const std::string&) override {}
};

TEST_P(Stores, ALongChain) {
  TempFolder temp;
  constexpr unsigned kLength = kSanitized ? 1'000 : 10'000;
  const StoreOptions options{std::make_shared<HastyFiles>()};
  std::string parent;
  Model model;
  auto store = open(temp.path(), options);
  for (unsigned id = 1; id <= kLength; ++id) {
    Writer writer = store->begin(parent);
    writer.put(PageNo{id % 16}, content(id % 100 + 1));
    parent = writer.commit(model.info(id)).id;
  }
  store.reset();
  store = open(temp.path(), options);
  EXPECT_EQ(store->list().size(), kLength);
  const PageTable table = store->resolve(parent);
  for (unsigned id = kLength - 15; id <= kLength; ++id) EXPECT_EQ(table[id % 16], store->key_of(content(id % 100 + 1)));
}

}  // namespace
}  // namespace mhv::store
