// Opening a store: take the lock, check the format, read the tree and where every content is.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/error.h"
#include "store/random.h"
#include "store/store_impl.h"

namespace mhv::store {
namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kStepsOfSegment = 32;

}  // namespace

Store::Impl::Impl(const std::string& store_folder, const StoreOptions& options)
    : folder(store_folder),
      files(options.files ? options.files : std::make_shared<FileOps>()),
      guest_key(options.key),
      refuse_plain(options.refuse_plain),
      step_bytes(std::max<std::uint64_t>(options.segment_bytes / kStepsOfSegment, 1)),
      segments(store_folder, *files, std::min(options.segment_bytes, kSegmentBytesMax)) {}

// Both are derived: without them the next open() reads more of the log.
Store::Impl::~Impl() {
  if (!lock) return;
  try {
    segments.save_indexes(true);
    if (catalog_end != segments.end()) save_catalog();
  } catch (const std::exception&) {
  }
}

void Store::Impl::open() {
  files->make_directory(folder);
  lock_folder();
  try {
    check_format();
    for (const char* one : {"/segments", "/index"}) files->make_directory(folder + one);
    files->sync_directory(folder);
    guest_key.reset();
    recover(load_catalog());
  } catch (const fs::filesystem_error& error) {
    lock.close();
    throw_errno("cannot read the store in " + folder, error.code().value());
  } catch (...) {
    lock.close();
    throw;
  }
  find_broken();
}

void Store::Impl::lock_folder() {
  Fd fd = Fd::open(folder + "/lock", O_RDWR | O_CREAT);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) throw_errno("cannot lock " + folder);
    throw Error(Code::kBusy, "another process has the store in " + folder, "wait for it to end; the guest's mhv-worker usually has it");
  }
  lock = std::move(fd);
}

void Store::Impl::check_format() {
  for (const char* leftover : {"/FORMAT.new", "/CATALOG.new"}) files->unlink(folder + leftover);
  const std::string path = folder + "/FORMAT";
  if (fs::exists(path)) {
    try {
      use_key(parse_format_line(read_file(path, 4096)));
    } catch (const Error& error) {
      throw Error(error.code(), path + ": " + error.what(),
                  error.hint().empty() ? "restore the file from a backup, or delete the guest's checkpoints" : error.hint());
    }
    return;
  }
  if (fs::exists(folder + "/segments") && !fs::is_empty(folder + "/segments")) {
    throw Error(Code::kCorrupt, path + " is missing, though there is something in " + folder + "/segments",
                "restore the file from a backup, or delete the guest's checkpoints");
  }
  FormatLine format;
  if (guest_key) {
    format.sealed = true;
    format.salt = random_bytes<Secret>();
    format.check = seals.emplace(*guest_key, format.salt).check();
  }
  const std::string line = format_line(format);
  replace(*files, path, std::as_bytes(std::span(line)));
}

void Store::Impl::use_key(const FormatLine& format) {
  if (!format.sealed) {
    if (!refuse_plain) return;
    throw Error(Code::kPermission, "the store is not encrypted, and mhvd was told to refuse such",
                "delete the guest's checkpoints, or take refuse-plain-stores out of mhvd.conf and restart mhvd");
  }
  if (!guest_key) {
    throw Error(Code::kPermission, "the store is encrypted, and no key was given",
                "set store-key-file in mhvd.conf to the key that it was made with, and restart mhvd");
  }
  if (seals.emplace(*guest_key, format.salt).check() == format.check) return;
  throw Error(Code::kPermission, "the store is encrypted with another key",
              "store-key-file in mhvd.conf names another key than the one it was made with: name that one and restart mhvd, or delete the "
              "guest's checkpoints");
}

// A store whose CATALOG cannot be read is read from the log alone: what was deleted since may then come back.
Catalog Store::Impl::load_catalog() {
  const std::string path = folder + "/CATALOG";
  Catalog out;
  try {
    if (fs::exists(path)) {
      const std::string text = read_file(path, 2 * (kCatalogBytesMax + sizeof(CatalogHeader)));
      std::string damage;
      out = parse_catalog(std::as_bytes(std::span(text)), seals ? &seals->catalog() : nullptr, damage);
      if (!damage.empty()) problems.push_back(path + ": " + damage + "; its other copy is whole");
      return out;
    }
    if (!fs::is_empty(folder + "/segments")) problems.push_back(path + " is missing; the checkpoints were read from the log");
  } catch (const Error& error) {
    if (error.code() != Code::kCorrupt) throw Error(error.code(), path + ": " + error.what(), error.hint());
    problems.push_back(path + ": " + error.what() + "; the checkpoints were read from the log");
  }
  out.first_segment = 0;  // nothing is known to be a leftover
  return out;
}

void Store::Impl::save_catalog() {
  Catalog out;
  out.number = number;
  out.end = segments.end();
  out.first_segment = first_segment;
  out.next_sequence = next_sequence;
  out.secret = secret;
  out.links.reserve(tree.all().size());
  for (const auto& [sequence, link] : tree.all()) out.links.push_back(*link);
  replace(*files, folder + "/CATALOG", serialize_catalog(out, seals ? &seals->catalog() : nullptr));
  catalog_end = out.end;
}

// A link needs its parent, unless it has a table of its own.
void Store::Impl::find_broken() {
  broken.clear();
  for (const auto& [sequence, link] : tree.all()) {  // parents first
    if (link->parent.empty() || !link->table.empty()) continue;
    const auto known = broken.find(link->parent);
    if (known != broken.end()) {
      broken.emplace(link->id, known->second);
    } else if (!tree.find(link->parent)) {
      broken.emplace(link->id, link->parent);
    }
  }
}

}  // namespace mhv::store
