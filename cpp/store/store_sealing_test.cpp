// What encryption at rest promises: nothing can be read without the key, and nothing is altered or moved unnoticed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "store/faulty_files.h"
#include "store/format_bytes.h"
#include "store/page_namer.h"
#include "store/sealing.h"
#include "store/store_testing.h"

namespace mhv::store {
namespace {

using testing::HasSubstr;

const StoreOptions kSealed = of_kind(Sealing::kEncrypted);

std::map<std::string, std::string> files_in(const std::string& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) out[entry.path()] = FaultyFiles::read_all(entry.path());
  }
  return out;
}

void overwrite(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

template <typename Fn>
Error error_of(Fn&& fn) {
  try {
    fn();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "nothing was thrown";
  return Error(Code::kInternal, "");
}

TEST(Seal, OpensOnlyWhatWasSealed) {
  const Seal seal{keys::Key(std::string(32, 'a'))}, other{keys::Key(std::string(32, 'b'))};
  const std::string text = "what is sealed", clear = "beside it";
  const auto bytes_of = [](const std::string& s) { return std::as_bytes(std::span(s)); };
  std::vector<std::byte> sealed(text.size() + kTagBytes), out(text.size());
  const Seal::Nonce nonce{1}, another{2};
  seal.seal(nonce, bytes_of(clear), bytes_of(text), sealed.data());
  for (int i = 0; i < 2; ++i) {  // the second time with a context that was used
    ASSERT_TRUE(seal.open(nonce, bytes_of(clear), sealed, out.data()));
    EXPECT_EQ(std::memcmp(out.data(), text.data(), text.size()), 0);
    EXPECT_FALSE(seal.open(another, bytes_of(clear), sealed, out.data()));
    EXPECT_FALSE(seal.open(nonce, bytes_of("beside him"), sealed, out.data()));
    EXPECT_FALSE(other.open(nonce, bytes_of(clear), sealed, out.data()));
    EXPECT_FALSE(seal.open(nonce, bytes_of(clear), std::span(sealed).first(kTagBytes - 1), out.data()));
  }
  for (std::size_t bit = 0; bit < 8 * sealed.size(); ++bit) {
    auto altered = sealed;
    altered[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_FALSE(seal.open(nonce, bytes_of(clear), altered, out.data()));
  }
  ASSERT_TRUE(seal.open(nonce, bytes_of(clear), sealed, sealed.data()));  // in place
  EXPECT_EQ(std::memcmp(sealed.data(), text.data(), text.size()), 0);
}

// Pages in every encoding, device state, domain XML, and what is told of a checkpoint; marked, to be found.
void store_marked(Store& store, const Model& model) {
  const auto marked = [](Page page, const char* mark) {
    std::memcpy(page.data() + 1000, mark, std::strlen(mark));
    return page;
  };
  Writer root = store.begin("");
  root.put(PageNo{0}, marked(content(1), "MARK-OF-A-RAW-PAGE"));
  root.put(PageNo{1}, marked(content(2), "MARK-OF-AN-LZ4-PAGE"));
  Page filled;
  for (std::size_t at = 0; at < filled.size(); at += 8) std::memcpy(filled.data() + at, "MARK-FIL", 8);
  root.put(PageNo{2}, filled);
  std::vector<std::byte> state(9000);
  std::memcpy(state.data() + 5000, "MARK-OF-DEVICE-STATE", 20);
  root.put_device_state(state);
  CheckpointInfo info = model.info(1);
  info.name = "MARK-OF-A-NAME";
  info.domain_xml = "<domain>MARK-OF-THE-XML</domain>";
  info.disks.at(0).path = "/MARK-OF-A-PATH";
  root.commit(info);
  Writer next = store.begin(uuid(1));
  next.put(PageNo{0}, marked(marked(content(1), "MARK-OF-A-RAW-PAGE"), "WHAT-A-PATCH-SAYS!"));
  info = model.info(2);
  info.automatic = true;
  next.commit(info);
}

TEST(Sealing, NothingCanBeReadWithoutTheKey) {
  const std::vector<std::string> marks{"MARK-OF-A-RAW-PAGE", "MARK-OF-AN-LZ4-PAGE",
                                       "MARK-FIL",           "MARK-OF-DEVICE-STATE",
                                       "MARK-OF-A-NAME",     "MARK-OF-THE-XML",
                                       "MARK-OF-A-PATH",     "WHAT-A-PATCH-SAYS",
                                       "pc-i440fx",          uuid(1)};
  for (const Sealing kind : {Sealing::kPlain, Sealing::kEncrypted}) {
    TempFolder temp;
    store_marked(*Store::open(temp.path(), of_kind(kind)), Model());
    std::string all;
    for (const auto& [path, text] : files_in(temp.path())) all += text;
    for (const std::string& mark : marks) {
      EXPECT_EQ(all.find(mark) != std::string::npos, kind == Sealing::kPlain) << mark << " " << name_of(kind);
    }
    if (kind == Sealing::kPlain) continue;
    const FormatLine format = parse_format_line(FaultyFiles::read_all(temp.path() + "/FORMAT"));
    EXPECT_EQ(all.find(std::string(8, 'k')), std::string::npos) << "the key";
    const Secret hash = StoreSeals(*kSealed.key, format.salt).names().hash;
    EXPECT_EQ(all.find({reinterpret_cast<const char*>(hash.data()), hash.size()}), std::string::npos) << "the secret of the names";
  }
}

TEST(Sealing, NamesSayNothingElsewhere) {
  TempFolder a, b;
  const auto one = Store::open(a.path(), kSealed), two = Store::open(b.path(), kSealed);
  EXPECT_NE(one->key_of(content(1)), two->key_of(content(1)));
  EXPECT_NE(one->key_of(content(1)), one->key_of(content(2)));
  EXPECT_EQ(one->key_of(content(1)), one->key_of(content(1)));
  EXPECT_TRUE(one->key_of(content(0)).is_zero_page());
  // Under one nonce, the bare hashes of pages that differ in the same bits differ in the same bits.
  const auto difference = [](const PageNamer& name) {
    std::array<PageKey, 2> out;
    for (std::size_t i = 0; i < out.size(); ++i) {
      Page page = content(static_cast<std::uint32_t>(i) + 1), altered = page;
      altered[77] ^= std::byte{1};
      for (std::size_t k = 0; k < 16; ++k) out[i].bytes[k] = name(page).bytes[k] ^ name(altered).bytes[k];
    }
    return out;
  };
  const auto bare = difference(PageNamer({Secret{1, 2, 3}, std::nullopt}));
  EXPECT_EQ(bare[0], bare[1]);
  const auto covered = difference(PageNamer({Secret{1, 2, 3}, keys::Key(std::string(32, 'c'))}));
  EXPECT_NE(covered[0], covered[1]);
}

TEST(Sealing, AnotherKeyIsRefused) {
  TempFolder temp;
  Model model;
  {
    const auto store = Store::open(temp.path(), kSealed);
    EXPECT_TRUE(store->encrypted());
    model.commit(*store, 1, 0, {{0, 1}, {1, 2}});
  }
  const auto before = files_in(temp.path());
  EXPECT_THAT(before.at(temp.path() + "/FORMAT"), testing::StartsWith("nova-mhv store 3 aes-256-gcm "));
  const Error none = error_of([&] { Store::open(temp.path()); });
  EXPECT_EQ(none.code(), Code::kPermission);
  EXPECT_THAT(none.what(), HasSubstr(temp.path()));
  EXPECT_THAT(none.hint(), HasSubstr("set store-key-file"));
  StoreOptions other;
  other.key.emplace(std::string(32, 'x'));
  const Error wrong = error_of([&] { Store::open(temp.path(), other); });
  EXPECT_EQ(wrong.code(), Code::kPermission);
  EXPECT_THAT(wrong.what(), HasSubstr("another key"));
  EXPECT_THAT(wrong.hint(), HasSubstr("names another key than the one it was made with"));
  EXPECT_EQ(files_in(temp.path()), before);
  model.check(*Store::open(temp.path(), kSealed));
}

TEST(Sealing, AStoreThatWasNotEncryptedStaysSo) {
  TempFolder temp;
  Model model;
  model.commit(*Store::open(temp.path()), 1, 0, {{0, 1}, {1, 2}});
  const std::string format = FaultyFiles::read_all(temp.path() + "/FORMAT");
  EXPECT_EQ(format, "nova-mhv store 2\n");
  {
    const auto store = Store::open(temp.path(), kSealed);
    EXPECT_FALSE(store->encrypted());
    model.check(*store);
    model.commit(*store, 2, 1, {{0, 3}});
  }
  EXPECT_EQ(FaultyFiles::read_all(temp.path() + "/FORMAT"), format);
  model.check(*Store::open(temp.path()));
  StoreOptions strict = kSealed;
  strict.refuse_plain = true;
  const Error refused = error_of([&] { Store::open(temp.path(), strict); });
  EXPECT_EQ(refused.code(), Code::kPermission);
  EXPECT_THAT(refused.hint(), HasSubstr("refuse-plain-stores"));
  TempFolder another;
  EXPECT_TRUE(Store::open(another.path(), strict)->encrypted());
}

// What the segments of a store hold, to be altered by somebody who knows the format but not the key.
class Forged : public testing::Test {
 protected:
  struct Found {
    std::string path;
    std::uint64_t offset = 0;
    RecordHeader header{};
    std::string payload;
  };

  void SetUp() override {
    auto store = Store::open(temp_.path(), of_kind(Sealing::kEncrypted, {nullptr, 4 * kPageSize}));
    model_.commit(*store, 1, 0, {{0, 2001}, {1, 3}, {2, 5}, {3, 2}, {4, 4}, {5, 7}, {6, 9}, {7, 11}});
    model_.commit(*store, 2, 1, {{0, 1'000'003}, {1, 13}});
    model_.commit(*store, 3, 2, {{2, 15}});
    store.reset();
    whole_ = files_in(temp_.path());
    for (const auto& [path, text] : whole_) {
      if (!path.ends_with(".seg")) continue;
      const auto bytes = std::as_bytes(std::span(text));
      scan_records(bytes, sizeof(SegmentHeader), bytes.size(), [&](const Record& record, std::uint64_t offset) {
        found_.push_back({path,
                          offset,
                          load<RecordHeader>(bytes, offset),
                          {reinterpret_cast<const char*>(record.payload.data()), record.payload.size()}});
      });
    }
  }

  static Kind kind_of(const Found& record) { return static_cast<Kind>(record.header.kind_and_stored >> 24); }
  std::vector<Found> of(Kind kind) const {
    std::vector<Found> out;
    std::ranges::copy_if(found_, std::back_inserter(out), [&](const Found& one) { return kind_of(one) == kind; });
    return out;
  }

  // Writes the record at the place of another one of that length, with a checksum that fits.
  void put(const Found& place, RecordHeader header, const std::string& payload) {
    std::vector<std::byte> bytes(record_bytes(payload.size()));
    std::memcpy(bytes.data() + sizeof header, payload.data(), payload.size());
    finish_record(header, bytes.data());
    std::string text = FaultyFiles::read_all(place.path);
    text.replace(place.offset, bytes.size(), reinterpret_cast<const char*>(bytes.data()), bytes.size());
    overwrite(place.path, text);
  }

  // With and without index files: no wrong page comes out, and check() tells. Then everything is as it was.
  void expect_noticed(const std::string& what) {
    SCOPED_TRACE(what);
    const auto altered = files_in(temp_.path());
    for (const bool with_index : {true, false}) {
      restore(altered);
      if (!with_index) {
        for (const auto& [path, text] : altered) {
          if (path.ends_with(".idx")) std::filesystem::remove(path);
        }
      }
      const auto store = Store::open(temp_.path(), kSealed);
      const CheckResult result = store->check(nullptr);
      EXPECT_FALSE(result.problems.empty());
      for (const auto& [id, known] : model_.all()) {
        try {
          Model::check_checkpoint(*store, id, known);
          const PageTable table = store->resolve(id);
          std::vector<Page> pages(table.size());
          std::vector<PageRead> reads;
          for (std::size_t i = 0; i < table.size(); ++i) reads.push_back({table[i], pages[i].data()});
          store->read_many(reads);
          for (std::size_t i = 0; i < table.size(); ++i) EXPECT_EQ(pages[i], content(known.contents[i]));
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), Code::kCorrupt) << error.what();
          EXPECT_THAT(result.damaged, testing::Contains(id));
        }
      }
    }
    restore(whole_);
  }
  void restore(const std::map<std::string, std::string>& files) {
    std::filesystem::remove_all(temp_.path());
    for (const auto& [path, text] : files) {
      std::filesystem::create_directories(std::filesystem::path(path).parent_path());
      overwrite(path, text);
    }
  }

  TempFolder temp_;
  Model model_;
  std::map<std::string, std::string> whole_;
  std::vector<Found> found_;
};

TEST_F(Forged, RecordsThatWereSwapped) {
  for (const Kind kind : {Kind::kRaw, Kind::kEntries, Kind::kInfo, Kind::kFrame, Kind::kFilled, Kind::kLz4, Kind::kDelta}) {
    const std::vector<Found> records = of(kind);
    for (std::size_t i = 0; i < records.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        const Found &a = records[i], &b = records[j];
        if (a.payload.size() != b.payload.size()) continue;
        const std::string which = "kind " + std::to_string(static_cast<int>(kind)) + ", " + std::to_string(i) + " and " + std::to_string(j);
        put(a, a.header, b.payload);
        put(b, b.header, a.payload);
        if (kind != Kind::kFrame) expect_noticed("payloads of " + which);
        restore(whole_);
        put(a, b.header, b.payload);
        put(b, a.header, a.payload);
        if (kind != Kind::kFrame) expect_noticed("records of " + which);
        restore(whole_);
      }
    }
  }
  EXPECT_GE(of(Kind::kRaw).size(), 5u);
  EXPECT_GE(of(Kind::kDelta).size(), 1u);
}

