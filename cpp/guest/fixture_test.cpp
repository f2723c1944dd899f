#include "guest/fixture_test.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "base/error.h"
#include "guest/device_saver.h"

namespace mhv::guest::testing {
namespace {

constexpr const char* kQemu = "/usr/bin/qemu-system-x86_64";
constexpr std::uint64_t kCounterStart = 0x80000;
constexpr std::chrono::seconds kPatience{120};

pid_t spawn(const std::vector<std::string>& arguments, int output) {
  std::vector<char*> argv;
  for (const auto& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  if (output >= 0) {
    ::posix_spawn_file_actions_adddup2(&actions, output, 1);
    ::posix_spawn_file_actions_adddup2(&actions, output, 2);
  }
  pid_t pid = -1;
  const int error = ::posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw_errno("cannot start " + arguments[0], error);
  return pid;
}

Fd connect_unix(const std::string& path) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  for (;;) {
    Fd socket = Fd::own(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return socket;
    if (std::chrono::steady_clock::now() > deadline) throw_errno("QEMU did not open " + path);
    ::sched_yield();
  }
}

// cli; ds = 0x8000; for ever: for (bx = 0; bx != 0x8000; bx += 0x1000) ++*(u32*)ds:bx
void write_boot_disk(const std::string& path) {
  constexpr std::array<unsigned char, 23> kCode = {0xfa, 0xb8, 0x00, 0x80, 0x8e, 0xd8, 0x31, 0xdb, 0x66, 0xff, 0x07, 0x81,
                                                   0xc3, 0x00, 0x10, 0x81, 0xfb, 0x00, 0x80, 0x75, 0xf3, 0xeb, 0xef};
  std::vector<unsigned char> disk(2 << 20);  // less than a cylinder is no disk to the BIOS
  std::copy(kCode.begin(), kCode.end(), disk.begin());
  disk[510] = 0x55;
  disk[511] = 0xaa;
  const Fd file = Fd::open(path, O_WRONLY | O_CREAT | O_TRUNC);
  write_all(file.get(), std::as_bytes(std::span(disk)), "boot disk");
}

std::vector<std::string> qemu_arguments(const std::string& socket, const std::string& boot_disk, Memory memory) {
  std::vector<std::string> arguments = {kQemu,         "-accel", "tcg",      "-m", "64",    "-display",      "none",
                                        "-nodefaults", "-boot",  "menu=off", "-S", "-name", "mhv-guest-test"};
  std::string machine = "pc";
  if (memory == Memory::kShared) {
    machine += ",memory-backend=pc.ram";
    arguments.insert(arguments.end(), {"-object", "memory-backend-memfd,id=pc.ram,size=64M,share=on"});
  }
  arguments.insert(arguments.end(), {"-M", machine, "-qmp", "unix:" + socket + ",server=on,wait=off"});
  arguments.insert(arguments.end(), {"-drive", "if=none,id=boot,format=raw,readonly=on,file=" + boot_disk, "-device",
                                     "virtio-blk-pci,drive=boot,bootindex=0"});
  return arguments;
}

const MapsEntry& mapping_of(const std::vector<MapsEntry>& maps, std::uint64_t address) {
  for (const auto& entry : maps) {
    if (entry.start <= address && address < entry.end) return entry;
  }
  throw Error(Code::kNotFound, "no mapping at a RAM block's address");
}

}  // namespace

bool have_qemu() { return ::access(kQemu, X_OK) == 0; }

Output run(const std::vector<std::string>& arguments) {
  const Fd output = Fd::memory("output");
  const pid_t pid = spawn(arguments, output.get());
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  Output result;
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.text = read_file("/proc/self/fd/" + std::to_string(output.get()), 1u << 20);
  return result;
}

TestQemu::TestQemu(const TempFolder& folder, const std::string& name, const std::vector<std::string>& more, Memory memory) {
  const std::string socket = folder.file(name + ".qmp");
  write_boot_disk(folder.file("boot.img"));
  auto arguments = qemu_arguments(socket, folder.file("boot.img"), memory);
  arguments.insert(arguments.end(), more.begin(), more.end());
  pid_ = spawn(arguments, -1);
  qmp_ = std::make_unique<Qmp>(connect_unix(socket), false);
}

TestQemu::~TestQemu() { kill_and_wait(); }

void TestQemu::kill_and_wait() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
}

Ram TestQemu::open_ram() {
  const std::string proc = "/proc/" + std::to_string(pid_);
  const auto maps = parse_maps(read_file(proc + "/maps", 1u << 24));
  std::vector<Fd> fds;
  fds.push_back(Fd::open(proc + "/mem", O_RDWR));
  std::vector<RamBlock> blocks;
  for (const auto& listing : parse_ramblock_listing(qmp().hmp("info ramblock"))) {
    RamBlock block;
    block.name = listing.name;
    block.host = {listing.host_virt};
    block.bytes = listing.used_bytes;
    block.read_only = listing.read_only;
    block.fd = fds.front().get();
    const MapsEntry& entry = mapping_of(maps, listing.host_virt);
    if (entry.shared) {
      std::array<char, 64> range{};
      std::snprintf(range.data(), range.size(), "%lx-%lx", entry.start, entry.end);
      fds.push_back(Fd::open(proc + "/map_files/" + range.data(), O_RDWR));
      block.shared = true;
      block.fd = fds.back().get();
      block.fd_offset = entry.offset + (listing.host_virt - entry.start);
    }
    blocks.push_back(std::move(block));
  }
  return Ram(std::move(blocks), std::move(fds));
}

std::string TestQemu::machine() {
  const auto type = qmp().call("qom-get", {{"path", "/machine"}, {"property", "type"}}).get<std::string>();
  return type.substr(0, type.rfind("-machine"));
}

std::vector<std::uint32_t> TestQemu::counters(const Ram& ram) const {
  std::vector<std::uint32_t> values;
  std::vector<std::byte> page(kPageSize);
  for (std::uint32_t i = 0; i < kCounters; ++i) {
    ram.read({{static_cast<std::uint32_t>(kCounterStart >> kPageShift) + i}, 1}, page);
    std::uint32_t value = 0;
    std::memcpy(&value, page.data(), sizeof(value));
    values.push_back(value);
  }
  return values;
}

void TestQemu::wait_until_counter_passes(const Ram& ram, std::uint32_t value) const {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (counters(ram).back() <= value) {
    if (std::chrono::steady_clock::now() > deadline) throw Error(Code::kUnavailable, "the guest does not run");
    qmp_->call("query-status");  // leaves the processor to QEMU
  }
}

std::vector<std::byte> save(Qmp& qmp) {
  DeviceSaver saver(qmp);
  return DeviceSaver::Save(saver).finish();
}

std::vector<std::byte> read_all(const Ram& ram) {
  std::vector<std::byte> all(ram.bytes());
  for (const auto& block : ram.blocks()) {
    const std::uint64_t at = std::uint64_t{block.first.value} << kPageShift;
    ram.read({block.first, static_cast<std::uint32_t>(block.bytes >> kPageShift)}, std::span(all).subspan(at, block.bytes));
  }
  return all;
}

}  // namespace mhv::guest::testing
