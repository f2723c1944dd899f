// What mhv-broker does for whoever may ask it.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "base/fd.h"

namespace mhv::protocol {
class BrokerRequest;
class BrokerReply;
}  // namespace mhv::protocol

namespace mhv::broker {

// Thread-safe.
class Answers {
 public:
  explicit Answers(std::string run_dir) : run_dir_(std::move(run_dir)) {}
  std::vector<Fd> operator()(const protocol::BrokerRequest& request, protocol::BrokerReply* reply, std::string* what);

 private:
  const std::string run_dir_;
  std::mutex injecting_;  // a thread can be traced once at a time
};

}  // namespace mhv::broker