TEST_F(Forged, HeadersThatSaySomethingElse) {
  for (const Found& record : found_) {
    RecordHeader header = record.header;
    header.key.bytes[5] ^= 1;
    put(record, header, record.payload);
    expect_noticed("the key of a record of kind " + std::to_string(static_cast<int>(kind_of(record))));
  }
}

// What was never sealed counts for nothing.
TEST_F(Forged, ARecordInTheClear) {
  for (const Found& record : of(Kind::kRaw)) {
    const Page page = content(999);
    const std::string text(reinterpret_cast<const char*>(page.data()), page.size());
    put(record, record_header(Kind::kRaw, record.header.key, text.size(), false), text);
    expect_noticed("a page in the clear");
  }
}

TEST_F(Forged, SegmentsThatWereSwapped) {
  std::vector<std::string> paths;
  for (const auto& [path, text] : whole_) {
    if (path.ends_with(".seg")) paths.push_back(path);
  }
  ASSERT_GE(paths.size(), 2u);
  const auto as = [&](const std::string& path, std::uint32_t number) {
    std::string text = whole_.at(path);
    auto header = load<SegmentHeader>(std::as_bytes(std::span(text)));
    header.number = number;
    header.checksum = hash(unchecked(header));
    std::memcpy(text.data(), &header, sizeof header);
    return text;
  };
  overwrite(paths[0], as(paths[1], 1));
  overwrite(paths[1], as(paths[0], 2));
  expect_noticed("two segments");
  // Also one of a store that the same key was used for.
  TempFolder other;
  Model model;
  model.commit(*Store::open(other.path(), kSealed), 1, 0, {{0, 1}, {1, 3}});
  overwrite(paths[0], FaultyFiles::read_all(other.path() + "/segments/0000000001.seg"));
  expect_noticed("a segment of another store");
}

