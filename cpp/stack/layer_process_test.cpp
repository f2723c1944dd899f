#include "stack/layer_process.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <memory>

#include "base/error.h"
#include "base/temp_folder_test.h"

namespace mhv::stack {
namespace {

void write_program(const std::string& path, const std::string& text) {
  std::ofstream(path) << text;
  std::filesystem::permissions(path, std::filesystem::perms::all);
}

TEST(LayerProcess, GetsItsDescriptorsAndSaysHowItEnded) {
  const TempFolder folder;
  const std::string program = folder.file("jail");
  write_program(program, "#!/bin/sh\n[ \"$1\" = a ] || exit 9\necho x >&4\nread line <&3\nexit 7\n");
  std::vector<Fd> fds;
  fds.push_back(Fd::memory("in"));
  fds.push_back(Fd::memory("out"));
  pwrite_all(fds[0].get(), std::as_bytes(std::span("line\n", 5)), 0, "in");
  LayerProcess process(program, {"a"}, fds);
  pollfd polled{process.pidfd(), POLLIN, 0};
  ASSERT_EQ(::poll(&polled, 1, 10'000), 1);
  EXPECT_EQ(process.reap(), "its process exited with status 7");
  std::array<std::byte, 1> out;
  pread_all(fds[1].get(), out, 0, "out");
  EXPECT_EQ(out[0], std::byte{'x'});
}

TEST(LayerProcess, IsKilledWithItsOwner) {
  const TempFolder folder;
  const std::string program = folder.file("jail");
  write_program(program, "#!/bin/sh\nexec sleep 1000\n");
  auto process = std::make_unique<LayerProcess>(program, std::vector<std::string>{}, std::span<const Fd>{});
  const Fd pidfd = Fd::own(::dup(process->pidfd()));
  process.reset();
  pollfd polled{pidfd.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&polled, 1, 10'000), 1);
  EXPECT_THROW(LayerProcess(folder.file("none"), {}, {}), Error);
}

}  // namespace
}  // namespace mhv::stack
