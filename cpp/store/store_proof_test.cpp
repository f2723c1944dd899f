// Random histories against a model, with power losses, in which an encrypted store never seals an offset twice; and every bit of a store
// altered once.
//
// Short here; MHV_STORE_ROUNDS=1000 and more makes it long: so many histories, and every bit instead of some.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>

#include "store/faulty_files.h"
#include "store/format.h"
#include "store/store_testing.h"

namespace mhv::store {
namespace {

unsigned rounds() {
  const char* const text = std::getenv("MHV_STORE_ROUNDS");
  return text == nullptr ? (kSanitized ? 5 : 25) : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

// Looks at every record on its way to the disk: what stands in the clear says under which key and nonce it was sealed.
class SealWatch : public FaultyFiles {
 public:
  void write(const Fd& file, std::span<const std::byte> data, std::uint64_t offset, const std::string& path) override {
    if (path.ends_with(".seg")) look(file, data, offset);
    FaultyFiles::write(file, data, offset, path);
  }
  std::size_t seals() const { return seals_.size(); }

 private:
  void look(const Fd& file, std::span<const std::byte> data, std::uint64_t offset) {
    std::vector<std::byte> head(sizeof(SegmentHeader));
    if (offset == 0) {
      std::copy_n(data.begin(), head.size(), head.begin());
    } else {
      pread_all(file.get(), head, 0, "segment");
    }
    const std::uint64_t skip = offset == 0 ? head.size() : 0;
    const auto damaged = scan_records(data.subspan(skip), 0, data.size() - skip, [&](const Record& record, std::uint64_t at) {
      EXPECT_TRUE(record.sealed);
      const auto [known, first] = seals_.try_emplace({secret_in(head), offset + skip + at}, record.checksum);
      EXPECT_TRUE(first || known->second == record.checksum) << "an offset is sealed twice";
    });
    EXPECT_EQ(damaged, 0u);
  }

  std::map<std::pair<Secret, std::uint64_t>, std::uint64_t> seals_;  // salt and offset -> checksum of what was sealed
};

// One store and what it has to hold, driven by random numbers.
class History {
 public:
  History(unsigned seed, Sealing sealing, std::shared_ptr<FaultyFiles> files = std::make_shared<FaultyFiles>())
      : random_(seed), files_(std::move(files)), options_(of_kind(sealing, {files_, (2 + seed % 6) * kPageSize})) {
    open();
  }

  void step() {
    switch (random_() % 16) {
      case 0:
      case 1:
      case 2: remove(); break;
      case 3:
      case 4:
      case 5: store_->compact(random_() % 2 == 0); break;
      case 6: compact_all(*store_); break;
      case 7:
        store_.reset();
        open();
        model_.check(*store_);
        break;
      case 8:
      case 9: crash(); break;
      case 10: give_up(); break;
      default: commit(); break;
    }
  }
  void finish() {
    model_.check(*store_);
    store_.reset();
    open();
    model_.check(*store_);
    compact_all(*store_);
    model_.check(*store_);
  }

 private:
  void open() { store_ = Store::open(temp_.path(), options_); }

  std::map<std::uint32_t, std::uint32_t> some_pages() {
    std::map<std::uint32_t, std::uint32_t> out;
    for (unsigned i = random_() % 6; i > 0; --i) {
      // Contents come again, are zeros, stand alone, or differ a little from others.
      const unsigned kind = random_() % 6;
      out[random_() % 16] = kind == 0 ? 0 : kind < 3 ? random_() % 40 + 1 : 1'000'000 + random_() % 3 * 1000 + random_() % 60;
    }
    return out;
  }
  unsigned any() {
    auto at = model_.all().begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_() % model_.all().size()));
    return static_cast<unsigned>(std::stoul(at->first.substr(24), nullptr, 16));
  }
  void commit() {
    // Mostly on top of the last one, as epochs are.
    const unsigned parent = model_.all().empty() || random_() % 12 == 0 ? 0 : model_.has(last_) && random_() % 4 != 0 ? last_ : any();
    last_ = next_++;
    model_.commit(*store_, last_, parent, some_pages(), random_() % 3 * 3000);
  }
  void remove() {
    std::set<std::string> ids;
    for (unsigned i = random_() % 4 + 1; i > 0 && !model_.all().empty(); --i) ids.insert(uuid(any()));
    removing_.assign(ids.begin(), ids.end());
    store_->remove(removing_);
    forget_removed();
  }
  void forget_removed() {
    for (const std::string& id : removing_) model_.forget(id);
    removing_.clear();
  }
  void give_up() {
    Writer writer = store_->begin("");
    for (std::uint32_t page = 0; page < 8; ++page) writer.put(PageNo{page}, content(random_() % 1000));
  }

  // The process ends at some step of a change, and the power fails with it, or not.
  void crash() {
    files_->arm(random_() % 12 + 1, true);
    bool committing = false;
    try {
      switch (random_() % 4) {
        case 0: remove(); break;
        case 1: compact_all(*store_); break;
        default:
          committing = true;
          commit();
          committing = false;
      }
    } catch (const Error&) {
    }
    store_.reset();
    files_->disarm();
    if (random_() % 3 != 0) files_->lose_power(temp_.path(), random_() % 3 == 0 ? nullptr : &random_);
    open();
    if (committing && store_->contains(uuid(last_))) model_.accept_pending();
    if (!removing_.empty()) {
      const bool gone = !store_->contains(removing_.front());
      for (const std::string& id : removing_) EXPECT_EQ(store_->contains(id), !gone) << "half of a deletion";
      if (gone) forget_removed();
      removing_.clear();
    }
    model_.check(*store_);
  }

