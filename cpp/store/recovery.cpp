// What was committed behind CATALOG: frame by frame, up to the first batch that is not whole.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "store/random.h"
#include "store/store_impl.h"

namespace mhv::store {
namespace {

// A frame whose batch is not whole. It was committed all the same if a later one was begun.
struct Suspect {
  std::uint64_t number = 0;
  Position end;
  Transaction transaction;
  std::string where;
};

// Reads records in the order of the log.
class RollForward {
 public:
  RollForward(std::uint64_t number, const Position& end) : number_(number), end_(end) {}

  void segment(std::uint32_t number, std::span<const std::byte> bytes, std::uint64_t from, const Seal* seal, const std::string& path) {
    std::uint64_t at = from;
    restarted_ = 0;
    scan_records(bytes, from, bytes.size(), [&](const Record& record, std::uint64_t offset) {
      if (offset != at) gap();
      at = offset + record.bytes();
      if (record.kind == Kind::kFrame) {
        std::vector<std::byte> room(record.payload.size());
        frame(record.key, open_record(record, seal, offset, room), {number, at}, path);
      } else {
        checksum_ = next_batch_checksum(checksum_, record.checksum);
        restarted_ = next_batch_checksum(restarted_, record.checksum);
      }
    });
    if (at < bytes.size()) gap();
  }

  std::uint64_t number() const { return number_; }
  const Position& end() const { return end_; }
  std::vector<Transaction>& transactions() { return transactions_; }
  const std::vector<std::string>& problems() const { return problems_; }

 private:
  // Damage, or never written: a batch may begin behind it, as at the head of a segment.
  void gap() {
    gap_ = true;
    restarted_ = 0;
  }

  // A batch is whole if its checksum is that of the records since the last frame, or since it may have begun.
  // No payload: it is not what was sealed there.
  void frame(const PageKey& name, const std::optional<std::span<const std::byte>>& payload, const Position& end, const std::string& path) {
    const FrameKey key = parse_frame_key(name);
    const bool whole = (!gap_ && key.batch_checksum == checksum_) || key.batch_checksum == restarted_;
    checksum_ = restarted_ = 0;
    gap_ = false;
    if (key.number <= number_) return;  // of an older batch that was cut off
    if (!payload) {
      problems_.push_back(fmt::format("{}: what says that it is commit {} was altered", path, key.number));
      return;
    }
    Suspect found{key.number, end, {}, path};
    try {
      found.transaction = parse_transaction(*payload);
    } catch (const Error&) {
      return;  // its checksum was right: written by something else
    }
    if (!whole) {
      suspects_.push_back(std::move(found));
      return;
    }
    for (Suspect& suspect : suspects_) {
      if (suspect.number >= found.number) continue;
      problems_.push_back(fmt::format("{}: commit {} is damaged", suspect.where, suspect.number));
      transactions_.push_back(std::move(suspect.transaction));
      number_ = suspect.number;
    }
    suspects_.clear();
    if (number_ != 0 && found.number != number_ + 1)
      problems_.push_back(fmt::format("{}: there is damage before commit {}", path, found.number));
    transactions_.push_back(std::move(found.transaction));
    number_ = found.number;
    end_ = end;
  }

  std::uint64_t number_;
  Position end_;
  std::uint64_t checksum_ = 0, restarted_ = 0;
  bool gap_ = false;
  std::vector<Suspect> suspects_;
  std::vector<Transaction> transactions_;
  std::vector<std::string> problems_;
};

}  // namespace

void Store::Impl::recover(const Catalog& catalog) {
  const auto there = segments.list_files(catalog.first_segment);
  const bool known = catalog.first_segment != 0;
  if (seals) {
    segments.use_seals(*seals);
    name.emplace(seals->names());
  } else {
    secret = known ? catalog.secret : segments.find_secret(there).value_or(random_bytes<Secret>());
    segments.use_secret(secret);
    name.emplace(NameSecrets{secret, std::nullopt});
  }
  first_segment = std::max<std::uint32_t>(1, catalog.first_segment);
  tree.apply({catalog.links, {}});
  RollForward log(catalog.number, catalog.end);
  for (auto at = there.lower_bound(catalog.end.segment); at != there.end(); ++at) {
    const bool partly = at->first == catalog.end.segment;
    if (partly && at->second <= catalog.end.offset) continue;
    const std::vector<std::byte> bytes = segments.read_segment(at->first, at->second);
    log.segment(at->first, bytes, partly ? catalog.end.offset : sizeof(SegmentHeader), segments.seal_of(at->first, bytes).get(),
                segments.segment_path(at->first));
  }
  for (const Transaction& transaction : log.transactions()) tree.apply(transaction);
  number = log.number();
  problems.insert(problems.end(), log.problems().begin(), log.problems().end());
  for (const auto& [segment, bytes] : there) {
    if (segment > log.end().segment) break;
    segments.load(segment, segment == log.end().segment ? std::min(bytes, log.end().offset) : bytes, index);
  }
  segments.finish_opening(log.end(), catalog.end.segment, there);
  problems.insert(problems.end(), segments.problems().begin(), segments.problems().end());
  next_sequence = catalog.next_sequence;
  if (!tree.all().empty()) next_sequence = std::max(next_sequence, tree.all().rbegin()->first + 1);
  catalog_end = catalog.end;
  if (!known && there.empty()) save_catalog();
}

}  // namespace mhv::store
