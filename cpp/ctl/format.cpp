#include "ctl/format.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>

#include "client/client.h"
#include "ctl/escape.h"

namespace mhv::ctl {
namespace {

using Rows = std::vector<std::vector<std::string>>;

std::string or_dash(const std::string& text) { return text.empty() ? "-" : text; }

std::string join(const google::protobuf::RepeatedPtrField<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : ",") + part;
  return or_dash(out);
}

std::string tenths(double value, const char* unit) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.1f%s", value, unit);
  return text.data();
}

std::string pause_text(std::uint64_t microseconds) { return tenths(static_cast<double>(microseconds) / 1000, ""); }

std::string number_text(double number, const char* unit) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%g %s", number, unit);
  return text.data();
}

std::string layer_text(const protocol::LayerStatus& layer) {
  std::string out = escaped(layer.state());
  if (!layer.version().empty()) out += ", version " + escaped(layer.version());
  out += ", " + std::to_string(layer.epochs()) + " epochs, " + std::to_string(layer.alerts()) + " alerts";
  if (layer.late() > 0) out += ", late " + std::to_string(layer.late()) + " times";
  if (layer.restarts() > 0) out += ", restarted " + std::to_string(layer.restarts()) + " times";
  if (!layer.network_hold().empty()) out += ", holds the network (" + escaped(layer.network_hold()) + ")";
  return layer.message().empty() ? out : out + ": " + escaped(layer.message());
}

std::vector<std::string> alert_cells(const protocol::Alert& alert) {
  return {std::to_string(alert.number()), time_text(alert.time_ns()),      escaped(alert.severity()),
          escaped(alert.layer()),         or_dash(escaped(alert.title())), or_dash(escaped(alert.detail()))};
}

std::string disks_text(const protocol::Checkpoint& checkpoint) {
  int held = 0;
  for (const protocol::DiskPoint& disk : checkpoint.disks()) held += disk.snapshot().empty() ? 0 : 1;
  if (checkpoint.disks().empty()) return "-";
  return std::to_string(held) + "/" + std::to_string(checkpoint.disks_size());
}

// "name   value" lines.
std::string details(const Rows& rows) {
  std::size_t width = 0;
  for (const auto& row : rows) width = std::max(width, row[0].size());
  std::string out;
  for (const auto& row : rows) out += row[0] + std::string(width + 2 - row[0].size(), ' ') + or_dash(row[1]) + "\n";
  return out;
}

}  // namespace

std::string table(const std::vector<std::string>& header, const Rows& rows) {
  std::vector<std::size_t> widths;
  for (const std::string& cell : header) widths.push_back(cell.size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  const auto add = [&](const std::vector<std::string>& row) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - row[i].size() + 2, ' ');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  };
  add(header);
  for (const auto& row : rows) add(row);
  return out;
}

std::string status_table(const protocol::StatusReply& reply) {
  Rows rows;
  for (const protocol::GuestStatus& guest : reply.guests()) {
    rows.push_back({guest.name(), guest.uuid(), guest.state(), join(guest.options().services()), std::to_string(guest.checkpoints()),
                    bytes_text(guest.store_bytes()), std::to_string(guest.worker_restarts()), or_dash(guest.message())});
  }
  std::string out = table({"NAME", "UUID", "STATE", "SERVICES", "CHECKPOINTS", "STORED", "RESTARTS", "MESSAGE"}, rows);
  if (!reply.broker_alive()) out += "mhv-broker does not answer: no guest can be attached\n  -> systemctl start mhv-broker\n";
  return out;
}

std::string status_details(const protocol::GuestStatus& guest) {
  const protocol::ServiceOptions& options = guest.options();
  Rows rows{{"name", guest.name()},
            {"uuid", guest.uuid()},
            {"state", guest.state()},
            {"message", guest.message()},
            {"services", join(options.services())},
            {"interval", options.checkpoint_interval_s() > 0 ? number_text(options.checkpoint_interval_s(), "s") : "on demand"},
            {"overhead", options.checkpoint_interval_s() > 0 ? "at most " + number_text(options.checkpoint_overhead_max(), "%") : ""},
            {"keep", !options.checkpoint_keep_policy().empty() ? options.checkpoint_keep_policy()
                     : options.checkpoint_keep() == 0          ? "10 (default)"
                                                               : std::to_string(options.checkpoint_keep())},
            {"disks", client::disk_policy_name(options.checkpoint_disks())},
            {"accelerator", guest.accelerator()},
            {"monitor", guest.accelerator().empty() ? ""
                        : guest.own_monitor()       ? "own"
                                                    : "libvirt's"},
            {"ram", bytes_text(guest.ram_bytes())},
            {"epoch", std::to_string(guest.epoch())},
            {"paused", guest.paused_us() == 0 ? "" : pause_text(guest.paused_us()) + " ms since it was attached"},
            {"checkpoints", std::to_string(guest.checkpoints())},
            {"current", guest.current()},
            {"filling", guest.filling()},
            {"stored", bytes_text(guest.store_bytes())},
            {"qemu pid", guest.qemu_pid() == 0 ? "" : std::to_string(guest.qemu_pid())},
            {"worker pid", guest.worker_pid() == 0 ? "" : std::to_string(guest.worker_pid())},
            {"worker restarts", std::to_string(guest.worker_restarts())}};
  for (const protocol::LayerStatus& layer : guest.layers()) rows.push_back({"layer " + escaped(layer.name()), layer_text(layer)});
  return details(rows);
}

