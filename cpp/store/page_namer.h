// The names of contents.
//
// A name is the AES-128-GMAC of the page under a secret of the store's own (random, kept in CATALOG and in every segment's header),
// with one nonce for all. Why not SHA-256: with SHA-NI it takes 3.4 us a page beside 1.0, and a restore checks every
// page. Why it is safe: GMAC under one nonce is a polynomial hash with a secret point (Carter and Wegman). For any two pages that were
// chosen without knowing it, names are equal with a probability of at most 257 / 2^128, which no computing power changes; for
// all pairs of 2^32 contents together less than 2^-57. The guest never sees a name, and a store holds one guest: who reads the
// secret off the disk could forge collisions, and would damage only himself.
//
// In an encrypted store, names stand in the clear while contents do not, and a bare GMAC under one nonce would betray them: from a few
// pages that he knows and their names, the reader of a disk could work out the secret point, and then try whether some page is there. So
// the name is that GMAC, enciphered with AES-256 under a second secret: a universal hash under a pseudorandom permutation, which shows
// nothing but whether two contents are the same. Both secrets are derived from the key, and are not on the disk.
#pragma once

#include <optional>

#include "store/sealing.h"

namespace mhv::store {

bool is_zero(std::span<const std::byte, kPageSize> page);

// Thread-safe.
class PageNamer {
 public:
  explicit PageNamer(const NameSecrets& secrets);
  PageKey operator()(std::span<const std::byte, kPageSize> page) const;

 private:
  const CipherPool hash_;
  std::optional<CipherPool> cover_;
};

}  // namespace mhv::store
