// A package in one file: a plain tar (no compression) of regular files, by libarchive.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>

#include "base/fd.h"
#include "package/listing.h"
#include "package/signing.h"

namespace mhv::package {

struct Contents {
  Listing listing;
  std::optional<Signature> signature;
  std::string manifest;  // its text
};

// Where a file's content goes as it is read; nullptr: nowhere.
using Sink = std::function<void(std::span<const std::byte>)>;
using MakeSink = std::function<Sink(const std::string& path, bool executable)>;

// Reads all of `file` once. Throws kCorrupt: it is no tar, or ends early; kInvalid: it holds what no package may (links, devices, files
// with holes, paths that lead out of it, other modes, too many files or bytes, no manifest).
Contents read_archive(const std::string& file, const MakeSink& make_sink);
Contents read_archive(std::span<const std::byte> data, const MakeSink& make_sink);

// A folder as it would be packed; its signature too where it has one. Throws kInvalid as above.
Contents read_folder(const std::string& folder);

// Writes the files of `contents`, which was read from `folder`, and the signature as a new file. Throws kExists, and kInvalid when a file
// of the folder has changed meanwhile.
void write_archive(const std::string& file, const std::string& folder, const Contents& contents, const Signature& signature);

// Writes the files of `contents`, which was read from `folder`, to where `to` stands, as a Linux that starts unpacks them (an initramfs in
// "newc" format): below /layer. Throws as above.
void write_initramfs(const Fd& to, const std::string& folder, const Contents& contents);

}  // namespace mhv::package
