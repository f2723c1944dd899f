#include "ctl/format.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace mhv::ctl {
namespace {

protocol::Checkpoint checkpoint() {
  protocol::Checkpoint c;
  c.set_id("0d4b6a9e-6f0f-4f0e-9d4c-0a1b2c3d4e5f");
  c.set_parent("9a2b6a9e-6f0f-4f0e-9d4c-0a1b2c3d4e5f");
  c.set_name("before-upgrade");
  c.set_guest("11111111-2222-3333-4444-555555555555");
  c.set_created_ns(1'767'225'600'000'000'000);
  c.set_state("available");
  c.set_epoch(7);
  c.set_ram_bytes(128u << 20);
  c.set_ram_stored_bytes(3'250'000);
  c.set_pages(1000);
  c.set_pages_stored(812);
  c.set_pause_us(3'640);
  c.set_device_state_bytes(97'000);
  c.set_current(true);
  auto& disk = *c.add_disks();
  disk.set_target("vda");
  disk.set_path("/srv/vm.qcow2");
  disk.set_format("qcow2");
  disk.set_snapshot("mhv-0d4b6a9e");
  auto& raw = *c.add_disks();
  raw.set_target("vdb");
  raw.set_path("/srv/data.raw");
  raw.set_format("raw");
  raw.set_note("raw holds no snapshots");
  auto& written = *c.add_disks();
  written.set_target("vdc");
  written.set_path("/srv/log.qcow2");
  written.set_format("qcow2");
  written.set_snapshot("mhv-0d4b6a9e");
  written.set_changed_bytes(128u << 10);
  return c;
}

TEST(Format, StatusIsATable) {
  protocol::StatusReply reply;
  reply.set_broker_alive(true);
  auto& guest = *reply.add_guests();
  guest.set_name("s1");
  guest.set_uuid("11111111-2222-3333-4444-555555555555");
  guest.set_state("attached");
  guest.mutable_options()->add_services("checkpoint");
  guest.set_checkpoints(3);
  guest.set_store_bytes(12'900'000);
  auto& other = *reply.add_guests();
  other.set_name("a-longer-name");
  other.set_uuid("66666666-2222-3333-4444-555555555555");
  other.set_state("failed");
  other.set_message("disk vda (raw) cannot be checkpointed");
  EXPECT_EQ(status_table(reply),
            "NAME           UUID                                  STATE     SERVICES    CHECKPOINTS  STORED    RESTARTS  MESSAGE\n"
            "s1             11111111-2222-3333-4444-555555555555  attached  checkpoint  3            12.3 MiB  0         -\n"
            "a-longer-name  66666666-2222-3333-4444-555555555555  failed    -           0            0 B       0         "
            "disk vda (raw) cannot be checkpointed\n");
}

TEST(Format, StatusSaysWhenTheBrokerIsAway) {
  EXPECT_EQ(status_table({}),
            "NAME  UUID  STATE  SERVICES  CHECKPOINTS  STORED  RESTARTS  MESSAGE\n"
            "mhv-broker does not answer: no guest can be attached\n"
            "  -> systemctl start mhv-broker\n");
}

TEST(Format, CheckpointsAreATable) {
  protocol::CheckpointListReply reply;
  *reply.add_checkpoints() = checkpoint();
  reply.set_more(true);
  EXPECT_EQ(
      checkpoint_table(reply),
      "   ID                                    NAME            PARENT    CREATED               STORED   PAGES  DISKS  PAUSE MS  STATE\n"
      "*  0d4b6a9e-6f0f-4f0e-9d4c-0a1b2c3d4e5f  before-upgrade  9a2b6a9e  2026-01-01 00:00:00Z  3.1 MiB  1000   2/3    3.6       "
      "available\n"
      "(more: --marker 0d4b6a9e-6f0f-4f0e-9d4c-0a1b2c3d4e5f)\n");
}

TEST(Format, OneCheckpointInFull) {
  EXPECT_EQ(checkpoint_details(checkpoint()),
            "id             0d4b6a9e-6f0f-4f0e-9d4c-0a1b2c3d4e5f\n"
            "name           before-upgrade\n"
            "guest          11111111-2222-3333-4444-555555555555\n"
            "parent         9a2b6a9e-6f0f-4f0e-9d4c-0a1b2c3d4e5f\n"
            "created        2026-01-01 00:00:00Z\n"
            "taken          on demand\n"
            "state          available\n"
            "current        yes\n"
            "epoch          7\n"
            "ram            128.0 MiB\n"
            "stored         3.1 MiB\n"
            "pages changed  1000\n"
            "pages stored   812\n"
            "device state   94.7 KiB\n"
            "pause          3.6 ms\n"
            "disk vda       /srv/vm.qcow2 (qcow2), snapshot mhv-0d4b6a9e\n"
            "disk vdb       /srv/data.raw (raw), no snapshot: raw holds no snapshots\n"
            "disk vdc       /srv/log.qcow2 (qcow2), snapshot mhv-0d4b6a9e and 128.0 KiB of changes\n");
}

TEST(Format, SelfTestAndVerify) {
  protocol::SelfTestReply test;
  test.set_kernel("6.18.0");
  auto& capability = *test.add_capabilities();
  capability.set_service("checkpoint");
  EXPECT_EQ(self_test_text(test), "kernel  6.18.0\ncheckpoint  not available: \n");
  protocol::VerifyReport report;
  report.set_checkpoints(2);
  report.set_records(10);
  EXPECT_EQ(verify_text(report), "2 checkpoints, 10 records, 0 B read: everything is whole\n");
  report.add_problems("segment 1: cut short");
  EXPECT_EQ(verify_text(report), "2 checkpoints, 10 records, 0 B read: 1 problems\n  segment 1: cut short\n");
}

TEST(Format, Repair) {
  protocol::RepairReport report;
  report.set_kept(3);
  EXPECT_EQ(repair_text(report), "nothing is damaged; 3 checkpoints are whole and were kept\n");
  report.add_problems("segment 1: 8 bytes are damaged");
  report.add_lost("u1");
  EXPECT_EQ(repair_text(report), "  segment 1: 8 bytes are damaged\nlost: checkpoint u1\n3 checkpoints are whole and were kept\n");
}

TEST(Format, StoreStat) {
  protocol::StoreStatReply stat;
  stat.set_pages(256);
  stat.set_saved_fraction(0.876);
  protocol::StoreEncoding& encoding = *stat.add_encodings();
  encoding.set_name("delta");
  encoding.set_contents(7);
  encoding.set_bytes(2048);
  const std::string text = store_stat_text(stat);
  EXPECT_NE(text.find("256 (1.0 MiB)"), std::string::npos) << text;
  EXPECT_NE(text.find("87%"), std::string::npos) << text;
  EXPECT_NE(text.find("delta     7         2.0 KiB"), std::string::npos) << text;
}

protocol::Alert alert() {
  protocol::Alert a;
  a.set_number(7);
  a.set_time_ns(1'767'225'600'000'000'000);
  a.set_layer("integrity");
  a.set_severity("critical");
  a.set_title("a syscall's entry leaves the kernel: \033[2J");
  a.set_detail(R"({"syscall":59})");
  return a;
}

TEST(Format, StatusShowsTheLayers) {
  protocol::GuestStatus guest;
  auto& ready = *guest.add_layers();
  ready.set_name("introspection");
  ready.set_version("1.0");
  ready.set_state("ready");
  ready.set_epochs(12);
  auto& failed = *guest.add_layers();
  failed.set_name("heat-map");
  failed.set_state("failed");
  failed.set_message("killed \033[31m");
  failed.set_alerts(1);
  failed.set_late(2);
  failed.set_restarts(3);
  const std::string text = status_details(guest);
  EXPECT_NE(text.find("layer introspection  ready, version 1.0, 12 epochs, 0 alerts\n"), std::string::npos) << text;
  EXPECT_NE(text.find("layer heat-map       failed, 0 epochs, 1 alerts, late 2 times, restarted 3 times: killed \\x1b[31m\n"),
            std::string::npos)
      << text;
}

TEST(Format, LayersAreATable) {
  protocol::LayerListReply reply;
  auto& layer = *reply.add_layers();
  layer.set_name("heat-map");
  layer.set_vendor("ACME\n");
  EXPECT_EQ(layer_table(reply),
            "NAME      VERSION  VENDOR\n"
            "heat-map  -        ACME\\x0a\n");
}

TEST(Format, AlertsAreATableAndLines) {
  protocol::AlertListReply reply;
  *reply.add_alerts() = alert();
  EXPECT_EQ(alert_table(reply),
            "NUMBER  TIME                  SEVERITY  LAYER      TITLE                                         DETAIL\n"
            "7       2026-01-01 00:00:00Z  critical  integrity  a syscall's entry leaves the kernel: \\x1b[2J  {\"syscall\":59}\n");
  EXPECT_EQ(alert_line(alert()),
            "7  2026-01-01 00:00:00Z  critical  integrity  a syscall's entry leaves the kernel: \\x1b[2J  {\"syscall\":59}\n");
}

TEST(Format, BytesAndProgress) {
  EXPECT_EQ(bytes_text(1023), "1023 B");
  EXPECT_EQ(bytes_text(1024), "1.0 KiB");
  EXPECT_EQ(bytes_text((1u << 20) - 1), "1.0 MiB");
  EXPECT_EQ(bytes_text(std::uint64_t{5} << 40), "5.0 TiB");
  protocol::Progress progress;
  progress.set_stage("copying memory");
  EXPECT_EQ(progress_text(progress), "copying memory");
  progress.set_total(8);
  progress.set_done(2);
  EXPECT_EQ(progress_text(progress), "copying memory 25%");
}

TEST(Json, IsOneLineWithNumbersAsNumbers) {
  protocol::CheckpointReply reply;
  *reply.mutable_checkpoint() = checkpoint();
  const std::string text = to_json(reply);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  const auto json = nlohmann::json::parse(text)["checkpoint"];
  EXPECT_EQ(json["pause_us"], 3640);
  EXPECT_EQ(json["created_ns"], 1'767'225'600'000'000'000);
  EXPECT_EQ(json["current"], true);
  EXPECT_EQ(json["automatic"], false);
  EXPECT_EQ(json["disks"][2]["changed_bytes"], 131072);
  EXPECT_EQ(json["disks"][1]["snapshot"], "");
  protocol::ServiceOptions options;
  options.set_checkpoint_disks(protocol::DISKS_BEST_EFFORT);
  EXPECT_EQ(nlohmann::json::parse(to_json(options))["checkpoint_disks"], "best-effort");
}

TEST(Json, MapsAreObjectsAndTheLineIsAscii) {
  protocol::ServiceOptions options;
  (*options.mutable_configurations())["integrity"] = R"({"on_finding":"hold"})";
  EXPECT_EQ(nlohmann::json::parse(to_json(options))["configurations"]["integrity"], R"({"on_finding":"hold"})");
  protocol::Alert said;
  said.set_title("\xc2\x9b\x7f\xff");
  EXPECT_NE(to_json(said).find(R"("title":"\u009b\u007f\ufffd")"), std::string::npos) << to_json(said);
}

TEST(Json, ErrorsSayTheirCode) {
  EXPECT_EQ(error_json(Error(Code::kNotFound, "no guest \"x\"", "look")),
            R"({"error":{"code":"not-found","message":"no guest \"x\"","hint":"look"}})");
}

}  // namespace
}  // namespace mhv::ctl
