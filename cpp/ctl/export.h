// mhvctl checkpoint export: the save image or the core, and the disks as they were.
#pragma once

#include <string>

#include "client/client.h"

namespace mhv::ctl {

// Makes `file` (kExists when it is there) and has the checkpoint written into it; a failed export leaves no file.
protocol::ExportReply export_image(client::Client& client, const std::string& guest, const std::string& id, protocol::ExportFormat format,
                                   const std::string& file, const client::ProgressFn& progress);

// Writes each disk as it was at the checkpoint as `folder`/TARGET.qcow2 with qemu-img; where it held anything otherwise than its
// snapshot, a raw image stands beside it meanwhile. Throws kInternal with what qemu-img said, kUnsupported for a disk without
// a snapshot, kExists.
void export_disks(client::Client& client, const std::string& guest, const protocol::Checkpoint& checkpoint, const std::string& folder);

}  // namespace mhv::ctl
