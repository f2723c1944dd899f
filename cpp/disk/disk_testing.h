// For tests: files and a base image in memory that lose their power at any chosen step, and a disk to compare with.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "disk/base_image.h"
#include "disk/files.h"
#include "disk/types.h"

namespace mhv::disk {

using Bytes = std::vector<std::byte>;

struct PowerLoss {};  // thrown at the step where it happens, and at every later one

// What several files share: when the power goes, and how full their file system is.
struct Power {
  std::uint64_t steps = 0;
  std::uint64_t fail_at = 0;  // 0: never
  std::uint64_t bytes_max = ~std::uint64_t{0};
  void step() {
    if (++steps >= fail_at && fail_at != 0) throw PowerLoss{};
  }
};

// A file's bytes as readers see them, and what of them would survive.
struct MemoryBytes {
  static constexpr std::size_t kSector = 512;
  struct Write {
    std::uint64_t offset;
    Bytes data;
  };
  Bytes now;
  Bytes durable;
  std::vector<Write> pending;

  void write(std::span<const std::byte> data, std::uint64_t offset) {
    if (offset + data.size() > now.size()) throw Error(Code::kCorrupt, "written beyond the end");
    std::memcpy(now.data() + offset, data.data(), data.size());
    pending.push_back({offset, Bytes(data.begin(), data.end())});
  }
  void read(std::span<std::byte> out, std::uint64_t offset) const {
    if (offset + out.size() > now.size()) throw Error(Code::kCorrupt, "ends early");
    std::memcpy(out.data(), now.data() + offset, out.size());
  }
  void sync() {
    durable = now;
    pending.clear();
  }
  // Each sector of each write that was not synced reached the disk or did not; without `luck` none did.
  void lose(std::mt19937* luck) {
    for (const Write& write : pending) {
      for (std::uint64_t at = write.offset; luck != nullptr && at < write.offset + write.data.size();) {
        const std::uint64_t end = std::min<std::uint64_t>(write.offset + write.data.size(), at / kSector * kSector + kSector);
        if ((*luck)() % 2 == 0) std::memcpy(durable.data() + at, write.data.data() + (at - write.offset), end - at);
        at = end;
      }
    }
    now = durable;
    pending.clear();
  }
};

// The disk under a Folder and a BaseImage, which may be opened again after a kill or a power loss.
struct MemoryDisk {
  using Names = std::map<std::string, std::shared_ptr<MemoryBytes>>;
  Power power;
  Names now;
  Names durable;
  std::vector<Names> since;  // each state of the names since the last sync
  MemoryBytes base;

  std::uint64_t used() const {
    std::uint64_t sum = 0;
    for (const auto& [name, file] : now) sum += file->now.size();
    return sum;
  }
  void lose_power(std::mt19937* luck) {
    if (luck != nullptr && !since.empty()) {
      const auto kept = (*luck)() % (since.size() + 1);
      if (kept > 0) durable = since[kept - 1];
    }
    now = durable;
    since.clear();
    for (auto& [name, file] : now) file->lose(luck);
    base.lose(luck);
    power.fail_at = 0;
  }
  // Copies share nothing.
  MemoryDisk clone() const {
    MemoryDisk out;
    for (const auto& [name, file] : now) out.now[name] = std::make_shared<MemoryBytes>(*file);
    out.durable = out.now;
    out.base = base;
    return out;
  }
};

class MemoryFile : public File {
 public:
  MemoryFile(Power& power, std::shared_ptr<MemoryBytes> bytes) : power_(power), bytes_(std::move(bytes)) {}
  void read(std::span<std::byte> out, std::uint64_t offset) override { bytes_->read(out, offset); }
  void write(std::span<const std::byte> data, std::uint64_t offset) override {
    bytes_->write(data, offset);
    power_.step();  // the power goes after it is begun: how much of it is there is for lose() to say
  }
  void sync() override {
    power_.step();
    bytes_->sync();
  }
  void begin_sync(std::uint64_t, std::uint64_t) override {}
  std::uint64_t bytes() override { return bytes_->now.size(); }

 private:
  Power& power_;
  std::shared_ptr<MemoryBytes> bytes_;
};

class MemoryFolder : public Folder {
 public:
  explicit MemoryFolder(MemoryDisk& disk) : disk_(disk) {}
  std::unique_ptr<File> create(const std::string& name, std::uint64_t bytes) override {
    disk_.power.step();
    if (disk_.used() + bytes > disk_.power.bytes_max) throw Error(Code::kNoSpace, "full");
    auto file = std::make_shared<MemoryBytes>();
    file->now.resize(bytes);
    file->durable.resize(bytes, std::byte{0xa5});  // whatever was there
    disk_.now[name] = file;
    changed();
    return std::make_unique<MemoryFile>(disk_.power, file);
  }
  std::unique_ptr<File> open(const std::string& name) override {
    const auto found = disk_.now.find(name);
    if (found == disk_.now.end()) throw Error(Code::kNotFound, "no " + name);
    return std::make_unique<MemoryFile>(disk_.power, found->second);
  }
  std::vector<std::string> list() override {
    std::vector<std::string> out;
    for (const auto& [name, file] : disk_.now) out.push_back(name);
    return out;
  }
  void rename(const std::string& from, const std::string& to) override {
    disk_.power.step();
    disk_.now[to] = disk_.now.at(from);
    disk_.now.erase(from);
    changed();
  }
  void unlink(const std::string& name) override {
    disk_.power.step();
    if (disk_.now.erase(name) > 0) changed();
  }
  void sync() override {
    disk_.power.step();
    disk_.durable = disk_.now;
    disk_.since.clear();
  }

 private:
  void changed() { disk_.since.push_back(disk_.now); }
  MemoryDisk& disk_;
};

class MemoryImage : public BaseImage {
 public:
  explicit MemoryImage(MemoryDisk& disk) : disk_(disk) {}
  std::uint64_t bytes() const override { return disk_.base.now.size(); }
  void read(std::span<std::byte> out, std::uint64_t offset) override { disk_.base.read(out, offset); }
  void write(std::span<const std::byte> data, std::uint64_t offset) override {
    disk_.base.write(data, offset);
    disk_.power.step();
  }
  void zero(std::uint64_t bytes, std::uint64_t offset) override { write(Bytes(bytes), offset); }
  void sync() override {
    disk_.power.step();
    disk_.base.sync();
  }

 private:
  MemoryDisk& disk_;
};

}  // namespace mhv::disk