// Where the log is all there is, a frame that was altered does not count, and that is told.
TEST_F(Forged, AFrame) {
  const std::vector<Found> frames = of(Kind::kFrame);
  ASSERT_EQ(frames.size(), 3u);
  for (const Found& frame : frames) {
    std::string payload = frame.payload;
    payload[3] ^= 1;
    put(frame, frame.header, payload);
    std::filesystem::remove(temp_.path() + "/CATALOG");
    const auto store = Store::open(temp_.path(), kSealed);
    EXPECT_THAT(store->check(nullptr).problems, testing::Contains(HasSubstr("was altered")));
    EXPECT_LT(store->count(), 3u);
    for (const CheckpointInfo& info : store->list()) Model::check_checkpoint(*store, info.id, model_.all().at(info.id));
    restore(whole_);
  }
}

TEST_F(Forged, ACatalog) {
  const std::string path = temp_.path() + "/CATALOG";
  std::string text = whole_.at(path);
  const std::size_t half = text.size() / 2;
  for (const std::size_t copy : {std::size_t{0}, half}) {
    const auto bytes = std::as_writable_bytes(std::span(text)).subspan(copy, half);
    auto header = load<CatalogHeader>(bytes);
    bytes[sizeof header + 40] ^= std::byte{1};
    header.checksum = hash2(unchecked(header), bytes.subspan(sizeof header));
    std::memcpy(bytes.data(), &header, sizeof header);
  }
  overwrite(path, text);
  const auto store = Store::open(temp_.path(), kSealed);
  EXPECT_THAT(store->check(nullptr).problems, testing::Contains(HasSubstr("CATALOG was altered")));
  for (const auto& [id, known] : model_.all()) Model::check_checkpoint(*store, id, known);  // from the log
}

}  // namespace
}  // namespace mhv::store
