#include "ctl/layer_package.h"

#include <memory>
#include <nlohmann/json.hpp>

#include "package/package.h"

namespace mhv::ctl {
namespace {

struct Asked {
  std::string from, key, output;
  package::Trust trust;
  std::string layers_folder = package::kLayersFolder;
};

std::string describe(const stack::Manifest& manifest, const std::string& done, const std::string& where, bool json) {
  if (json) {
    const nlohmann::ordered_json out = {
        {"name", manifest.name}, {"version", manifest.version}, {"vendor", manifest.vendor}, {"path", where}};
    return out.dump() + "\n";
  }
  return manifest.name + " " + manifest.version + " of " + manifest.vendor + ": " + done + "\n";
}

std::string pack_folder(const Asked& asked, bool json) {
  const stack::Manifest manifest = package::pack(asked.from, asked.key, asked.output);
  return describe(manifest, "packed and signed as " + asked.output, asked.output, json);
}

std::string verify_file(const Asked& asked, bool json) {
  const package::Package found = package::verify(asked.from, asked.trust);
  return describe(found.manifest, "its signature is good; key " + found.key, asked.from, json);
}

std::string install_file(const Asked& asked, bool json) {
  const std::string folder = package::install(asked.from, asked.trust, asked.layers_folder);
  return describe(package::verify_installed(folder, asked.trust).manifest, "installed in " + folder, folder, json);
}

void add_trust(CLI::App& command, Asked& asked) {
  command.add_option("FILE", asked.from, "package")->required();
  command.add_option("--keys", asked.trust.vendors_folder, "folder with VENDOR.pem of each vendor that is allowed")->capture_default_str();
  command.add_option("--revoked", asked.trust.revoked_file, "list of revoked keys and packages")->capture_default_str();
}

}  // namespace

void add_package_commands(CLI::App& layer, const std::function<void(PackageAction)>& choose) {
  const auto asked = std::make_shared<Asked>();
  const auto chosen = [asked, choose](std::string (*action)(const Asked&, bool)) {
    return [asked, choose, action] { choose([asked, action](bool json) { return action(*asked, json); }); };
  };
  CLI::App& pack = *layer.add_subcommand("pack", "sign a folder with manifest.json and a program, and make one file of it");
  pack.add_option("FOLDER", asked->from, "what to pack")->required();
  pack.add_option("--key", asked->key, "private key: openssl genpkey -algorithm ed25519 -out KEY.pem")->required();
  pack.add_option("--output", asked->output, "new file; an existing one is refused")->required();
  pack.callback(chosen(&pack_folder));
  CLI::App& verify = *layer.add_subcommand("verify", "check a package's content and signature");
  add_trust(verify, *asked);
  verify.callback(chosen(&verify_file));
  CLI::App& install = *layer.add_subcommand("install", "check a package, and unpack it for the guests of this host");
  add_trust(install, *asked);
  install.add_option("--layers", asked->layers_folder, "where layers are installed")->capture_default_str();
  install.callback(chosen(&install_file));
}

}  // namespace mhv::ctl
