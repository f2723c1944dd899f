#include <fcntl.h>

#include <CLI/CLI.hpp>
#include <iostream>

#include "sdk/runtime.h"

namespace mhv::sdk {
namespace {

constexpr int kFirstMemory = 6;

struct Files {
  std::string channel;
  std::vector<std::string> memory;  // each the files of one descriptor's
};

ring::Ends open_channel(const Files& files) {
  if (!files.channel.empty()) return {Fd::open(files.channel, O_RDWR), {}, {}};
  return {adopt_descriptor(3), adopt_descriptor(4), adopt_descriptor(5)};
}

// With files, the first is in the place of the first descriptor.
std::shared_ptr<const MemoryFile> open_memory(const Files& files, int number) {
  if (files.channel.empty()) return std::make_shared<const MemoryFile>(adopt_descriptor(number));
  const int index = number - kFirstMemory;
  if (index < 0 || static_cast<std::size_t>(index) >= files.memory.size()) {
    throw Error(Code::kInvalid, "there is no --memory " + std::to_string(index + 1));
  }
  std::vector<Fd> parts;
  for (const std::string& part : CLI::detail::split(files.memory[static_cast<std::size_t>(index)], '+')) {
    parts.push_back(Fd::open(part, O_RDONLY));
  }
  return std::make_shared<const MemoryFile>(MemoryFile::map(parts));
}

}  // namespace

int run(Layer& layer, int argc, char** argv) {
  CLI::App app("a layer of a guest: the engine starts it");
  Files files;
  app.add_option("--channel", files.channel, "in a service VM: the resource file of the device that the channel is in");
  app.add_option("--memory", files.memory,
                 "in a service VM: that of a file of the guest's memory, or several, with + between them; may be repeated");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  try {
    Runtime(layer, open_channel(files), [&](int number) { return open_memory(files, number); }).run();
    return 0;
  } catch (const Error& error) {
    std::cerr << error.what() << "\n";
    if (!error.hint().empty()) std::cerr << "  -> " << error.hint() << "\n";
    return 10 + static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 10;
  }
}

}  // namespace mhv::sdk
