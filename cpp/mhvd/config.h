// What mhvd was told on its command line and in its configuration file.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "keys/key.h"

namespace mhv::mhvd {

struct Config {
  std::string run_dir = "/run/nova-mhv";
  std::string state_dir = "/var/lib/nova-mhv";
  std::string libvirt_uri = "qemu:///system";
  std::string libvirt_run_dir = "/run/libvirt";
  std::string worker;                                         // program; "": mhv-worker beside this one
  std::string jail;                                           // program; "": mhv-jail beside this one
  std::string layer_python;                                   // what layers in Python import; "": python/ beside this program
  std::string layer_data = "/etc/nova-mhv/layer-data";        // a folder of the operator's for each layer that has one: its name
  std::string installed_layers = "/var/lib/nova-mhv/layers";  // packages of vendors: checked before each start
  std::string vendor_keys = "/etc/nova-mhv/vendors";
  std::string revoked = "/etc/nova-mhv/revoked";
  std::vector<std::string> layer_folders;  // of packages, trusted as they are; none: layers/ beside this program
  std::vector<std::string> service_vms;    // layers that run in one; "*": all
  std::string service_vm_image;            // folder; "": service-vm/ beside this program
  std::string user = "nova-mhv";
  std::string log_level = "info";
  std::string store_key_file;  // "": stores are not encrypted
  bool refuse_plain_stores = false;
  std::optional<keys::Key> store_key;  // what is in that file, once it was read

  std::string socket_path() const { return run_dir + "/mhvd.sock"; }
  std::string broker_path() const { return run_dir + "/broker.sock"; }
  std::string tapper_path() const { return run_dir + "/tapper.sock"; }
  std::string lock_path() const { return run_dir + "/mhvd.lock"; }
  std::string monitor_path(const std::string& uuid) const { return run_dir + "/qmp/" + uuid + ".sock"; }
  std::string run_state_path(const std::string& uuid) const { return run_dir + "/guests/" + uuid + ".state"; }
  std::string uffd_record_path(const std::string& uuid) const { return run_dir + "/guests/" + uuid + ".uffd"; }
  std::string ramblock_record_path(const std::string& uuid) const { return run_dir + "/guests/" + uuid + ".ramblock"; }
  std::string taps_record_path(const std::string& uuid) const { return run_dir + "/guests/" + uuid + ".taps"; }
  bool runs_in_vm(const std::string& layer) const {
    return std::ranges::any_of(service_vms, [&](const std::string& one) { return one == "*" || one == layer; });
  }
  std::string guests_dir() const { return state_dir + "/guests"; }
  std::string guest_dir(const std::string& uuid) const { return guests_dir() + "/" + uuid; }
};

// Returns nothing to do (exit code set) after --help, --version and errors, which are printed.
struct ParsedConfig {
  Config config;
  bool run = false;
  int exit_code = 0;
};
ParsedConfig parse_config(int argc, const char* const* argv);

}  // namespace mhv::mhvd
