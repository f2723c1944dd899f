// mhvctl checkpoint export: the save image, and the disks as they were.
#pragma once

#include <string>

#include "client/client.h"

namespace mhv::ctl {

// Makes `file` (kExists when it is there) and has the checkpoint written into it; a failed export leaves no file.
protocol::ExportReply export_image(client::Client& client, const std::string& guest, const std::string& id, const std::string& file,
                                   const client::ProgressFn& progress);

// Writes each disk that has a snapshot as `folder`/TARGET.qcow2 with qemu-img. Throws kInternal with what qemu-img said,
// and kUnsupported for a disk without one.
void export_disks(const protocol::Checkpoint& checkpoint, const std::string& folder);

}  // namespace mhv::ctl
