// The names of contents.
//
// A name is the AES-128-GMAC of the page under a secret of the store's own (random, kept in CATALOG and in every segment's header),
// with one nonce for all. Why not SHA-256: with SHA-NI it takes 3.4 us a page beside 1.0, and a restore checks every
// page. Why it is safe: GMAC under one nonce is a polynomial hash with a secret point (Carter and Wegman). For any two pages that were
// chosen without knowing it, names are equal with a probability of at most 257 / 2^128, which no computing power changes; for
// all pairs of 2^32 contents together less than 2^-57. The guest never sees a name, and a store holds one guest: who reads the
// secret off the disk could forge collisions, and would damage only himself.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "store/format.h"

namespace mhv::store {

bool is_zero(std::span<const std::byte, kPageSize> page);

// Thread-safe.
class PageNamer {
 public:
  explicit PageNamer(const Secret& secret);
  ~PageNamer();
  PageNamer(const PageNamer&) = delete;
  PageNamer& operator=(const PageNamer&) = delete;
  PageKey operator()(std::span<const std::byte, kPageSize> page) const;

 private:
  struct Context;
  struct Pool;
  const std::unique_ptr<Pool> pool_;
};

Secret random_secret();

}  // namespace mhv::store
