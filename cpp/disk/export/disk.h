// The disk that an export serves: there before its image may be opened, and after it was given back.
//
//   waiting ──open()──> open ──close()──> waiting
//
// While it waits, requests of the guest are held, and a flush has nothing to do: nothing that was written here is missing in the image.
// So a guest's device can be given this disk while QEMU still has the image, and back, and nobody who lets the guest run in
// between, by intent or by a crash, makes it read or write anything but its disk.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>

#include "base/error.h"
#include "disk/journal.h"

namespace mhv::disk {

// Thread-safe.
class Disk {
 public:
  using Opener = std::function<std::unique_ptr<Journal>()>;
  // `bytes`: the size that clients are told; 0: open now, and it is the image's.
  Disk(Opener opener, std::uint64_t bytes) : opener_(std::move(opener)), bytes_(bytes) {
    if (bytes_ == 0) open();
  }

  std::uint64_t bytes() const { return bytes_; }

  // No error when it is open. Throws what the journal's constructor does, and kInvalid when the image has another size.
  void open();
  // Folds everything and ends the journal; nothing holds the image any more. False: the guest wrote meanwhile, and nothing is
  // closed. Throws kBusy while there are marks. No error when it is not open.
  bool close();

  // A request of the guest: waits until the disk is open.
  template <typename Fn>
  void with_open(Fn&& fn) {
    std::shared_lock lock(mutex_);
    opened_.wait(lock, [this] { return journal_ != nullptr; });
    fn(*journal_);
  }
  // False: it is not open, and fn was not called.
  template <typename Fn>
  bool if_open(Fn&& fn) {
    const std::shared_lock lock(mutex_);
    if (journal_) fn(*journal_);
    return journal_ != nullptr;
  }

 private:
  const Opener opener_;
  std::uint64_t bytes_;
  std::shared_mutex mutex_;  // exclusive: the journal comes or goes
  std::condition_variable_any opened_;
  std::unique_ptr<Journal> journal_;
};

}  // namespace mhv::disk
