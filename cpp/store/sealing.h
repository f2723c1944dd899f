// Encryption at rest: the keys of one store, and what is sealed with them.
//
//   guest's key -- salt of the store (FORMAT) --> store's key --+-- "check"                  told in FORMAT: a wrong key is known at once
//                                                               +-- "catalog"                CATALOG
//                                                               +-- "segment N" -- its salt  the records of segment N
//                                                               +-- "names", "names' cover"  names of contents (page_namer.h)
//   Each arrow is HKDF-SHA256 (keys/key.h). A salt is 16 random bytes that stand in the clear.
//
// To seal is to encipher and authenticate with AES-256-GCM: the tag of 16 bytes stands behind the ciphertext.
//
//             nonce (96 bits)                   authenticated with it, in the clear
//   record    its offset in the segment         what its header says before the checksum: magic, kind, length, key
//   CATALOG   random, before the ciphertext     what its header says before the checksum
//
// Why it is safe. GCM is broken by one nonce that seals two contents under one key, so the nonce of a record never depends on luck:
//
// INVARIANT: under the key of a segment, an offset is sealed once. A segment's salt is drawn when its file is begun, records are only ever
// put behind one another, and nothing is appended to a segment that another process began or of which anything was cut off
// (store/segments.h keeps this; store_proof_test.cpp looks at everything that is written).
//
// CATALOG is written about once a segment: 2^32 random nonces, after which their repetition has to be thought of, are never used up.
// A record that was moved to another place, another segment, or the segment of another store or guest does not open, and neither does
// one whose header says something else: kind, name of a page, number of a frame. So what opens is what was written there.
//
// What it does not do: sizes, counts, times of change, encodings, what is a patch of what and whether two records have one name can be
// seen; an older copy of the whole folder, or a log that lacks its end, passes for what it was. A machine whose memory is put back
// to an earlier moment (a snapshot of a virtual host) may use a nonce again, which two copies of the disk then show.
#pragma once

#include <memory>

#include "keys/key.h"
#include "store/cipher_pool.h"
#include "store/format.h"

namespace mhv::store {

// AES-256-GCM under one key. Thread-safe.
class Seal {
 public:
  using Nonce = std::array<std::uint8_t, 12>;
  explicit Seal(const keys::Key& key) : pool_("AES-256-GCM", key.bytes) {}

  // Writes plain.size() + kTagBytes bytes.
  void seal(const Nonce& nonce, std::span<const std::byte> clear, std::span<const std::byte> plain, std::byte* out) const;
  // False: it was not sealed here, or was altered since. `out`: sealed.size() - kTagBytes bytes, perhaps those of `sealed`; means
  // nothing when false.
  bool open(const Nonce& nonce, std::span<const std::byte> clear, std::span<const std::byte> sealed, std::byte* out) const;

 private:
  const CipherPool pool_;
};

// As serialize_record(), sealed: record_bytes(payload.size() + kTagBytes) bytes to `out`.
std::uint64_t serialize_sealed(Kind kind, const PageKey& key, std::span<const std::byte> payload, const Seal& seal, std::uint64_t offset,
                               std::byte* out);

// The payload as it was given to be stored. `seal`: of the segment, nullptr in a store that is not encrypted; where there is one, nothing
// counts but what it opens. `room`: at least record.payload.size() bytes, used when it is sealed; perhaps those of the payload itself.
std::optional<std::span<const std::byte>> open_record(const Record& record, const Seal* seal, std::uint64_t offset,
                                                      std::span<std::byte> room);

// The secrets that names of contents are made with.
struct NameSecrets {
  Secret hash{};
  std::optional<keys::Key> cover;  // of an encrypted store
};

// All keys of an encrypted store.
class StoreSeals {
 public:
  StoreSeals(const keys::Key& guest_key, const Secret& salt);
  Secret check() const;
  NameSecrets names() const;
  const Seal& catalog() const { return catalog_; }
  // Without its salt (the file is too short, say) it is a seal that opens nothing.
  std::shared_ptr<const Seal> segment(std::uint32_t number, const Secret& salt) const;

 private:
  const keys::Key key_;
  const Seal catalog_;
};

}  // namespace mhv::store
