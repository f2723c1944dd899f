// A layer's program beside a recorded guest: the store of its checkpoints is the recording, and each checkpoint an epoch. For those who
// write layers; no host, guest or cloud is needed, and the program runs without a sandbox, as whoever calls this.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace mhv::replay {

struct Question {
  std::string method;
  std::string arguments = "{}";  // JSON
};

struct Options {
  std::string package;        // folder with manifest.json and the program
  std::string recording;      // folder of a store that nobody else has open
  std::string configuration;  // JSON; "": what the manifest says
  std::vector<Question> at_the_end;
};

// What happens, in order: {"epoch": N, "checkpoint", "written_pages"}, {"alert": {"severity", "title", "detail"}}, {"event": {...}},
// {"wish": {"action", "reason", ["before_ns"]}} (which nobody carries out), {"answer": {"method", "result"}}.
using Say = std::function<void(const nlohmann::ordered_json&)>;

// Throws what is wrong with the package, its configuration or the recording; kUnavailable: the layer ended, or is silent for a minute;
// and what a question is answered with when that is an error. `say` is called by several threads, by one at a time.
void run(const Options& options, const Say& say);

}  // namespace mhv::replay
