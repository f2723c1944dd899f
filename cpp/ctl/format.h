// What mhvctl prints: replies as tables for people, and as one line of JSON for programs. Pure.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "mhv.pb.h"

namespace mhv::ctl {

// Columns are as wide as their widest cell, two blanks apart; no trailing blanks. No rows: the header alone.
std::string table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows);

std::string status_table(const protocol::StatusReply& reply);
std::string status_details(const protocol::GuestStatus& guest);
std::string checkpoint_table(const protocol::CheckpointListReply& reply);
std::string checkpoint_details(const protocol::Checkpoint& checkpoint);
std::string self_test_text(const protocol::SelfTestReply& reply);
std::string verify_text(const protocol::VerifyReport& report);

std::string repair_text(const protocol::RepairReport& report);
std::string store_stat_text(const protocol::StoreStatReply& stat);

// Layers and alerts: what a layer says is escaped (ctl/escape.h).
std::string layer_table(const protocol::LayerListReply& reply);
std::string alert_table(const protocol::AlertListReply& reply);
std::string alert_line(const protocol::Alert& alert);

std::string bytes_text(std::uint64_t bytes);                    // "12.3 MiB"
std::string time_text(std::int64_t ns_since_1970);              // "2026-01-31 12:00:00Z"
std::string progress_text(const protocol::Progress& progress);  // "copying memory 40%"

// One line; every field is there, numbers are numbers, an enum is its name in lower case ("best-effort").
std::string to_json(const google::protobuf::Message& message);
std::string error_json(const Error& error);  // {"error":{"code":"not-found","message":...,"hint":...}}

}  // namespace mhv::ctl
