// For tests of the store: a folder that goes away, pages made of numbers, and a model of what a store has to hold.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "store/store.h"

namespace mhv::store {

// Under AddressSanitizer everything takes five times as long, and the same code is run.
#ifdef __SANITIZE_ADDRESS__
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// The same in both kinds of store.
enum class Sealing { kPlain, kEncrypted };

inline StoreOptions of_kind(Sealing sealing, StoreOptions options = {}) {
  if (sealing == Sealing::kEncrypted) options.key.emplace(std::string(32, 'k'));
  return options;
}
inline const char* name_of(Sealing sealing) { return sealing == Sealing::kEncrypted ? "encrypted" : "plain"; }

class EitherKind : public testing::TestWithParam<Sealing> {
 protected:
  static std::unique_ptr<Store> open(const std::string& folder, const StoreOptions& options = {}) {
    return Store::open(folder, of_kind(GetParam(), options));
  }
};
#define MHV_EITHER_KIND(suite)                                                                                       \
  INSTANTIATE_TEST_SUITE_P(Of, suite, testing::Values(mhv::store::Sealing::kPlain, mhv::store::Sealing::kEncrypted), \
                           [](const auto& kind) { return mhv::store::name_of(kind.param); })

// Gives all space back that can be.
inline void compact_all(Store& store) {
  while (store.compact(true)) {
  }
}

class TempFolder {
 public:
  TempFolder() {
    std::string text = (base() / "mhv-store-XXXXXX").string();
    if (::mkdtemp(text.data()) == nullptr) throw_errno("mkdtemp");
    root_ = text;
  }
  ~TempFolder() { std::filesystem::remove_all(root_); }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  std::string path() const { return (root_ / "store").string(); }

 private:
  // In memory where there is such a folder: these tests make many thousand files.
  static std::filesystem::path base() {
    return std::filesystem::is_directory("/dev/shm") ? std::filesystem::path("/dev/shm") : std::filesystem::temp_directory_path();
  }
  std::filesystem::path root_;
};

using Page = std::array<std::byte, kPageSize>;

// Content number 0 is the page of zeros; odd ones do not compress, even ones do. Those from 1,000,000 on are, by thousands, some
// random page with a few bytes of their own: a store keeps them as deltas.
inline Page content(std::uint32_t number) {
  Page page{};
  if (number == 0) return page;
  if (number >= 1'000'000) {
    page = content(number / 1000 * 2 + 1);
    for (std::uint32_t i = 0; i < number % 1000 % 7 + 1; ++i)
      page[(number * 37 + i * 511) % kPageSize] ^= static_cast<std::byte>(number % 255 + 1);
    return page;
  }
  std::mt19937_64 random(number);
  for (std::size_t i = 0; i < page.size(); i += 8) {
    const std::uint64_t value = number % 2 == 1 || i < 64 ? random() : number;
    std::memcpy(page.data() + i, &value, 8);
  }
  return page;
}

inline std::string uuid(unsigned number) {
  char text[40];
  std::snprintf(text, sizeof text, "00000000-0000-4000-8000-%012x", number);
  return text;
}

inline std::vector<std::byte> device(unsigned seed, std::size_t bytes) {
  std::mt19937 random(seed);
  std::vector<std::byte> out(bytes);
  for (auto& b : out) b = static_cast<std::byte>(random() % 5);
  return out;
}

// What every committed checkpoint has to hold.
class Model {
 public:
  explicit Model(std::uint32_t pages = 16) : pages_(pages) {}

  struct Known {
    std::vector<std::uint32_t> contents;
    std::vector<std::byte> device_state;
    std::string parent;
  };

  CheckpointInfo info(unsigned id) const {
    CheckpointInfo out;
    out.id = uuid(id);
    out.name = "n" + std::to_string(id);
    out.created_ns = id;
    out.machine = "pc-i440fx-10.0";
    out.domain_xml = "<domain/>";
    out.blocks = {{"pc.ram", (pages_ - 1) * kPageSize, false}, {"rom", kPageSize, true}};
    out.disks = {{"vda", "/x", "qcow2", "s", ""}};
    return out;
  }

  // Page -> number of its content. `parent` 0: a root.
  CheckpointInfo commit(Store& store, unsigned id, unsigned parent, const std::map<std::uint32_t, std::uint32_t>& pages,
                        std::size_t device_bytes = 5000) {
    Known known;
    known.contents.assign(pages_, 0);
    if (parent != 0) known.contents = at(parent).contents;
    known.parent = parent == 0 ? "" : uuid(parent);
    known.device_state = device(id, device_bytes);
    for (const auto& [page, number] : pages) known.contents.at(page) = number;
    pending_ = {uuid(id), known};
    Writer writer = store.begin(known.parent);
    for (const auto& [page, number] : pages) writer.put(PageNo{page}, content(number));
    writer.put_device_state(known.device_state);
    const CheckpointInfo out = writer.commit(info(id));
    known_[uuid(id)] = known;
    return out;
  }

  void remove(Store& store, unsigned id) {
    store.remove({uuid(id)});
    forget(id);
  }
  // The same in the model alone.
  void forget(unsigned id) { forget(uuid(id)); }
  void forget(const std::string& id) {
    const std::string parent = known_.at(id).parent;
    known_.erase(id);
    for (auto& [other, known] : known_) {
      if (known.parent == id) known.parent = parent;
    }
  }
  // The last commit() threw, but may count all the same.
  void accept_pending() { known_.insert(pending_); }

  bool has(unsigned id) const { return known_.contains(uuid(id)); }
  const Known& at(unsigned id) const { return known_.at(uuid(id)); }
  const std::map<std::string, Known>& all() const { return known_; }

  static void check_checkpoint(const Store& store, const std::string& id, const Known& known) {
    const PageTable table = store.resolve(id);
    ASSERT_EQ(table.size(), known.contents.size());
    for (std::size_t i = 0; i < table.size(); ++i) {
      Page page;
      store.read(table[i], page);
      ASSERT_EQ(page, content(known.contents[i])) << id << " page " << i;
    }
    EXPECT_EQ(store.device_state(id), known.device_state);
    EXPECT_EQ(store.get(id).parent, known.parent);
    EXPECT_EQ(store.get(id).domain_xml, "<domain/>");
  }

  void check(const Store& store) const {
    std::vector<std::string> listed;
    for (const CheckpointInfo& one : store.list()) listed.push_back(one.id);
    std::sort(listed.begin(), listed.end());
    std::vector<std::string> expected;
    for (const auto& [id, known] : known_) expected.push_back(id);
    ASSERT_EQ(listed, expected);
    for (const auto& [id, known] : known_) check_checkpoint(store, id, known);
    const CheckResult result = store.check(nullptr);
    EXPECT_EQ(result.problems, std::vector<std::string>{});
    EXPECT_EQ(result.checkpoints, known_.size());
    EXPECT_EQ(result.damaged, std::vector<std::string>{});
    EXPECT_EQ(store.count(), known_.size());
  }

 private:
  std::uint32_t pages_;
  std::map<std::string, Known> known_;
  std::pair<std::string, Known> pending_;
};

}  // namespace mhv::store
