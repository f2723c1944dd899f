// Whatever arrives at the control socket: answered, never trusted.
#include <memory>

#include "disk/disk_testing.h"
#include "export/control.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mhv::disk;
  static MemoryDisk disk;
  static Disk served(
      [] {
        JournalOptions options;
        options.segment_blocks = 256;
        options.segments_max = 12;
        disk.base.now.resize(64 * kBlockBytes);
        return std::make_unique<Journal>(std::make_unique<MemoryFolder>(disk), std::make_unique<MemoryImage>(disk), options);
      },
      0);
  served.open();
  const std::string_view payload(reinterpret_cast<const char*>(data), size);
  const wire::Reply reply = serve(served, payload);
  if (reply.has_error() && reply.names_size() != 0) __builtin_trap();
  served.if_open([](Journal& journal) {
    for (const MarkName& name : journal.marks()) journal.drop(name);
    (void)journal.fold_all();
  });
  for (auto& [name, file] : disk.now) file->sync();  // what a power loss would need is of no interest here
  disk.base.sync();
  return 0;
}
