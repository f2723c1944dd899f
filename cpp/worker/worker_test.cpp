#include "worker/worker.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <thread>

#include "base/frame.h"

namespace mhv::worker {
namespace {

using Clock = engine::Clock;

class FakeService : public engine::Service {
 public:
  explicit FakeService(engine::Engine& engine) : engine_(engine) {}

  void configure(const protocol::ServiceOptions&) override {}
  bool dispatch(const protocol::Request& request, std::vector<Fd>&) override {
    if (request.body_case() != knows) return false;
    engine_.enqueue(request, [this] {
      protocol::Reply reply;
      reply.mutable_store_stat()->set_links(number);
      return reply;
    });
    return true;
  }
  void read_ahead(const std::string&) override {}
  void memory_up(const protocol::WorkerGuestUp&, guest::MissingPages) override {}
  void guest_up(guest::LiveGuest&, const protocol::WorkerGuestUp&) override {}
  void detach() override {}
  void guest_down() override {}
  void leave() override {}
  void forget() override {}
  void finish() noexcept override { finished = true; }
  Clock::time_point due() const override { return due_; }
  void tick() override {
    ++ticks;
    due_ = Clock::now();  // at once again
  }
  bool has_memory_to_come() const override { return false; }
  bool is_between_moments() const override { return false; }
  bool act(const std::string&, const std::string&, const std::string&, std::uint64_t) override { return false; }
  void add_status(protocol::GuestStatus& out) const override { out.set_checkpoints(out.checkpoints() + number); }

  void never_due() { due_ = Clock::time_point::max(); }

  std::uint32_t number = 0;
  protocol::Request::BodyCase knows = protocol::Request::BODY_NOT_SET;
  std::atomic<int> ticks = 0;
  std::atomic<bool> finished = false;

 private:
  engine::Engine& engine_;
  Clock::time_point due_;
};

class WorkerTest : public testing::Test {
 protected:
  void SetUp() override {
    std::array<int, 2> ends{};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    mhvd_ = Fd::own(ends[0]);
    control_.emplace(Fd::own(ends[1]));
    protocol::WorkerStart start;
    start.set_guest("5f0c3a52-1111-4222-8333-444455556666");
    start.set_name("s1");
    worker_.emplace(*control_, start);
    for (std::uint32_t i = 0; i < services_.size(); ++i) {
      auto service = std::make_unique<FakeService>(*worker_);
      service->number = 1U << i;
      services_[i] = service.get();
      worker_->add(std::move(service));
    }
  }
  void serve() {
    serving_ = std::thread([this] { worker_->serve(); });
  }
  void end() {
    ::shutdown(mhvd_.get(), SHUT_WR);
    serving_.join();
  }

  protocol::WorkerReport next(protocol::WorkerReport::BodyCase kind) {
    for (;;) {
      const auto frame = receive_frame(mhvd_.get());
      protocol::WorkerReport report;
      if (!frame || !report.ParseFromString(frame->payload)) throw Error(Code::kGone, "the worker ended");
      if (report.body_case() == kind) return report;
    }
  }
  protocol::Reply ask(protocol::Request request) {
    request.set_id(7);
    protocol::WorkerCommand command;
    *command.mutable_request() = std::move(request);
    send_frame(mhvd_.get(), command.SerializeAsString(), {});
    return next(protocol::WorkerReport::kReply).reply();
  }

  Fd mhvd_;
  std::optional<engine::Control> control_;
  std::optional<Worker> worker_;
  std::array<FakeService*, 2> services_{};
  std::thread serving_;
};

TEST_F(WorkerTest, ARequestGoesToTheServiceThatKnowsIt) {
  for (FakeService* service : services_) service->never_due();
  services_[1]->knows = protocol::Request::kStoreStat;
  serve();
  protocol::Request known, unknown;
  known.mutable_store_stat();
  unknown.mutable_store_repair();
  EXPECT_EQ(ask(known).store_stat().links(), 2U);
  EXPECT_EQ(ask(unknown).error().code(), static_cast<std::uint32_t>(Code::kInvalid));
  end();
  for (const FakeService* service : services_) EXPECT_TRUE(service->finished);
}

TEST_F(WorkerTest, StatusIsOfAllServices) {
  for (FakeService* service : services_) service->never_due();
  serve();
  EXPECT_EQ(next(protocol::WorkerReport::kStatus).status().checkpoints(), 3U);
  end();
}

TEST_F(WorkerTest, WhoIsAlwaysDueKeepsNobodyWaiting) {
  serve();
  for (const FakeService* service : services_) {
    while (service->ticks < 100) std::this_thread::yield();
  }
  protocol::Request release;
  release.mutable_release();
  EXPECT_TRUE(ask(release).has_done());
  end();
}

TEST_F(WorkerTest, WithoutAGuestWhatNeedsOneIsRefused) {
  EXPECT_THROW(worker_->require_live("checkpointed"), Error);
  EXPECT_FALSE(worker_->is_held());
  EXPECT_NO_THROW(worker_->refuse_while_held());
}

}  // namespace
}  // namespace mhv::worker
