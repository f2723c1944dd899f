#include "ctl/layer_run.h"

#include <cstdlib>
#include <filesystem>
#include <memory>

#include "ctl/layer_record.h"
#include "replay/replay.h"

namespace mhv::ctl {
namespace {

struct Rehearsal {
  replay::Options options;
  RecordOptions recording;
  std::vector<std::string> calls;
};

// METHOD or METHOD={...}
replay::Question question_of(const std::string& text) {
  const std::size_t equals = text.find('=');
  return equals == std::string::npos ? replay::Question{text} : replay::Question{text.substr(0, equals), text.substr(equals + 1)};
}

// The module that a program in Python imports, where mhvd would take it from; the caller's own comes first.
void offer_python() {
  std::error_code error;
  const auto folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "python";
  if (!std::filesystem::is_directory(folder, error)) return;
  const char* const own = std::getenv("PYTHONPATH");
  ::setenv("PYTHONPATH", (own == nullptr ? folder.string() : std::string(own) + ":" + folder.string()).c_str(), 1);
}

int run_layer(Session& session, const Rehearsal& asked) {
  replay::Options options = asked.options;
  if (!asked.recording.guest.empty()) {
    RecordOptions recording = asked.recording;
    recording.recording = options.recording;
    record(session, recording);
  }
  offer_python();
  options.package = std::filesystem::absolute(options.package).string();
  for (const std::string& call : asked.calls) options.at_the_end.push_back(question_of(call));
  replay::run(options, [&](const nlohmann::ordered_json& what) {
    session.print(what.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
  });
  return 0;
}

}  // namespace

void add_layer_run_command(CLI::App& layer, Action& chosen) {
  const auto asked = std::make_shared<Rehearsal>();
  CLI::App& command = *layer.add_subcommand(
      "run", "run a package's program beside a recorded guest, without a sandbox; what it says comes as lines of JSON");
  command.add_option("FOLDER", asked->options.package, "with manifest.json and the program")->required()->check(CLI::ExistingDirectory);
  command.add_option("--replay", asked->options.recording, "copy of the store of a guest's checkpoints: each of them is an epoch")
      ->required();
  CLI::Option* const guest = command.add_option("--record", asked->recording.guest,
                                                "make it first, of this guest, which has no services and is left so; on its host, as root");
  command.add_option("--epochs", asked->recording.epochs, "how many checkpoints to record")
      ->needs(guest)
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command.add_option("--every", asked->recording.every_s, "seconds between them")
      ->needs(guest)
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  command.add_option("--state-dir", asked->recording.state_dir, "where mhvd keeps checkpoints")->needs(guest)->capture_default_str();
  command.add_option("--configure", asked->options.configuration, "what a tenant would set, a JSON object");
  command.add_option("--call", asked->calls, "what to ask at the end, METHOD or METHOD={ARGUMENTS}; may be repeated");
  command.callback([asked, &chosen] { chosen = [asked](Session& session) { return run_layer(session, *asked); }; });
}

}  // namespace mhv::ctl
