#include "jail/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>

#include "base/error.h"

namespace mhv::jail {
namespace {

constexpr std::uint32_t kUidMax = 0x7fffffff;

void check_paths(const Options& options) {
  namespace fs = std::filesystem;
  for (const std::string& folder : {options.package, options.python_path, options.data}) {
    const fs::path path(folder);
    if (!folder.empty() && (!path.is_absolute() || path.lexically_normal() != path || folder.ends_with('/'))) {
      throw Error(Code::kInvalid, "\"" + folder + "\" is not the plain absolute path of a folder", "without .., . or a / at its end");
    }
  }
  const fs::path program(options.program);
  if (options.machine) {
    if (!options.package.empty() || program.parent_path() != "/usr/bin") {
      throw Error(Code::kInvalid, "a machine has no package, and its program is one of /usr/bin");
    }
    return;
  }
  if (options.package.empty()) throw Error(Code::kInvalid, "--package is missing", "see mhv-jail --help");
  const bool outside = std::any_of(program.begin(), program.end(), [](const fs::path& part) { return part == ".."; });
  if (program.empty() || program.is_absolute() || outside) {
    throw Error(Code::kInvalid, "the program \"" + options.program + "\" is not a path within the package");
  }
}

}  // namespace

Options parse_options(int argc, const char* const* argv, std::string& help) {
  Options out;
  CLI::App app{"Runs a layer's program where it reaches nothing but the descriptors it was given.", "mhv-jail"};
  app.add_flag("--machine", out.machine, "run an emulator of the host, whose descriptors are also /fd/N, instead of a package's program");
  app.add_option("--package", out.package, "folder of the layer's package");
  app.add_option("--program", out.program, "program, a path within the package; of a machine, its whole path")->required();
  app.add_option("--python-path", out.python_path, "folder of modules that a program in Python may import");
  app.add_option("--data", out.data, "folder of what the operator gives this layer");
  app.add_option("--uid", out.uid, "host's user and group id, of the caller's range in /etc/subuid")
      ->required()
      ->check(CLI::Range(std::uint32_t{1}, kUidMax));
  app.add_option("--memory-mib", out.memory_mib, "memory")->required()->check(CLI::Range(8u, 1u << 20));
  app.add_option("--cpu-percent", out.cpu_percent, "of one processor, 100 is all of it")->required()->check(CLI::Range(1u, 100'000u));
  app.add_option("--pids", out.pids, "threads")->required()->check(CLI::Range(1u, 4096u));
  app.add_option("--descriptors", out.descriptors, "how many it is given, from 3 on")->required()->check(CLI::Range(0u, 64u));
  app.add_option("arguments", out.arguments, "its arguments, behind --");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    help = app.help();
    return out;
  } catch (const CLI::ParseError& error) {
    throw Error(Code::kInvalid, error.what(), "see mhv-jail --help");
  }
  check_paths(out);
  return out;
}

}  // namespace mhv::jail
