#include "stack/packet_book.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/code_of_test.h"

namespace mhv::stack {
namespace {

using ring::Decision;

std::vector<std::byte> verdict(std::uint64_t number, std::uint32_t decision, std::size_t frame = 0) {
  const ring::Verdict head{number, decision, static_cast<std::uint32_t>(frame)};
  std::vector<std::byte> out(sizeof head + frame, std::byte{7});
  std::memcpy(out.data(), &head, sizeof head);
  return out;
}
std::vector<std::byte> verdict(std::uint64_t number, Decision decision, std::size_t frame = 0) {
  return verdict(number, static_cast<std::uint32_t>(decision), frame);
}

PacketBook book_of(NetworkClaim claim, std::uint64_t packets = 3) {
  PacketBook book(claim);
  for (std::uint64_t i = 1; i <= packets; ++i) EXPECT_EQ(book.add({5, 100 + i}, PacketBook::Clock::time_point(std::chrono::seconds(i))), i);
  return book;
}

TEST(PacketBook, KnowsWhatAVerdictIsAbout) {
  PacketBook book = book_of(NetworkClaim::kDrop);
  auto said = book.settle(verdict(2, Decision::kPass));
  ASSERT_TRUE(said);
  EXPECT_EQ(said->about, (PacketToken{5, 102}));
  EXPECT_EQ(said->decision, Decision::kPass);
  said = book.settle(verdict(1, Decision::kReplace, 60));
  ASSERT_TRUE(said);
  EXPECT_EQ(said->frame.size(), 60u);
  EXPECT_FALSE(book.settle(verdict(1, Decision::kDrop)));  // decided already
  EXPECT_EQ(book.oldest(), PacketBook::Clock::time_point(std::chrono::seconds(3)));
  book.take_back(3);
  EXPECT_FALSE(book.oldest());
  EXPECT_FALSE(book.settle(verdict(3, Decision::kPass)));
}

TEST(PacketBook, WhatIsHeldIsDecidedLater) {
  PacketBook book = book_of(NetworkClaim::kDrop);
  EXPECT_EQ(book.settle(verdict(1, Decision::kHold))->decision, Decision::kHold);
  EXPECT_EQ(book.settle(verdict(2, Decision::kHold))->decision, Decision::kHold);
  EXPECT_EQ(book.oldest(), PacketBook::Clock::time_point(std::chrono::seconds(3)));  // those have an answer
  EXPECT_FALSE(book.settle(verdict(1, Decision::kHold)));
  EXPECT_EQ(book.settle(verdict(1, Decision::kPass))->about, (PacketToken{5, 101}));
  EXPECT_FALSE(book.settle(verdict(1, Decision::kPass)));
  EXPECT_EQ(code_of([&] { book.settle(verdict(2, Decision::kReplace, 60)); }), Code::kInvalid);
  EXPECT_EQ(book.settle(verdict(2, Decision::kDrop))->about, (PacketToken{5, 102}));
}

TEST(PacketBook, AClaimAllowsWhatItSays) {
  const std::vector<std::pair<NetworkClaim, std::size_t>> cases{
      {NetworkClaim::kSee, 1}, {NetworkClaim::kHold, 2}, {NetworkClaim::kDrop, 4}};
  const std::vector<std::vector<std::byte>> verdicts{verdict(1, Decision::kPass), verdict(1, Decision::kHold), verdict(1, Decision::kDrop),
                                                     verdict(1, Decision::kReplace, 60)};
  for (const auto& [claim, allowed] : cases) {
    for (std::size_t i = 0; i < verdicts.size(); ++i) {
      PacketBook book = book_of(claim);
      if (i < allowed) {
        EXPECT_TRUE(book.settle(verdicts[i]));
      } else {
        EXPECT_EQ(code_of([&] { book.settle(verdicts[i]); }), Code::kPermission) << name_of(claim) << " " << i;
      }
    }
  }
}

TEST(PacketBook, LiesAreRefused) {
  const std::vector<std::vector<std::byte>> lies{
      {},
      std::vector<std::byte>(15),
      verdict(0, Decision::kPass),
      verdict(4, Decision::kPass),
      verdict(~0ull, Decision::kPass),
      verdict(1, 4),
      verdict(1, ~0u),
      verdict(1, Decision::kPass, 1),
      verdict(1, Decision::kReplace),
      verdict(1, Decision::kReplace, kFrameMin - 1),
      verdict(1, Decision::kReplace, kFrameMax + 1),
  };
  PacketBook book = book_of(NetworkClaim::kDrop);
  for (const auto& lie : lies) EXPECT_EQ(code_of([&] { book.settle(lie); }), Code::kInvalid) << lie.size();
  auto short_of_a_byte = verdict(1, Decision::kReplace, 60);
  short_of_a_byte.pop_back();
  EXPECT_EQ(code_of([&] { book.settle(short_of_a_byte); }), Code::kInvalid);
  EXPECT_TRUE(book.settle(verdict(1, Decision::kReplace, kFrameMax)));
}

TEST(PacketBook, IsBounded) {
  PacketBook book = book_of(NetworkClaim::kHold, kPacketsOpenMax);
  EXPECT_FALSE(book.add({}, {}));
  EXPECT_TRUE(book.settle(verdict(1, Decision::kHold)));
  EXPECT_FALSE(book.add({}, {}));
  EXPECT_TRUE(book.settle(verdict(1, Decision::kPass)));
  EXPECT_TRUE(book.add({}, {}));
}

}  // namespace
}  // namespace mhv::stack
