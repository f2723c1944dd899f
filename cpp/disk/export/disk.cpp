#include "export/disk.h"

namespace mhv::disk {

void Disk::open() {
  const std::unique_lock lock(mutex_);
  if (journal_) return;
  std::unique_ptr<Journal> journal = opener_();
  if (bytes_ != 0 && journal->bytes() != bytes_) {
    throw Error(Code::kInvalid,
                "the image has " + std::to_string(journal->bytes()) + " bytes, the export was begun with " + std::to_string(bytes_));
  }
  bytes_ = journal->bytes();
  journal_ = std::move(journal);
  opened_.notify_all();
}

bool Disk::close() {
  // Most of it while requests go on; then what is left.
  if (!if_open([](Journal& journal) { journal.fold_all(); })) return true;
  const std::unique_lock lock(mutex_);
  if (!journal_) return true;
  if (!journal_->finish()) return false;
  journal_.reset();
  return true;
}

}  // namespace mhv::disk
