// The parts of the format that are protocol buffers (manifest.proto): what is told about a checkpoint, and the tree.
#include "store/format_bytes.h"
#include "store/random.h"
#include "store/sealing.h"
#include "store_schema/manifest.pb.h"

namespace mhv::store {
namespace {

constexpr char kCatalogMagic[9] = "MHVCAT\r\n";

std::string keys_to_string(std::span<const PageKey> keys) {
  std::string out(keys.size() * sizeof(PageKey), '\0');
  if (!keys.empty()) std::memcpy(out.data(), keys.data(), out.size());
  return out;
}

std::vector<PageKey> keys_from(const std::string& text, std::uint64_t bytes, std::uint64_t bytes_max, const char* what) {
  if (bytes > bytes_max) corrupt(std::string(what) + " is too long");
  if (text.size() != (bytes + kPageSize - 1) / kPageSize * sizeof(PageKey)) corrupt(std::string(what) + " has the wrong length");
  std::vector<PageKey> out(text.size() / sizeof(PageKey));
  if (!out.empty()) std::memcpy(out.data(), text.data(), text.size());
  return out;
}

void set_ref(schema::Ref& out, const Ref& ref) {
  out.set_segment(ref.segment);
  out.set_offset(ref.offset);
  out.set_stored(ref.stored);
}

Ref ref_from(const schema::Ref& in) {
  if (in.segment() > kSegmentNumberMax || in.offset() > kSegmentBytesMax + kStoredMax || in.stored() == 0 || in.stored() > kStoredMax) {
    corrupt("a checkpoint's record has no possible place");
  }
  return {in.segment(), in.offset(), in.stored()};
}

void set_link(schema::Link& out, const Link& link) {
  out.set_id(link.id);
  out.set_parent(link.parent);
  out.set_sequence(link.sequence);
  out.set_created_ns(link.created_ns);
  out.set_automatic(link.automatic);
  out.set_hidden(link.hidden);
  out.set_walk(link.walk);
  out.set_entries_count(link.entries_count);
  out.set_pages_total(link.pages_total);
  set_ref(*out.mutable_info(), link.info);
  for (const Ref& ref : link.entries) set_ref(*out.add_entries(), ref);
  for (const Ref& ref : link.table) set_ref(*out.add_table(), ref);
}

Link link_from(const schema::Link& in) {
  Link link;
  link.id = in.id();
  link.parent = in.parent();
  if (!is_uuid(link.id)) corrupt("a checkpoint's id is not a UUID");
  if (!link.parent.empty() && !is_uuid(link.parent)) corrupt("a checkpoint's parent is not a UUID");
  if (link.parent == link.id) corrupt("a checkpoint is its own parent");
  link.sequence = in.sequence();
  link.created_ns = in.created_ns();
  link.automatic = in.automatic();
  link.hidden = in.hidden();
  link.walk = in.walk();
  link.entries_count = in.entries_count();
  link.pages_total = in.pages_total();
  if (link.pages_total > kEntriesMax) corrupt("a checkpoint's RAM blocks are too large");
  link.info = ref_from(in.info());
  for (const auto& ref : in.entries()) link.entries.push_back(ref_from(ref));
  for (const auto& ref : in.table()) link.table.push_back(ref_from(ref));
  return link;
}

}  // namespace

std::string serialize_info(const InfoRecord& record) {
  const CheckpointInfo& info = record.info;
  if (info.blocks.size() > kBlocksMax) throw Error(Code::kInvalid, "more than " + std::to_string(kBlocksMax) + " RAM blocks");
  if (info.disks.size() > kDisksMax) throw Error(Code::kInvalid, "more than " + std::to_string(kDisksMax) + " disks");
  schema::Info out;
  out.set_id(info.id);
  out.set_name(info.name);
  out.set_epoch(info.epoch);
  out.set_pause_us(info.pause_us);
  out.set_machine(info.machine);
  for (const BlockInfo& block : info.blocks) {
    auto* b = out.add_blocks();
    b->set_name(block.name);
    b->set_bytes(block.bytes);
    b->set_read_only(block.read_only);
  }
  for (const DiskInfo& disk : info.disks) {
    auto* d = out.add_disks();
    d->set_target(disk.target);
    d->set_path(disk.path);
    d->set_format(disk.format);
    d->set_snapshot(disk.snapshot);
    d->set_note(disk.note);
    d->set_changed_bytes(disk.changed_bytes);
  }
  out.set_pages(info.pages);
  out.set_pages_stored(info.pages_stored);
  out.set_bytes_stored(info.bytes_stored);
  out.set_device_state_bytes(info.device_state_bytes);
  out.set_device_state_keys(keys_to_string(record.device_state));
  out.set_domain_xml_bytes(record.domain_xml_bytes);
  out.set_domain_xml_keys(keys_to_string(record.domain_xml));
  std::string text;
  if (!out.SerializeToString(&text) || text.size() > kInfoBytesMax) {
    throw Error(Code::kInvalid,
                "what is told about the checkpoint (names, disks) is longer than " + std::to_string(kInfoBytesMax) + " bytes");
  }
  return text;
}

InfoRecord parse_info(std::span<const std::byte> payload) {
  schema::Info in;
  if (!in.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) corrupt("what is told about a checkpoint cannot be parsed");
  InfoRecord record;
  CheckpointInfo& info = record.info;
  info.id = in.id();
  info.name = in.name();
  info.epoch = in.epoch();
  info.pause_us = in.pause_us();
  info.machine = in.machine();
  if (in.blocks_size() > static_cast<int>(kBlocksMax)) corrupt("a checkpoint names too many RAM blocks");
  if (in.disks_size() > static_cast<int>(kDisksMax)) corrupt("a checkpoint names too many disks");
  for (const auto& b : in.blocks()) info.blocks.push_back({b.name(), b.bytes(), b.read_only()});
  if (pages_of(info.blocks) > kEntriesMax) corrupt("a checkpoint's RAM blocks are too large");
  for (const auto& d : in.disks()) info.disks.push_back({d.target(), d.path(), d.format(), d.snapshot(), d.note(), d.changed_bytes()});
  info.pages = in.pages();
  info.pages_stored = in.pages_stored();
  info.bytes_stored = in.bytes_stored();
  info.device_state_bytes = in.device_state_bytes();
  record.device_state = keys_from(in.device_state_keys(), in.device_state_bytes(), kDeviceStateBytesMax, "a checkpoint's device state");
  record.domain_xml_bytes = in.domain_xml_bytes();
  record.domain_xml = keys_from(in.domain_xml_keys(), in.domain_xml_bytes(), kDomainXmlBytesMax, "a checkpoint's domain XML");
  return record;
}

std::string serialize_transaction(const Transaction& transaction) {
  schema::Transaction out;
  for (const Link& link : transaction.put) set_link(*out.add_put(), link);
  for (const std::string& id : transaction.gone) out.add_gone(id);
  std::string text;
  if (!out.SerializeToString(&text) || text.size() >= kStoredMax - kTagBytes) {
    throw Error(Code::kInvalid, "one change of so many checkpoints is too large", "do it in several steps");
  }
  if (text.empty()) text.assign(2, '\0'), text[0] = 0x7a;  // no record is empty: field 15, of no bytes, which nobody reads
  return text;
}

Transaction parse_transaction(std::span<const std::byte> payload) {
  schema::Transaction in;
  if (!in.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) corrupt("a frame cannot be parsed");
  Transaction out;
  for (const auto& link : in.put()) out.put.push_back(link_from(link));
  for (const std::string& id : in.gone()) {
    if (!is_uuid(id)) corrupt("a frame names something that is no UUID");
    out.gone.push_back(id);
  }
  return out;
}

// ---- CATALOG

std::vector<std::byte> serialize_catalog(const Catalog& catalog, const Seal* seal) {
  schema::Catalog out;
  out.set_number(catalog.number);
  out.set_end_segment(catalog.end.segment);
  out.set_end_offset(catalog.end.offset);
  out.set_first_segment(catalog.first_segment);
  out.set_next_sequence(catalog.next_sequence);
  out.set_secret(catalog.secret.data(), catalog.secret.size());
  for (const Link& link : catalog.links) set_link(*out.add_links(), link);
  std::string text;
  if (!out.SerializeToString(&text) || text.size() > kCatalogBytesMax) throw Error(Code::kInternal, "the tree of checkpoints is too large");
  const auto plain = std::as_bytes(std::span(text));
  CatalogHeader header{};
  std::memcpy(header.magic, kCatalogMagic, 8);
  header.version = seal != nullptr ? kSealedVersion : kFormatVersion;
  header.bytes = plain.size() + (seal != nullptr ? sizeof(Seal::Nonce) + kTagBytes : 0);
  std::vector<std::byte> sealed;
  if (seal != nullptr) {
    const auto nonce = random_bytes<Seal::Nonce>();
    append(sealed, nonce);
    sealed.resize(header.bytes);
    seal->seal(nonce, unchecked(header), plain, sealed.data() + sizeof nonce);
  }
  const std::span<const std::byte> body = seal != nullptr ? sealed : plain;
  header.checksum = hash2(unchecked(header), body);
  std::vector<std::byte> bytes;
  bytes.reserve(2 * (sizeof header + body.size()));
  for (int copy = 0; copy < 2; ++copy) {
    append(bytes, header);
    bytes.insert(bytes.end(), body.begin(), body.end());
  }
  return bytes;
}

namespace {

std::span<const std::byte> catalog_payload(std::span<const std::byte> bytes, std::uint32_t version) {
  if (bytes.size() < sizeof(CatalogHeader)) corrupt("CATALOG is cut short");
  const auto header = load<CatalogHeader>(bytes);
  if (std::memcmp(header.magic, kCatalogMagic, 8) != 0) corrupt("not a CATALOG (wrong magic)");
  if (header.version != version && header.bytes == bytes.size() - sizeof header) check_version(header.version, version, "CATALOG");
  const auto payload = bytes.subspan(sizeof header);
  if (header.bytes != payload.size() || header.checksum != hash2(unchecked(header), payload)) corrupt("CATALOG is damaged");
  return payload;
}

Catalog catalog_from(std::span<const std::byte> bytes, const Seal* seal) {
  std::span<const std::byte> payload = catalog_payload(bytes, seal != nullptr ? kSealedVersion : kFormatVersion);
  std::vector<std::byte> plain;
  if (seal != nullptr) {
    if (payload.size() < sizeof(Seal::Nonce) + kTagBytes) corrupt("CATALOG is cut short");
    const auto header = load<CatalogHeader>(bytes);
    const auto sealed = payload.subspan(sizeof(Seal::Nonce));
    plain.resize(sealed.size() - kTagBytes);
    if (!seal->open(load<Seal::Nonce>(payload), unchecked(header), sealed, plain.data())) corrupt("CATALOG was altered");
    payload = plain;
  }
  schema::Catalog in;
  if (!in.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) corrupt("CATALOG cannot be parsed");
  Catalog out;
  out.number = in.number();
  out.end = {in.end_segment(), in.end_offset()};
  out.first_segment = in.first_segment();
  out.next_sequence = in.next_sequence();
  if (out.end.segment > kSegmentNumberMax || out.end.offset > kSegmentBytesMax + 2 * kStoredMax)
    corrupt("CATALOG ends at no possible place");
  if (in.secret().size() != out.secret.size()) corrupt("CATALOG has no secret");
  std::memcpy(out.secret.data(), in.secret().data(), out.secret.size());
  for (const auto& link : in.links()) out.links.push_back(link_from(link));
  return out;
}

}  // namespace

Catalog parse_catalog(std::span<const std::byte> bytes, const Seal* seal, std::string& damage) {
  if (bytes.size() > 2 * (kCatalogBytesMax + sizeof(CatalogHeader))) corrupt("CATALOG is too long");
  std::optional<Catalog> found;
  std::optional<Error> first;
  for (const auto copy : {bytes.first(bytes.size() / 2), bytes.subspan(bytes.size() / 2)}) {
    try {
      Catalog one = catalog_from(copy, seal);
      if (!found) found = std::move(one);
    } catch (const Error& error) {
      if (!first) first = error;
    }
  }
  if (!found) throw *first;
  if (first) damage = first->what();
  return std::move(*found);
}

}  // namespace mhv::store
