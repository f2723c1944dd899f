#include "mhvd/service_vm.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <bit>

#include "base/error.h"
#include "base/units.h"
#include "package/archive.h"
#include "ring/ring.h"

namespace mhv::mhvd {
namespace {

constexpr std::size_t kImageMax = 256 << 20;  // of each file
constexpr std::uint32_t kLinuxMib = 96;
constexpr std::uint32_t kTranslatedMib = 32;    // code that QEMU makes
constexpr std::uint32_t kQemuMib = 192;         // QEMU's own
constexpr std::uint32_t kMachinePercent = 100;  // of a processor, at least: it has one, and boots
constexpr unsigned kFirstSlot = 3, kLastSlot = 0x1e;
constexpr int kFirstDescriptor = 3;

std::string path_of(std::size_t fd) { return fmt::format("/fd/{}", kFirstDescriptor + fd); }

// Nobody's to write, once it was written.
Fd file_of(const char* name, const std::string& start, const LayerPackage* package = nullptr) {
  Fd out = Fd::memory(name);
  write_all(out.get(), std::as_bytes(std::span(start)), name);
  if (package != nullptr) {
    const std::string aligned((512 - start.size() % 512) % 512, '\0');
    write_all(out.get(), std::as_bytes(std::span(aligned)), name);
    package::write_initramfs(out, package->folder, package::read_folder(package->folder));
  }
  if (::fchmod(out.get(), 0444) != 0) throw_errno("cannot keep others from writing a service VM's files");
  return out;
}

std::string read_image(const std::string& file) {
  try {
    return read_file(file, kImageMax);
  } catch (const Error& error) {
    throw Error(Code::kUnsupported, fmt::format("there is no image for service VMs: {}", error.what()),
                "make it: devstack/service-vm/build FOLDER; mhvd --service-vm-image FOLDER");
  }
}

class Devices {
 public:
  // Returns its number on the bus, as the init of the image wants it.
  std::string add(std::size_t fd, std::uint64_t bytes, std::uint64_t offset, bool for_reading) {
    if (slot_ > kLastSlot) {
      throw Error(Code::kUnsupported, "the guest's memory is in too many pieces for a service VM",
                  "run this layer in a process, or give the guest a size of memory that is a multiple of a larger power of two");
    }
    arguments_.insert(arguments_.end(),
                      {"-object",
                       fmt::format("memory-backend-file,id=m{0},share=on,readonly={1},rom={1},size={2},offset={3},mem-path={4}", slot_,
                                   for_reading ? "on" : "off", bytes, offset, path_of(fd)),
                       "-device", fmt::format("ivshmem-plain,memdev=m{0},addr={0:#x}", slot_)});
    return fmt::format("{:02x}", slot_++);
  }
  const std::vector<std::string>& arguments() const { return arguments_; }

 private:
  unsigned slot_ = kFirstSlot;
  std::vector<std::string> arguments_;
};

// "04+05": the devices, in the order of what they hold.
std::string add_memory(Devices& devices, std::size_t fd, const Fd& file) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) throw_errno("cannot look at a guest's memory");
  std::string out;
  std::uint64_t offset = 0;
  for (const std::uint64_t bytes : pieces_of(static_cast<std::uint64_t>(status.st_size))) {
    out += (out.empty() ? "" : "+") + devices.add(fd, bytes, offset, true);
    offset += bytes;
  }
  return out;
}

}  // namespace

std::vector<std::uint64_t> pieces_of(std::uint64_t bytes) {
  std::vector<std::uint64_t> out;
  for (; bytes >= kPageSize; bytes -= out.back()) out.push_back(std::bit_floor(bytes));
  return out;
}

JailedProgram in_machine(const std::string& image, const LayerPackage& package, std::vector<Fd> fds) {
  std::vector<Fd> files;
  files.push_back(file_of("kernel", read_image(image + "/vmlinuz")));
  files.push_back(file_of("initramfs", read_image(image + "/initrd.gz"), &package));
  fds.insert(fds.begin() + 1, std::make_move_iterator(files.begin()), std::make_move_iterator(files.end()));
  Devices devices;
  std::string options = fmt::format("quiet console=ttyS0 no_timer_check panic=-1 mhv.layer={} mhv.channel={}", package.manifest.program,
                                    devices.add(0, ring::kChannelFileBytes, 0, false));
  std::string memory;
  for (std::size_t fd = 3; fd < fds.size(); ++fd) memory += (memory.empty() ? "" : ",") + add_memory(devices, fd, fds[fd]);
  if (!memory.empty()) options += " mhv.memory=" + memory;
  const std::uint32_t machine_mib = kLinuxMib + package.manifest.resources.memory_mib;
  std::vector<std::string> arguments = {"-nodefaults",
                                        "-no-user-config",
                                        "-no-reboot",
                                        "-display",
                                        "none",
                                        "-serial",
                                        "stdio",
                                        "-machine",
                                        "q35,usb=off,sata=off,smbus=off,i8042=off,vmport=off",
                                        "-accel",
                                        fmt::format("tcg,tb-size={}", kTranslatedMib),
                                        "-m",
                                        fmt::format("{}M", machine_mib),
                                        "-smp",
                                        "1",
                                        "-kernel",
                                        path_of(1),
                                        "-initrd",
                                        path_of(2),
                                        "-append",
                                        options};
  arguments.insert(arguments.end(), devices.arguments().begin(), devices.arguments().end());
  return {{"--machine", "--program", "/usr/bin/qemu-system-x86_64"},
          machine_mib + kTranslatedMib + kQemuMib,
          std::max(kMachinePercent, package.manifest.resources.cpu_percent),
          std::move(arguments),
          std::move(fds)};
}

}  // namespace mhv::mhvd
