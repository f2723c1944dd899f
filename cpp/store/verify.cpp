// Reads everything that is stored, and tells what is wrong with it.
#include <algorithm>

#include "base/error.h"
#include "store/store_impl.h"

namespace mhv::store {
namespace {

constexpr std::size_t kProblemsMax = 100;
constexpr std::uint64_t kProgressPages = 4096;

// One run of it. Checkpoints may come and go beside it.
class Verification {
 public:
  Verification(const Store::Impl& store, const ProgressFn& progress) : store_(store), progress_(progress) {}
  VerifyResult run();

 private:
  void tell(const std::string& problem) {
    if (result_.problems.size() < kProblemsMax) result_.problems.push_back(problem);
  }
  bool still_there(const NodePtr& node) const;
  void check_checkpoint(const NodePtr& node);
  void check_key(const PageKey& key, const NodePtr& node, const std::string& what);
  void check_segment(std::uint32_t number, std::uint64_t bytes, const Fd& file);

  const Store::Impl& store_;
  const ProgressFn& progress_;
  VerifyResult result_;
  KeyIndex seen_;
  std::uint64_t done_ = 0, total_ = 0;
};

bool Verification::still_there(const NodePtr& node) const {
  const std::shared_lock guard(store_.mutex);
  const auto found = store_.nodes.find(node->info.id);
  return found != store_.nodes.end() && found->second == node;
}

void Verification::check_key(const PageKey& key, const NodePtr& node, const std::string& what) {
  if (done_ < total_ && ++done_ % kProgressPages == 0 && progress_) progress_(done_, total_);
  if (key.is_zero_page() || seen_.find(key)) return;
  seen_.insert(key, {});
  std::array<std::byte, kPageSize> page;
  try {
    store_.read(key, page);
    ++result_.records;
  } catch (const Error& error) {
    if (still_there(node)) tell("checkpoint " + node->info.id + ", " + what + ": " + error.what());
  }
}

void Verification::check_checkpoint(const NodePtr& node) {
  ++result_.checkpoints;
  for (std::size_t i = 0; i < node->device_state.size(); ++i) {
    check_key(node->device_state[i], node, "device state at byte " + std::to_string(i * kPageSize));
  }
  try {
    const Manifest manifest = store_.load_manifest(node->info.id);
    result_.bytes += node->file_bytes;
    for (const PageEntry& entry : manifest.entries) check_key(entry.key, node, "page " + std::to_string(entry.page.value));
  } catch (const Error& error) {
    if (still_there(node)) tell(error.what());
  }
}

// Also what no checkpoint needs at the moment: a later one may, and then it is not stored again.
void Verification::check_segment(std::uint32_t number, std::uint64_t bytes, const Fd& file) {
  const std::string path = numbered(store_.folder + "/segments", number, ".seg");
  try {
    std::vector<std::byte> content(bytes);
    pread_all(file.get(), content, 0, path.c_str());
    parse_segment_header(content, number);
    const Scan scan = scan_records(content, sizeof(SegmentHeader), bytes);
    if (scan.damaged_bytes != 0) tell(path + ": " + std::to_string(scan.damaged_bytes) + " bytes are damaged");
    result_.bytes += bytes;
  } catch (const Error& error) {
    tell(path + ": " + error.what());
  }
}

VerifyResult Verification::run() {
  std::vector<NodePtr> checkpoints;
  struct Part {
    std::uint32_t number;
    std::uint64_t bytes;
  };
  std::vector<Part> parts;
  {
    const std::shared_lock guard(store_.mutex);
    for (const auto& [id, node] : store_.nodes) {
      checkpoints.push_back(node);
      total_ += node->info.pages + node->device_state.size();
    }
    for (const auto& [number, segment] : store_.segments.all()) parts.push_back({number, segment.bytes});
    for (const std::string& problem : store_.problems) tell(problem);
    for (const auto& [id, culprit] : store_.broken)
      tell("checkpoint " + id + " needs checkpoint " + culprit + ", which is damaged or missing");
  }
  for (const NodePtr& node : checkpoints) check_checkpoint(node);
  for (const Part& part : parts) {
    std::shared_ptr<const Fd> file;
    {
      const std::shared_lock guard(store_.mutex);
      if (!store_.segments.all().contains(part.number)) continue;
      try {
        file = store_.segments.file(part.number);
      } catch (const Error& error) {
        tell(error.what());
        continue;
      }
    }
    check_segment(part.number, part.bytes, *file);
  }
  if (progress_) progress_(total_, total_);
  return std::move(result_);
}

}  // namespace

VerifyResult Store::verify(const ProgressFn& progress) const { return Verification(*impl_, progress).run(); }

}  // namespace mhv::store