  TempFolder temp_;
  std::mt19937 random_;
  const std::shared_ptr<FaultyFiles> files_;
  const StoreOptions options_;
  Model model_;
  std::unique_ptr<Store> store_;
  unsigned next_ = 1, last_ = 0;
  std::vector<std::string> removing_;
};

class StoreProofs : public EitherKind {};
MHV_EITHER_KIND(StoreProofs);

TEST_P(StoreProofs, RandomHistories) {
  for (unsigned seed = 1; seed <= rounds(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const auto watch = GetParam() == Sealing::kEncrypted ? std::make_shared<SealWatch>() : nullptr;
    History history(seed, GetParam(), watch ? watch : std::make_shared<FaultyFiles>());
    for (int step = 0; step < 80 && !testing::Test::HasFailure(); ++step) {
      SCOPED_TRACE("step " + std::to_string(step));
      history.step();
    }
    if (!testing::Test::HasFailure()) history.finish();
    if (watch) {
      EXPECT_GT(watch->seals(), 50u);
    }
    if (testing::Test::HasFailure()) return;
  }
}

// A small store with everything in it: whole pages, deltas and their base, a hidden link, a second segment.
void make_sample(const std::string& folder, Sealing sealing, Model& model) {
  auto store = Store::open(folder, of_kind(sealing, {nullptr, kPageSize}));
  model.commit(*store, 1, 0, {{0, 2001}, {1, 2}, {2, 4}, {3, 6}}, 300);
  model.commit(*store, 2, 1, {{0, 1'000'003}, {4, 8}}, 300);
  model.commit(*store, 3, 2, {{0, 1'000'004}, {1, 10}}, 0);
  model.commit(*store, 4, 2, {{2, 12}}, 0);
  model.remove(*store, 2);
  model.commit(*store, 5, 4, {{3, 14}}, 0);
  model.commit(*store, 6, 0, {{5, 16}, {6, 2007}}, 0);  // shares nothing with the others
}

// Right, or refused; never wrong.
bool reads(const Store& store, const std::string& id, const Model::Known& known) {
  try {
    const PageTable table = store.resolve(id);
    EXPECT_EQ(table.size(), known.contents.size());
    for (std::size_t i = 0; i < table.size(); ++i) {
      Page page;
      store.read(table[i], page);
      EXPECT_EQ(page, content(known.contents[i]));
    }
    EXPECT_EQ(store.device_state(id), known.device_state);
    EXPECT_EQ(store.get(id).domain_xml, "<domain/>");
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kCorrupt) << error.what();
    return false;
  }
}

void check_altered(const std::string& folder, Sealing sealing, const Model& model, bool derived, bool repair) {
  std::unique_ptr<Store> store;
  try {
    store = Store::open(folder, of_kind(sealing));
  } catch (const Error& error) {
    EXPECT_TRUE(error.code() == Code::kCorrupt || error.code() == Code::kVersion) << error.what();
    EXPECT_FALSE(error.hint().empty());
    return;
  }
  const CheckResult result = store->check(nullptr);
  EXPECT_EQ(result.problems.empty(), derived);
  std::size_t damaged = 0;  // may be all: they share contents, as their domain XML
  for (const auto& [id, known] : model.all()) {
    const bool told = std::ranges::find(result.damaged, id) != result.damaged.end();
    const bool good = reads(*store, id, known);
    EXPECT_NE(good, told) << id;
    if (!good) ++damaged;
  }
  if (!repair) return;
  const RepairResult repaired = store->repair(nullptr);
  EXPECT_EQ(repaired.lost.size(), damaged);
  EXPECT_EQ(repaired.kept + damaged, model.all().size());
  EXPECT_EQ(store->check(nullptr).problems, std::vector<std::string>{});
  store.reset();
  store = Store::open(folder, of_kind(sealing));
  EXPECT_EQ(store->check(nullptr).problems, std::vector<std::string>{});
  for (const auto& [id, known] : model.all()) {
    if (store->contains(id)) {
      EXPECT_TRUE(reads(*store, id, known));
    }
  }
  EXPECT_EQ(store->count(), repaired.kept);
  // What was lost is stored again, not taken for there.
  Model again = model;
  for (const std::string& id : repaired.lost) again.forget(id);
  again.commit(*store, 99, 0, {{0, 2001}, {1, 2}, {2, 4}, {3, 6}, {4, 8}, {5, 10}, {6, 12}, {7, 14}});
  EXPECT_TRUE(reads(*store, uuid(99), again.at(99)));
}

TEST_P(StoreProofs, EveryBitIsGuarded) {
  TempFolder sample_folder;
  Model model;
  make_sample(sample_folder.path(), GetParam(), model);
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(sample_folder.path())) {
    if (entry.is_regular_file() && entry.path().filename() != "lock") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  EXPECT_GE(files.size(), 6u);  // FORMAT, CATALOG, two segments and their indexes
  const std::size_t step = rounds() >= 1000 ? 1 : kSanitized ? 389 : 97;
  TempFolder copy;
  std::size_t flips = 0;
  for (const auto& file : files) {
    const std::string whole = FaultyFiles::read_all(file);
    for (std::size_t bit = 0; bit < whole.size() * 8; bit += step) {
      SCOPED_TRACE(file.filename().string() + " bit " + std::to_string(bit));
      std::filesystem::remove_all(copy.path());
      std::filesystem::copy(sample_folder.path(), copy.path(), std::filesystem::copy_options::recursive);
      std::string altered = whole;
      altered[bit / 8] ^= static_cast<char>(1 << bit % 8);
      std::ofstream(copy.path() + "/" + std::filesystem::relative(file, sample_folder.path()).string(), std::ios::binary) << altered;
      check_altered(copy.path(), GetParam(), model, file.extension() == ".idx", ++flips % 3 == 0);
      if (testing::Test::HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace mhv::store
