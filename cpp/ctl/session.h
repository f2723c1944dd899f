// What every command of mhvctl works with: mhvd, and standard output.
#pragma once

#include <functional>
#include <string>

#include "client/client.h"

namespace mhv::ctl {

// The options before and behind every command.
struct Globals {
  std::string socket = client::kDefaultSocket;
  std::string run_dir;
  bool json = false;
};

// One line on a terminal that is written over; nothing else gets progress.
class Progress {
 public:
  explicit Progress(bool wanted);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void operator()(const protocol::Progress& at);

 private:
  bool wanted_;
  bool shown_ = false;
};

// Nothing is sent before the first call: a command that needs no mhvd may leave it alone.
class Session {
 public:
  explicit Session(const Globals& globals);

  bool json() const { return json_; }
  client::Client& client() { return client_; }
  protocol::Reply call(protocol::Request request);  // shows progress; throws as Client::call does
  // Both return 0, the exit status.
  int print(const std::string& text);
  int done(const std::string& guest, const std::string& what);

 private:
  bool json_;
  client::Client client_;
};

// What a command line asks for; its result is the exit status.
using Action = std::function<int(Session&)>;

}  // namespace mhv::ctl
