// For the tests of this folder: a hand-made kernel with something of everything in it.
#pragma once

#include <string>
#include <vector>

#include "introspection/test_kernel.h"

namespace mhv::introspection::testing {

class TestGuest : public TestKernel {
 public:
  explicit TestGuest(Style style = Style::kNew) : TestKernel(style) {
    init = add_task("init", 1, 0, add_memory(std::string_view("/sbin/init\0splash\0", 18)));
    worker = add_thread(init, "worker", 5);
    set(worker, "task_struct", style == Style::kOld ? "state" : "__state", std::uint32_t{2});
    kernel_thread = add_task("kworker/0:1", 17, 0);
    add_modules();
    add_mounts();
    add_files();
    add_sockets();
    put(symbol("Rsys_call_table"), kVirt + 16);
    put(symbol("Rsys_call_table") + 8, kVirt + 20);
    put(symbol("Rsys_call_table") + 16, std::uint64_t{0xffff'ffff'c000'1234});
    add_log();
  }

  std::uint64_t add_module(const std::string& name, std::uint64_t base, std::uint32_t bytes) {
    const std::uint64_t at = add("module"), first = at + 0x80;  // its parts
    memory.put_bytes(phys(at + offset("module", "name")), std::as_bytes(std::span(name.c_str(), name.size() + 1)));
    put(first, base);
    put(first + 8, bytes);
    put(first + (style() == Style::kOld ? 16 : 24), base + bytes);
    put(first + (style() == Style::kOld ? 24 : 32), std::uint32_t{4096});
    append(symbol("dmodules"), at + offset("module", "list"));
    return at;
  }
  std::uint64_t add_dentry(const std::string& name, std::uint64_t parent, bool deleted = false) {
    const std::uint64_t at = add("dentry");
    set(at, "dentry", "d_parent", parent == 0 ? at : parent);
    set(at, "dentry", "d_name.len", static_cast<std::uint32_t>(name.size()));
    set(at, "dentry", "d_name.name", add_text(name));
    set(at, "dentry", "d_hash.pprev", deleted ? std::uint64_t{0} : at);
    return at;
  }
  // Its root is the dentry `top`; it is on `point` of the mount `parent`, 0: on itself.
  std::uint64_t add_mount(const std::string& device, const std::string& type, std::uint64_t top, std::uint64_t parent,
                          std::uint64_t point) {
    const std::uint64_t at = add("mount"), superblock = add("super_block"), kind = add("file_system_type");
    set(kind, "file_system_type", "name", add_text(type));
    set(superblock, "super_block", "s_type", kind);
    set(at, "mount", "mnt.mnt_root", top);
    set(at, "mount", "mnt.mnt_sb", superblock);
    set(at, "mount", "mnt_parent", parent == 0 ? at : parent);
    set(at, "mount", "mnt_mountpoint", point == 0 ? top : point);
    set(at, "mount", "mnt_devname", add_text(device));
    return at;
  }
  std::uint64_t add_file(std::uint64_t mount, std::uint64_t dentry, std::uint16_t mode, std::uint64_t number) {
    const std::uint64_t at = add("file"), inode = add("inode");
    set(inode, "inode", "i_mode", mode);
    set(inode, "inode", "i_ino", number);
    set(at, "file", "f_inode", inode);
    set(at, "file", "f_mode", std::uint32_t{3});
    set(at, "file", "f_path.mnt", mount + offset("mount", "mnt"));
    set(at, "file", "f_path.dentry", dentry);
    return at;
  }
  void open(unsigned fd, std::uint64_t file) { put(descriptors + fd * 8, file); }
  // Returns its struct sock.
  std::uint64_t add_socket(unsigned fd, std::uint16_t family, std::uint16_t type, std::uint16_t protocol, std::uint8_t state,
                           const std::string& structure = "sock") {
    const std::uint64_t file = add_file(socket_mount, socket_root, 0xc1ff, 1000 + fd), socket = add("socket"), sock = add(structure);
    set(file, "file", "private_data", socket);
    set(socket, "socket", "type", type);
    set(socket, "socket", "file", file);
    set(socket, "socket", "sk", sock);
    set(sock, "sock", "__sk_common.skc_family", family);
    set(sock, "sock", "__sk_common.skc_state", state);
    set(sock, "sock", "sk_protocol", protocol);
    open(fd, file);
    return sock;
  }
  void add_record(std::uint64_t number, std::uint64_t begin, const std::string& text) {
    const std::uint64_t at = descriptors_of_log + number % kRecords * 24, info = infos + number % kRecords * 88;
    std::uint64_t next = begin + (8 + text.size() + 7) / 8 * 8, block = begin % kLogBytes;
    if (begin / kLogBytes != next / kLogBytes) {
      next = next / kLogBytes * kLogBytes + (next - begin);
      block = 0;
    }
    put(at, number | std::uint64_t{2} << 62);
    put(at + 8, begin);
    put(at + 16, next);
    put(log_data + block, number);
    memory.put_bytes(phys(log_data + block + 8), std::as_bytes(std::span(text)));
    put(info, number);
    put(info + 8, number * 1'000'000'000);
    put(info + 16, static_cast<std::uint16_t>(text.size()));
    put(info + 19, std::uint8_t{6 << 5});
  }

  static constexpr std::uint64_t kRecords = 8, kLogBytes = 256;
  std::uint64_t init = 0, worker = 0, kernel_thread = 0, root_mount = 0, root = 0, data_mount = 0, socket_mount = 0, socket_root = 0;
  std::uint64_t name_space = 0, descriptors = 0, log_ring = 0, descriptors_of_log = 0, infos = 0, log_data = 0;

 private:
  void add_modules() {
    add_module("evdev", 0xffff'ffff'c000'0000, 8192);
    set(add_module("new", 0xffff'ffff'c010'0000, 4096), "module", "state", std::uint32_t{1});
  }

  void add_mounts() {
    root = add_dentry("/", 0);
    root_mount = add_mount("/dev/vda1", "ext4", root, 0, 0);
    data_mount = add_mount("a b", "tmpfs", add_dentry("/", 0), root_mount, add_dentry("data", add_dentry("mnt", root)));
    set(data_mount, "mount", "mnt.mnt_flags", std::uint32_t{0x40});
    const std::uint64_t other_root = add_dentry("/", 0), other = add_mount("proc", "proc", other_root, 0, 0);  // not below "/"
    name_space = add("mnt_namespace");
    if (style() == Style::kOld) {
      make_list(name_space + 0x20);
      for (const std::uint64_t mount : {root_mount, data_mount, other}) append(name_space + 0x20, mount + 0x50);
    } else {
      put(name_space + 0x20, data_mount + 0x50);
      put(data_mount + 0x50 + 16, root_mount + 0x50);
      put(data_mount + 0x50 + 8, other + 0x50);
    }
    const std::uint64_t proxy = add("nsproxy"), fs = add("fs_struct");
    set(proxy, "nsproxy", "mnt_ns", name_space);
    set(fs, "fs_struct", "root.mnt", root_mount + 0x20);
    set(fs, "fs_struct", "root.dentry", root);
    set(init, "task_struct", "nsproxy", proxy);
    set(init, "task_struct", "fs", fs);
  }

  void add_files() {
    const std::uint64_t files = add("files_struct"), table = add("fdtable");
    descriptors = add_bytes(64 * 8);
    set(init, "task_struct", "files", files);
    set(files, "files_struct", "fdt", table);
    set(table, "fdtable", "max_fds", std::uint32_t{64});
    set(table, "fdtable", "fd", descriptors);
    const std::uint64_t etc = add_dentry("etc", root), data = get<std::uint64_t>(data_mount + offset("mount", "mnt.mnt_root"));
    const auto internal = [&](const std::string& type) { return add_mount("none", type, add_dentry("/", 0), 0, 0); };
    open(0, add_file(root_mount, add_dentry("passwd", etc), 0x81a4, 10));
    open(1, add_file(data_mount, add_dentry("gone", data, true), 0x81a4, 11));
    open(2, add_file(internal("pipefs"), add_dentry("", 0), 0x1180, 12));
    open(3, add_file(internal("anon_inodefs"), add_dentry("[eventfd]", 0), 0x0180, 13));
    open(40, add_file(internal("tmpfs"), add_dentry("memfd:x", 0), 0x81ff, 14));
  }

  void add_sockets() {
    socket_root = add_dentry("", 0);
    socket_mount = add_mount("sockfs", "sockfs", socket_root, 0, 0);
    const std::uint64_t tcp = add_socket(50, 2, 1, 6, 1);
    set(tcp, "sock", "__sk_common.skc_rcv_saddr", std::uint32_t{0x0100'007f});
    set(tcp, "sock", "__sk_common.skc_daddr", std::uint32_t{0x0202'000a});
    set(tcp, "sock", "__sk_common.skc_num", std::uint16_t{7000});
    set(tcp, "sock", "__sk_common.skc_dport", std::uint16_t{0x5000});  // 80
    const std::uint64_t udp = add_socket(51, 10, 2, 17, 7);
    set(udp, "sock", "__sk_common.skc_v6_rcv_saddr", std::uint64_t{0x80fe});
    set(udp, "sock", "__sk_common.skc_num", std::uint16_t{53});
    const std::uint64_t listener = add_socket(52, 1, 1, 0, 10, "unix_sock");
    set(listener, "unix_sock", "addr", add_unix_address("/run/x"));
    const std::uint64_t client = add_socket(53, 1, 5, 0, 1, "unix_sock");
    set(client, "unix_sock", "addr", add_unix_address(std::string("\0hidden", 7)));
    set(client, "unix_sock", "peer", listener);
    set(add_socket(54, 16, 3, 15, 7, "netlink_sock"), "netlink_sock", "portid", std::uint32_t{99});
    const std::uint64_t packet = add_socket(55, 17, 3, 0, 7, "packet_sock");
    set(packet, "packet_sock", "num", std::uint16_t{0x0300});
    set(packet, "packet_sock", "ifindex", std::uint32_t{2});
  }

  std::uint64_t add_unix_address(const std::string& name) {
    const std::uint64_t at = add("unix_address");
    set(at, "unix_address", "len", static_cast<std::uint32_t>(2 + name.size()));
    memory.put_bytes(phys(at + 10), std::as_bytes(std::span(name)));
    return at;
  }

  void add_log() {
    log_ring = add("printk_ringbuffer");
    descriptors_of_log = add_bytes(kRecords * 24);
    infos = add_bytes(kRecords * 88);
    log_data = add_bytes(kLogBytes);
    put(symbol("dprb"), log_ring);
    put(log_ring, std::uint32_t{3});
    put(log_ring + 8, descriptors_of_log);
    put(log_ring + 16, infos);
    put(log_ring + 24, std::uint64_t{12});
    put(log_ring + 32, std::uint64_t{9});
    put(log_ring + 48, std::uint32_t{8});
    put(log_ring + 56, log_data);
    add_record(9, 480, "first");
    add_record(10, 496, "at the beginning, for it did not fit");
    add_record(11, 560, "third");
    add_record(12, 576, "not whole");
    put(descriptors_of_log + 12 % kRecords * 24, std::uint64_t{12});  // reserved
  }
};

}  // namespace mhv::introspection::testing
