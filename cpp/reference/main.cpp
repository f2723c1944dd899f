// usage: mhv-vendor-kernel [--folder FOLDER] PACKAGE...
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "reference/extract.h"

int main(int argc, char** argv) {
  std::vector<std::string> packages;
  std::string folder = "/etc/nova-mhv/layer-data/integrity";
  CLI::App app{
      "Makes references of a vendor's kernels, with which the layer \"integrity\" compares the kernels of this host's guests.\n"
      "Each takes some 50 MB. Guests are compared when they are measured: at the next start of the layer.",
      "mhv-vendor-kernel"};
  app.add_option("PACKAGE", packages, "linux-image-*.deb of Debian, or its vmlinuz; whoever made it is trusted: check it by apt first")
      ->required();
  app.add_option("--folder", folder, "where the layer finds it: LAYER-DATA/integrity, with mhvd's option --layer-data")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    for (const std::string& package : packages) {
      const auto written = mhv::reference::write_reference(package, folder);
      fmt::print("{}: {}\n", written.path, written.banner);
    }
    return 0;
  } catch (const mhv::Error& error) {
    fmt::print(stderr, "mhv-vendor-kernel: {}{}{}\n", error.what(), error.hint().empty() ? "" : ": ", error.hint());
  } catch (const std::exception& error) {
    fmt::print(stderr, "mhv-vendor-kernel: {}\n", error.what());
  }
  return 1;
}
