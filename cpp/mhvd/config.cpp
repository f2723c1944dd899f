#include "mhvd/config.h"

#include <CLI/CLI.hpp>
#include <filesystem>

namespace mhv::mhvd {
namespace {

std::string beside_this_program(const std::string& name) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? name : (self.parent_path() / name).string();
}

}  // namespace

ParsedConfig parse_config(int argc, const char* const* argv) {
  ParsedConfig out;
  Config& config = out.config;
  CLI::App app{"mhvd: supervises the services of this host's guests (checkpoints). Needs mhv-broker and libvirt."};
  app.set_version_flag("--version", "mhvd " MHV_VERSION);
  app.set_config("--config", "/etc/nova-mhv/mhvd.conf", "configuration file; every option below is a line \"run-dir=PATH\" in it", false);
  app.add_option("--run-dir", config.run_dir, "sockets and run state; lost at reboot")->capture_default_str();
  app.add_option("--state-dir", config.state_dir, "checkpoints and known guests")->capture_default_str();
  app.add_option("--libvirt-uri", config.libvirt_uri, "libvirt of this host")->capture_default_str();
  app.add_option("--libvirt-run-dir", config.libvirt_run_dir, "where libvirt keeps qemu/NAME.pid")->capture_default_str();
  app.add_option("--worker", config.worker, "the mhv-worker program; default: beside mhvd");
  app.add_option("--jail", config.jail, "the mhv-jail program; default: beside mhvd");
  app.add_option("--layer-folder", config.layer_folders,
                 "folder of layers' packages, trusted as they are; may be repeated; default: layers/ beside mhvd");
  app.add_option("--layer-python", config.layer_python, "folder of the module that layers in Python import; default: python/ beside mhvd");
  app.add_option("--layer-data", config.layer_data, "folder of what layers are shown as /data, each the folder of its name")
      ->capture_default_str();
  app.add_option("--installed-layers", config.installed_layers, "where \"mhvctl layer install\" puts packages, checked before each start")
      ->capture_default_str();
  app.add_option("--vendor-keys", config.vendor_keys, "folder with VENDOR.pem of each vendor that is allowed")->capture_default_str();
  app.add_option("--revoked", config.revoked, "list of revoked keys and packages")->capture_default_str();
  app.add_option("--service-vm", config.service_vms,
                 "layer that runs in a virtual machine of its own instead of a process, or \"*\" for all; may be repeated");
  app.add_option("--service-vm-image", config.service_vm_image,
                 "folder with vmlinuz and initrd.gz of these machines; default: service-vm/ beside mhvd");
  app.add_option("--user", config.user, "user to become when started as root; \"root\" stays root")->capture_default_str();
  app.add_option("--store-key-file", config.store_key_file,
                 "32 random bytes: checkpoints of guests that have none yet are encrypted with it; made by: openssl rand -out FILE 32");
  app.add_flag("--refuse-plain-stores", config.refuse_plain_stores, "with a key: do not open checkpoints that are not encrypted");
  app.add_option("--log-level", config.log_level, "how much goes to standard error")
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error"}))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
    if (config.refuse_plain_stores && config.store_key_file.empty()) {
      throw CLI::ValidationError("--refuse-plain-stores", "needs --store-key-file");
    }
    if (config.worker.empty()) config.worker = beside_this_program("mhv-worker");
    if (config.jail.empty()) config.jail = beside_this_program("mhv-jail");
    if (config.layer_python.empty()) config.layer_python = beside_this_program("python");
    if (config.layer_folders.empty()) config.layer_folders = {beside_this_program("layers")};
    if (config.service_vm_image.empty()) config.service_vm_image = beside_this_program("service-vm");
    out.run = true;
  } catch (const CLI::ParseError& error) {
    out.exit_code = app.exit(error) == 0 ? 0 : 2;
  }
  return out;
}

}  // namespace mhv::mhvd
