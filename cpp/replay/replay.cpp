#include "replay/replay.h"

#include <fcntl.h>
#include <poll.h>

#include <array>
#include <future>
#include <mutex>

#include "base/error.h"
#include "replay/recorded_guest.h"
#include "stack/charter.h"
#include "stack/layer_process.h"

namespace mhv::replay {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;
using namespace std::chrono_literals;

constexpr int kMemoryDescriptor = 6;  // behind the channel and what wakes
constexpr auto kSilent = 1min;

Json parse(const std::string& text) {
  Json out = Json::parse(text, nullptr, false);
  return out.is_discarded() ? Json(text) : out;
}

class Replay {
 public:
  Replay(const Options& options, const Say& say)
      : options_(options),
        say_(say),
        manifest_(stack::parse_manifest(read_file(options.package + "/manifest.json", stack::kManifestMax))),
        configuration_(manifest_.configuration.check(options.configuration.empty() ? "{}" : options.configuration)),
        guest_(std::make_shared<RecordedGuest>(options.recording)) {
    start();
  }

  void run() {
    wait("does not get ready", [&] { return layer_->counts().ready; });
    for (std::uint64_t number = 1; guest_->next(); ++number) {
      tell(Json{{"epoch", number}, {"checkpoint", guest_->checkpoint().id}, {"written_pages", guest_->written_pages()}});
      stack::EpochFacts facts;
      facts.number = number;
      facts.time_ns = static_cast<std::uint64_t>(guest_->checkpoint().created_ns);
      facts.vcpus = guest_->vcpus();
      facts.written = guest_->written();
      facts.written_all = guest_->written_all();
      layer_->epoch(facts);
      wait("does not finish an epoch", [&] { return layer_->counts().epochs == number; });
    }
    for (const Question& question : options_.at_the_end) ask(question);
  }

 private:
  void start() {
    stack::Charter charter = stack::charter_of(manifest_, configuration_);
    charter.budget = kSilent;  // somebody may be looking at it with a debugger
    nlohmann::json hello{{"abi", ring::kAbi}, {"guest", "00000000-0000-4000-8000-000000000000"}, {"name", "recorded"}};
    hello["layer"] = manifest_.name;
    hello["configuration"] = nlohmann::json::parse(configuration_);
    hello["memory"] = charter.memory ? guest_->describe(kMemoryDescriptor) : nlohmann::json::array();
    ring::NewChannel channel = ring::make_channel();
    std::vector<Fd> fds;
    fds.push_back(std::move(channel.layer.memory));
    fds.push_back(std::move(channel.layer.wakes_me));
    fds.push_back(std::move(channel.layer.wakes_peer));
    if (charter.memory) fds.push_back(Fd::open("/proc/self/fd/" + std::to_string(guest_->file().get()), O_RDONLY));
    layer_.emplace(std::move(channel.engine), charter, hello.dump(), guest_, handlers());
    process_.emplace(options_.package + "/" + manifest_.program, std::vector<std::string>{}, fds);
  }

  stack::RunningLayer::Handlers handlers() {
    stack::RunningLayer::Handlers out;
    out.on_ready = [](const std::string&) {};
    out.on_alert = [this](const stack::RunningLayer::Alert& alert) {
      tell({{"alert", {{"severity", alert.severity}, {"title", alert.title}, {"detail", parse(alert.detail)}}}});
    };
    out.on_event = [this](const std::string& event) { tell({{"event", parse(event)}}); };
    out.on_ask = [this](const stack::RunningLayer::Wish& wish) {
      Json said{{"action", wish.action}, {"reason", wish.reason}};
      if (wish.before_ns != 0) said["before_ns"] = wish.before_ns;
      tell({{"wish", said}});
    };
    out.on_end = [this](const std::string& why) {
      const std::lock_guard lock(mutex_);
      ended_ = why.empty() ? "it ended" : why;
    };
    return out;
  }

  void tell(const Json& what) {
    const std::lock_guard lock(saying_);
    say_(what);
  }

  template <typename Done>
  void wait(const char* silent, const Done& done) {
    for (const Clock::time_point until = Clock::now() + kSilent; !done();) {
      pollfd polled{process_->pidfd(), POLLIN, 0};
      if (::poll(&polled, 1, 1) == 1 && !done()) fail(process_->reap());
      {
        const std::lock_guard lock(mutex_);
        if (!ended_.empty()) fail(ended_);
      }
      if (Clock::now() > until) fail(silent);
    }
  }

  [[noreturn]] void fail(const std::string& why) const {
    throw Error(Code::kUnavailable, "layer " + manifest_.name + ": " + why, "what it printed is above");
  }

  void ask(const Question& question) {
    std::promise<std::string> answer;
    layer_->call(question.method, question.arguments, Clock::now() + kSilent, [&](const std::string* result, const Error* error) {
      if (error != nullptr) {
        answer.set_exception(std::make_exception_ptr(*error));
      } else {
        answer.set_value(*result);
      }
    });
    tell({{"answer", {{"method", question.method}, {"result", parse(answer.get_future().get())}}}});
  }

  const Options& options_;
  const Say& say_;
  const stack::Manifest manifest_;
  const std::string configuration_;
  const std::shared_ptr<RecordedGuest> guest_;
  std::mutex saying_, mutex_;
  std::string ended_;  // guarded by mutex_
  std::optional<stack::RunningLayer> layer_;
  std::optional<stack::LayerProcess> process_;
};

}  // namespace

void run(const Options& options, const Say& say) { Replay(options, say).run(); }

}  // namespace mhv::replay
