// Opening a store: take the lock, check the format, drop what was never committed, read the heads of the manifests.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <filesystem>

#include "base/error.h"
#include "store/store_impl.h"

namespace mhv::store {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kHeadGuess = 32768;  // most manifests' heads are shorter

ManifestHead load_head(const std::string& path, std::uint64_t bytes) {
  const Fd fd = Fd::open(path, O_RDONLY);
  std::vector<std::byte> head(std::min<std::uint64_t>(bytes, kHeadGuess));
  pread_all(fd.get(), head, 0, path.c_str());
  const std::size_t need = manifest_head_bytes(head);
  if (need > head.size() && head.size() < bytes) {
    head.resize(std::min<std::uint64_t>(bytes, need));
    pread_all(fd.get(), head, 0, path.c_str());
  }
  return parse_manifest_head(head, bytes);
}

void empty_folder(FileOps& files, const std::string& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) files.unlink(entry.path().string());
}

}  // namespace

Store::Impl::Impl(const std::string& store_folder, const StoreOptions& options)
    : folder(store_folder),
      manifests_folder(store_folder + "/manifests"),
      files(options.files ? options.files : std::make_shared<FileOps>()),
      segments(store_folder, *files, std::min(options.segment_bytes, kSegmentBytesMax)) {}

Store::Impl::~Impl() {
  if (lock) segments.save_indexes(true);
}

void Store::Impl::open() {
  files->make_directory(folder);
  lock_folder();
  try {
    check_format();
    for (const char* name : {"/segments", "/index", "/manifests"}) files->make_directory(folder + name);
    files->sync_directory(folder);
    drop_leftovers();
    load_manifests();
    segments.open(committed_position(), index);
  } catch (const fs::filesystem_error& error) {
    lock.close();
    throw_errno("cannot read the store in " + folder, error.code().value());
  } catch (...) {
    lock.close();
    throw;
  }
  problems.insert(problems.end(), segments.problems().begin(), segments.problems().end());
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
  const std::string path = folder + "/FORMAT";
  if (fs::exists(path)) {
    try {
      check_format_line(read_file(path, 4096));
    } catch (const Error& error) {
      throw Error(error.code(), path + ": " + error.what(),
                  error.hint().empty() ? "restore the file from a backup, or delete the guest's checkpoints" : error.hint());
    }
    return;
  }
  for (const char* name : {"/segments", "/manifests"}) {
    if (fs::exists(folder + name) && !fs::is_empty(folder + name)) {
      throw Error(Code::kCorrupt, path + " is missing, though there is something in " + folder + name,
                  "restore the file from a backup, or delete the guest's checkpoints");
    }
  }
  const std::string line = format_line();
  replace(*files, path, std::as_bytes(std::span(line)));
}

void Store::Impl::drop_leftovers() {
  if (fs::exists(manifests_folder + ".removed")) {  // remove_all() had begun
    empty_folder(*files, manifests_folder + ".removed");
    files->remove_directory(manifests_folder + ".removed");
  }
  for (const std::string& where : {folder, manifests_folder}) {
    for (const auto& entry : fs::directory_iterator(where)) {
      const std::string name = entry.path().filename().string();
      const bool ours = where == manifests_folder || name == "FORMAT.new" || name == "POSITION.new";
      if (ours && name.ends_with(".new")) files->unlink(entry.path().string());
    }
  }
}

void Store::Impl::load_manifests() {
  for (const auto& entry : fs::directory_iterator(manifests_folder)) {
    const std::string path = entry.path().string();
    const std::string id = entry.path().stem().string();
    if (entry.path().extension() != ".mhv" || !is_uuid(id)) continue;
    const std::uint64_t bytes = entry.file_size();
    try {
      Node loaded{load_head(path, bytes), bytes};
      if (loaded.info.id != id) throw Error(Code::kCorrupt, "manifest belongs to checkpoint " + loaded.info.id);
      next_sequence = std::max(next_sequence, loaded.sequence + 1);
      nodes.emplace(id, std::make_shared<const Node>(std::move(loaded)));
    } catch (const Error& error) {
      if (error.code() != Code::kCorrupt) throw Error(error.code(), path + ": " + error.what(), error.hint());
      damaged.emplace(id, path + ": " + error.what());
      problems.push_back(path + ": " + error.what());
    }
  }
}

// Behind it nothing was ever committed. With a manifest or POSITION damaged nobody knows, and all is kept.
Position Store::Impl::committed_position() {
  Position position;
  bool known = damaged.empty();
  for (const auto& [id, node] : nodes) position = std::max(position, node->end);
  const std::string path = folder + "/POSITION";
  if (fs::exists(path)) {
    try {
      const std::string text = read_file(path, 4096);
      position = std::max(position, parse_position(std::as_bytes(std::span(text))));
    } catch (const Error& error) {
      if (error.code() == Code::kVersion) throw Error(error.code(), path + ": " + error.what(), error.hint());
      problems.push_back(path + ": " + error.what());
      known = false;
    }
  }
  if (known) return position;
  for (const auto& entry : fs::directory_iterator(folder + "/segments")) {
    const std::string name = entry.path().filename().string();
    if (name.size() != 14 || !name.ends_with(".seg") || name.find_first_not_of("0123456789") != 10) continue;
    const auto number = std::min<std::uint64_t>(std::stoull(name), kSegmentNumberMax);
    position = std::max(position, Position{static_cast<std::uint32_t>(number), entry.file_size()});
  }
  return position;
}

void Store::Impl::find_broken() {
  broken.clear();
  std::set<std::string> whole;
  for (const auto& [id, start] : nodes) {
    std::vector<std::string> path;
    std::set<std::string> on_path;
    std::string at = id, culprit;
    while (!at.empty() && !whole.contains(at)) {
      const auto known = broken.find(at);
      const auto found = nodes.find(at);
      if (known != broken.end()) {
        culprit = known->second;
      } else if (found == nodes.end() || !on_path.insert(at).second) {
        culprit = at;  // missing, damaged, or a circle
      }
      if (!culprit.empty()) break;
      path.push_back(at);
      at = found->second->info.parent;
    }
    for (const std::string& step : path) {
      if (culprit.empty()) {
        whole.insert(step);
      } else {
        broken.emplace(step, culprit);
      }
    }
  }
}

}  // namespace mhv::store
