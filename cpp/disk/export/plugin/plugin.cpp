// The export as a plugin of nbdkit, which speaks NBD, takes its listening socket from another process (LISTEN_FDS) and calls this from
// several threads.
//
// A killed export is started again by whoever holds the socket: QEMU (reconnect-delay) sends what was not answered once more, what
// was answered is in the log (disk/journal.h), and the guest sees nothing but the time in between.
#include <sys/types.h>

#include <cerrno>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/error.h"
#include "disk/journal.h"
#include "export/control.h"
#include "export/nbd_image.h"

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

namespace {

using namespace mhv;
using namespace mhv::disk;

constexpr auto kMaintainEvery = std::chrono::milliseconds(50);
constexpr auto kMaintainAfterError = std::chrono::milliseconds(1000);
constexpr std::uint32_t kRequestMax = 32u << 20;

struct Settings {
  std::string journal, base, base_nbd, control;
  std::uint64_t size = 0;
  JournalOptions options;
};

// Folds and prepares space behind the guest's back.
class Maintainer {
 public:
  explicit Maintainer(Disk& disk) : disk_(disk), thread_([this] { run(); }) {}
  ~Maintainer() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  Maintainer(const Maintainer&) = delete;
  Maintainer& operator=(const Maintainer&) = delete;

 private:
  void run() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
      lock.unlock();
      bool more = false;
      auto pause = kMaintainEvery;
      try {
        disk_.if_open([&](Journal& journal) { more = journal.maintain(); });
      } catch (const std::exception& error) {
        nbdkit_error("the journal is not folded: %s", error.what());
        pause = kMaintainAfterError;
      }
      lock.lock();
      if (!more) wake_.wait_for(lock, pause, [this] { return stop_; });
    }
  }

  Disk& disk_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::thread thread_;
};

std::unique_ptr<Journal> open_journal(const Settings& s) {
  return std::make_unique<Journal>(open_folder(s.journal), s.base.empty() ? open_nbd_image(s.base_nbd) : open_raw_image(s.base), s.options);
}

// With a journal already there, this is an export that was killed, and the image is its own.
struct Export {
  explicit Export(const Settings& s) : disk([s] { return open_journal(s); }, journal_exists(s.journal) ? 0 : s.size) {
    if (!journal_exists(s.journal)) prepare_journal(*open_folder(s.journal), s.options);
  }
  Disk disk;
  std::unique_ptr<ControlServer> control;
  std::unique_ptr<Maintainer> maintainer;
};

Settings settings;
std::unique_ptr<Export> disk_export;

int errno_of(const std::exception& error) {
  const auto* known = dynamic_cast<const Error*>(&error);
  if (known == nullptr) return EIO;
  if (known->code() == Code::kNoSpace) return ENOSPC;
  return known->code() == Code::kInvalid ? EINVAL : EIO;
}

// No exception may leave for nbdkit, which is C.
template <typename Fn>
int guarded(Fn&& fn) noexcept {
  try {
    fn();
    return 0;
  } catch (const std::exception& error) {
    nbdkit_error("%s", error.what());
    nbdkit_set_error(errno_of(error));
    return -1;
  }
}

std::span<const std::byte> bytes_of(const void* data, std::uint32_t count) { return {static_cast<const std::byte*>(data), count}; }

std::uint32_t mib_to_segments(const char* value) {
  const std::uint64_t mib = std::stoull(value);
  if (mib < 512 || mib > (std::uint64_t{64} << 20)) throw Error(Code::kInvalid, "log-max-mib: 512 to 67108864");
  return static_cast<std::uint32_t>(mib / 64);
}

int plugin_config(const char* key, const char* value) {
  return guarded([&] {
    const std::string name = key;
    if (name == "journal") return void(settings.journal = value);
    if (name == "base") return void(settings.base = value);
    if (name == "base-nbd") return void(settings.base_nbd = value);
    if (name == "control") return void(settings.control = value);
    if (name == "log-max-mib") return void(settings.options.segments_max = mib_to_segments(value));
    if (name == "size") return void(settings.size = std::stoull(value));
    if (name == "flush" && (value == std::string("sync") || value == std::string("at-mark")))
      return void(settings.options.flush = value == std::string("sync") ? Flush::kSync : Flush::kAtMark);
    throw Error(Code::kInvalid, "unknown setting " + name + "=" + value);
  });
}