std::string checkpoint_table(const protocol::CheckpointListReply& reply) {
  Rows rows;
  for (const protocol::Checkpoint& c : reply.checkpoints()) {
    rows.push_back({c.current() ? "*" : "", c.id(), or_dash(c.name()), or_dash(c.parent()).substr(0, 8), time_text(c.created_ns()),
                    bytes_text(c.ram_stored_bytes()), std::to_string(c.pages()), disks_text(c), pause_text(c.pause_us()), c.state()});
  }
  std::string out = table({" ", "ID", "NAME", "PARENT", "CREATED", "STORED", "PAGES", "DISKS", "PAUSE MS", "STATE"}, rows);
  if (reply.more()) out += "(more: --marker " + reply.checkpoints(reply.checkpoints_size() - 1).id() + ")\n";
  return out;
}

std::string checkpoint_details(const protocol::Checkpoint& c) {
  Rows rows{{"id", c.id()},
            {"name", c.name()},
            {"guest", c.guest()},
            {"parent", c.parent()},
            {"created", time_text(c.created_ns())},
            {"taken", c.automatic() ? "by the interval" : "on demand"},
            {"state", c.state()},
            {"current", c.current() ? "yes" : "no"},
            {"epoch", std::to_string(c.epoch())},
            {"ram", bytes_text(c.ram_bytes())},
            {"stored", bytes_text(c.ram_stored_bytes())},
            {"pages changed", std::to_string(c.pages())},
            {"pages stored", std::to_string(c.pages_stored())},
            {"device state", bytes_text(c.device_state_bytes())},
            {"pause", pause_text(c.pause_us()) + " ms"}};
  for (const protocol::DiskPoint& disk : c.disks()) {
    std::string held = disk.snapshot().empty() ? "no snapshot: " + or_dash(disk.note()) : "snapshot " + disk.snapshot();
    if (disk.changed_bytes() != 0) held += " and " + bytes_text(disk.changed_bytes()) + " of changes";
    rows.push_back({"disk " + disk.target(), disk.path() + " (" + disk.format() + "), " + held});
  }
  return details(rows);
}

std::string self_test_text(const protocol::SelfTestReply& reply) {
  std::string out = "kernel  " + or_dash(reply.kernel()) + "\n";
  for (const protocol::Capability& capability : reply.capabilities()) {
    out += capability.service() + "  " + (capability.available() ? "available" : "not available: " + capability.reason()) + "\n";
  }
  return out;
}

std::string verify_text(const protocol::VerifyReport& report) {
  std::string out = std::to_string(report.checkpoints()) + " checkpoints, " + std::to_string(report.records()) + " records, " +
                    bytes_text(report.bytes()) + " read: ";
  if (report.problems().empty()) return out + "everything is whole\n";
  out += std::to_string(report.problems_size()) + " problems\n";
  for (const std::string& problem : report.problems()) out += "  " + problem + "\n";
  return out;
}

std::string repair_text(const protocol::RepairReport& report) {
  std::string out;
  for (const std::string& problem : report.problems()) out += "  " + problem + "\n";
  for (const std::string& id : report.lost()) out += "lost: checkpoint " + id + "\n";
  const std::string kept = std::to_string(report.kept()) + " checkpoints are whole and were kept\n";
  return report.problems().empty() ? "nothing is damaged; " + kept : out + kept;
}

std::string store_stat_text(const protocol::StoreStatReply& stat) {
  std::string out = details({{"checkpoints", std::to_string(stat.checkpoints())},
                             {"deleted, still needed", std::to_string(stat.links())},
                             {"changed pages", std::to_string(stat.pages()) + " (" + bytes_text(stat.pages() * 4096) + ")"},
                             {"on the disk", bytes_text(stat.bytes()) + " in " + std::to_string(stat.segments()) + " segments"},
                             {"saved", std::to_string(static_cast<int>(stat.saved_fraction() * 100)) + "%"},
                             {"contents", std::to_string(stat.contents())}});
  Rows rows;
  for (const protocol::StoreEncoding& one : stat.encodings()) {
    rows.push_back({one.name(), std::to_string(one.contents()), bytes_text(one.bytes())});
  }
  return out + table({"ENCODING", "CONTENTS", "STORED"}, rows);
}

std::string layer_table(const protocol::LayerListReply& reply) {
  Rows rows;
  for (const protocol::LayerInfo& layer : reply.layers()) {
    rows.push_back({escaped(layer.name()), or_dash(escaped(layer.version())), or_dash(escaped(layer.vendor()))});
  }
  return table({"NAME", "VERSION", "VENDOR"}, rows);
}

std::string alert_table(const protocol::AlertListReply& reply) {
  Rows rows;
  for (const protocol::Alert& alert : reply.alerts()) rows.push_back(alert_cells(alert));
  return table({"NUMBER", "TIME", "SEVERITY", "LAYER", "TITLE", "DETAIL"}, rows);
}

std::string alert_line(const protocol::Alert& alert) {
  std::string out;
  for (const std::string& cell : alert_cells(alert)) out += (out.empty() ? "" : "  ") + cell;
  return out + "\n";
}

std::string bytes_text(std::uint64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits{" KiB", " MiB", " GiB", " TiB", " PiB"};
  if (bytes < 1024) return std::to_string(bytes) + " B";
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  while (value >= 1023.95 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return tenths(value, kUnits[unit]);
}

std::string time_text(std::int64_t ns_since_1970) {
  const std::time_t seconds = ns_since_1970 / 1'000'000'000;
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  std::array<char, 64> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%SZ", &utc);
  return text.data();
}

std::string progress_text(const protocol::Progress& progress) {
  if (progress.total() == 0) return progress.stage();
  return progress.stage() + " " + std::to_string(std::min(progress.done(), progress.total()) * 100 / progress.total()) + "%";
}

}  // namespace mhv::ctl
