// For tests: a disk that fails, stops, or loses what was not synced, at any chosen step.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <string>

#include "base/error.h"
#include "store/files.h"

namespace mhv::store {

// Counts the steps of the store. At step `fail_at` (1: the next one) it throws as a full disk does, after half of a write is
// done; with `dead` set, every later step throws too, as if the process had ended there.
// Keeps the image that a power loss would leave behind at worst: synced contents under synced names.
class FaultyFiles : public FileOps {
 public:
  void arm(unsigned fail_at, bool dead) {
    step_ = 0;
    fail_at_ = fail_at;
    dies_ = dead;
    failed_ = false;
  }
  void disarm() { fail_at_ = 0, dies_ = false; }
  bool failed() const { return failed_; }

  Fd create(const std::string& path) override {
    step();
    live_[path] = std::make_shared<std::string>();
    return FileOps::create(path);
  }
  Fd open_to_write(const std::string& path) override {
    step();
    return FileOps::open_to_write(path);
  }
  void write(const Fd& file, std::span<const std::byte> data, std::uint64_t offset, const std::string& path) override {
    const bool dead_before = failed_ && dies_;
    try {
      step();
    } catch (const Error&) {
      if (!dead_before) FileOps::write(file, data.first(data.size() / 2), offset, path);
      throw;
    }
    FileOps::write(file, data, offset, path);
  }
  void sync(const Fd&, const std::string& path) override {
    step();
    *live_[path] = read_all(path);
  }
  void truncate(const std::string& path, std::uint64_t bytes) override {
    step();
    FileOps::truncate(path, bytes);
  }
  void rename(const std::string& from, const std::string& to) override {
    step();
    FileOps::rename(from, to);
    if (std::filesystem::is_directory(to)) {
      move(live_, from, to);
      moved_from_ = from, moved_to_ = to;
    } else {
      live_[to] = live_[from];
      live_.erase(from);
    }
  }
  void unlink(const std::string& path) override {
    step();
    FileOps::unlink(path);
    live_.erase(path);
  }
  void make_directory(const std::string& path) override {
    step();
    FileOps::make_directory(path);
  }
  void remove_directory(const std::string& path) override {
    step();
    FileOps::remove_directory(path);
  }
  void sync_directory(const std::string& path) override {
    step();
    if (!moved_from_.empty() && folder_of(moved_from_) == path) {
      move(durable_, moved_from_, moved_to_);
      moved_from_.clear();
    }
    std::erase_if(durable_, [&](const auto& entry) { return folder_of(entry.first) == path; });
    for (const auto& [name, content] : live_) {
      if (folder_of(name) == path) durable_[name] = content;
    }
  }

  // What is on the disk after a power loss: nothing that was not synced, or (with `luck`) a random part of it.
  void lose_power(const std::string& folder, std::mt19937* luck) {
    const auto lucky = [&] { return luck != nullptr && (*luck)() % 2 == 0; };
    if (!moved_from_.empty()) {  // a folder's renaming happened, or it did not
      if (lucky()) {
        move(durable_, moved_from_, moved_to_);
      } else {
        move(live_, moved_to_, moved_from_);
      }
    }
    std::map<std::string, std::string> after;
    for (const auto& [path, content] : durable_) {
      if (live_.contains(path) || !lucky()) after[path] = *content;
    }
    for (const auto& [path, content] : live_) {
      const bool same = durable_.contains(path) && durable_.at(path) == content;
      if (!same && !lucky()) continue;
      after[path] = *content;
      if (!lucky()) continue;
      const std::string now = read_all(std::filesystem::exists(path) ? path : moved_to_ + path.substr(folder_of(path).size()));
      if (now.size() <= content->size()) continue;
      std::string more = now.substr(content->size());  // not synced: some of it, perhaps with a hole
      if (lucky()) more.resize((*luck)() % (more.size() + 1));
      if (lucky()) {  // sectors reach the disk in any order
        for (std::size_t at = 0; at < more.size(); at += 512) {
          if (lucky()) std::fill_n(more.begin() + static_cast<std::ptrdiff_t>(at), std::min<std::size_t>(512, more.size() - at), '\0');
        }
      }
      after[path] += more;
    }
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      if (entry.is_regular_file() && entry.path().filename() != "lock") std::filesystem::remove(entry.path());
    }
    for (const auto& [path, content] : after) {
      std::filesystem::create_directories(folder_of(path));
      std::ofstream(path, std::ios::binary) << content;
    }
    live_.clear();
    for (const auto& [path, content] : after) live_[path] = std::make_shared<std::string>(content);
    durable_ = live_;
    moved_from_.clear();
  }

  static std::string read_all(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

 private:
  using Names = std::map<std::string, std::shared_ptr<std::string>>;  // path -> what is synced of the file's content

  void step() {
    ++step_;
    if (failed_ && dies_) throw Error(Code::kInternal, "the process has ended");
    if (step_ != fail_at_) return;
    failed_ = true;
    throw_errno("injected", ENOSPC);
  }
  static void move(Names& names, const std::string& from, const std::string& to) {
    Names out;
    for (auto& [path, content] : names) out[folder_of(path) == from ? to + path.substr(from.size()) : path] = content;
    names.swap(out);
  }

  unsigned step_ = 0, fail_at_ = 0;
  bool dies_ = false, failed_ = false;
  Names live_, durable_;
  std::string moved_from_, moved_to_;
};

}  // namespace mhv::store