int plugin_config_complete() {
  if (!settings.journal.empty() && !settings.control.empty() && settings.base.empty() != settings.base_nbd.empty()) return 0;
  nbdkit_error("journal=, control= and one of base= and base-nbd= are needed");
  return -1;
}

int plugin_get_ready() {
  return guarded([] { disk_export = std::make_unique<Export>(settings); });
}

// Threads begin here: nbdkit may have forked before.
int plugin_after_fork() {
  return guarded([] {
    disk_export->control = std::make_unique<ControlServer>(disk_export->disk, settings.control);
    disk_export->maintainer = std::make_unique<Maintainer>(disk_export->disk);
  });
}

void plugin_unload() { disk_export.reset(); }

void* plugin_open(int) { return disk_export.get(); }
std::int64_t plugin_get_size(void*) { return static_cast<std::int64_t>(disk_export->disk.bytes()); }
int plugin_yes(void*) { return 1; }
int plugin_block_size(void*, std::uint32_t* minimum, std::uint32_t* preferred, std::uint32_t* maximum) {
  *minimum = 1, *preferred = kBlockBytes, *maximum = kRequestMax;
  return 0;
}

// A request that waits until the disk is open. FUA is a flush for all: one fdatasync of the log, whatever it is for.
template <typename Fn>
int request(std::uint32_t flags, Fn&& fn) noexcept {
  return guarded([&] {
    disk_export->disk.with_open([&](Journal& journal) {
      fn(journal);
      if ((flags & NBDKIT_FLAG_FUA) != 0) journal.flush();
    });
  });
}
int plugin_pread(void*, void* out, std::uint32_t count, std::uint64_t offset, std::uint32_t) {
  return request(0, [&](Journal& journal) { journal.read({static_cast<std::byte*>(out), count}, offset); });
}
int plugin_pwrite(void*, const void* data, std::uint32_t count, std::uint64_t offset, std::uint32_t flags) {
  return request(flags, [&](Journal& journal) { journal.write(bytes_of(data, count), offset); });
}
int plugin_zero(void*, std::uint32_t count, std::uint64_t offset, std::uint32_t flags) {
  return request(flags, [&](Journal& journal) { journal.zero(count, offset); });
}
int plugin_trim(void*, std::uint32_t count, std::uint64_t offset, std::uint32_t flags) {
  return request(flags, [&](Journal& journal) { journal.discard(count, offset); });
}
int plugin_flush(void*, std::uint32_t) {
  return guarded([] { disk_export->disk.if_open([](Journal& journal) { journal.flush(); }); });
}
int plugin_can_fua(void*) { return NBDKIT_FUA_NATIVE; }

nbdkit_plugin make_plugin() {
  nbdkit_plugin out{};
  out.name = "mhv";
  out.longname = "nova-mhv disk epochs";
  out.config = plugin_config;
  out.config_complete = plugin_config_complete;
  out.config_help =
      "journal=DIR         the journal's folder\n"
      "base=FILE           a raw base image, or\n"
      "base-nbd=SOCKET     the NBD export of a base image of another format\n"
      "control=SOCKET      where marks are asked for\n"
      "size=BYTES          begin without the image; requests wait for the control request open\n"
      "log-max-mib=N       the most space that the log may take (10240)\n"
      "flush=sync|at-mark  when a guest's flush is acknowledged (sync)";
  out.get_ready = plugin_get_ready;
  out.after_fork = plugin_after_fork;
  out.unload = plugin_unload;
  out.open = plugin_open;
  out.get_size = plugin_get_size;
  out.can_write = plugin_yes;
  out.can_flush = plugin_yes;
  out.can_trim = plugin_yes;
  out.can_zero = plugin_yes;
  out.can_multi_conn = plugin_yes;  // a flush covers what any connection wrote
  out.can_fua = plugin_can_fua;
  out.block_size = plugin_block_size;
  out.pread = plugin_pread;
  out.pwrite = plugin_pwrite;
  out.zero = plugin_zero;
  out.trim = plugin_trim;
  out.flush = plugin_flush;
  return out;
}

nbdkit_plugin plugin = make_plugin();

}  // namespace

NBDKIT_REGISTER_PLUGIN(plugin)
