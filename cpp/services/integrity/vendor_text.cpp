#include "integrity/vendor_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/error.h"

namespace mhv::integrity {
namespace {

constexpr std::uint64_t kMovedMax = 1u << 30;  // of all that KASLR may do
constexpr std::size_t kTogether = 1u << 20;
constexpr std::size_t kShown = 16;

std::uint64_t distance_of(const Kernel& kernel, const VendorImage& image) {
  const GuestVirt there = kernel.symbol("_stext");
  const auto linked = image.find("_stext");
  const std::uint64_t moved = linked ? there.value - linked->value : kMovedMax;
  if (moved >= kMovedMax) {
    throw Error(Code::kUnsupported, "the guest's kernel is not where its vendor's can be: _stext is at " + hex(there.value),
                "its symbols were tampered with");
  }
  return moved;
}

// Linux 6.2 and later, on a processor that needs it and with retbleed=stuff: each call leads to code before its function.
void refuse_counted_calls(const Kernel& kernel) {
  const auto counting = kernel.symbols().find("thunks_initialized");
  Reader reader(kernel);
  if (counting && reader.get<std::uint8_t>(*counting).value_or(0) != 0) {
    throw Error(Code::kUnsupported, "the guest's kernel counts its calls (retbleed=stuff): it has other calls everywhere than its vendor's",
                "start it with another mitigation of Retbleed");
  }
}

std::string hex_bytes(std::span<const std::byte> bytes) {
  std::string out;
  for (const std::byte one : bytes.first(std::min(bytes.size(), kShown))) out += fmt::format("{:02x}", std::to_integer<unsigned>(one));
  return out;
}

}  // namespace

VendorText::VendorText(const Kernel& kernel, std::shared_ptr<const VendorImage> image)
    : image_(std::move(image)), match_(std::in_place, *image_, distance_of(kernel, *image_)), sites_(match_->sites().size()) {
  refuse_counted_calls(kernel);
}

std::vector<VendorText::Piece> VendorText::pieces() const {
  const auto& text = match_->text();
  std::vector<Piece> out;
  LinkedAt end = text.at;  // of what is in a piece
  const auto add = [&](LinkedAt until) {
    for (; end < until; end = out.back().at + out.back().bytes) out.push_back({end, std::min<std::uint64_t>(until - end, kGranule)});
  };
  for (const VendorSite& site : match_->sites()) {
    if (!text.has(site.at)) continue;
    if (site.at >= end || out.empty()) {
      add(site.at);
      out.push_back({site.at, site.bytes});
    } else {
      out.back().bytes = std::max<std::uint64_t>(out.back().bytes, site.at + site.bytes - out.back().at);
    }
    end = out.back().at + out.back().bytes;
  }
  add(text.at + text.bytes.size());
  return out;
}

// As Measured does it, of what an administrator's probes changed.
void VendorText::undo(std::span<const Probe> probes, LinkedAt at, std::span<std::byte> bytes) const {
  constexpr std::byte kInt3{0xcc}, kJump{0xe9};
  for (const Probe& probe : probes) {
    const std::uint64_t place = match_->linked(probe.at) - at;
    if (probe.by_ftrace || place >= bytes.size() || (bytes[place] != kInt3 && bytes[place] != kJump)) continue;
    const std::size_t count = bytes[place] == kJump ? std::min<std::uint64_t>(probe.was.size(), bytes.size() - place) : 1;
    std::copy_n(probe.was.begin(), count, bytes.begin() + static_cast<std::ptrdiff_t>(place));
  }
}

void VendorText::compare(Reader& reader, SiteJudge& judge) {
  const auto& text = match_->text();
  std::vector<std::byte> now(text.bytes.size());
  for (std::size_t at = 0; at < now.size(); at += kTogether) {
    const GuestVirt from = match_->in_guest(text.at + at);
    if (!reader.read(from, std::span(now).subspan(at, std::min(kTogether, now.size() - at)))) {
      throw Error(Code::kBusy, "the guest's kernel has code where nothing can be read, near " + hex(from.value), "try again");
    }
  }
  wrong_.clear();
  for (const Piece& piece : pieces()) {
    if (!match_->is_right(reader, judge, piece.at, std::span(now).subspan(piece.at - text.at, piece.bytes))) wrong_.push_back(piece);
  }
  if (wrong_.empty()) match_.reset();
}

void VendorText::check(Reader& reader, SiteJudge& judge, std::span<const Probe> probes, std::vector<Finding>& out) {
  std::set<std::string> told;
  for (const Piece& piece : wrong_) {
    std::vector<std::byte> now(piece.bytes);
    const bool there = reader.read(match_->in_guest(piece.at), now);
    undo(probes, piece.at, now);
    if ((there && match_->is_right(reader, judge, piece.at, now)) || out.size() >= kFindingsMax) continue;
    const auto vendors = match_->text().bytes.subspan(piece.at - match_->text().at, piece.bytes);
    const auto first = static_cast<std::size_t>(std::ranges::mismatch(now, vendors).in1 - now.begin()) % piece.bytes;
    const LinkedAt at = piece.at + first;
    const auto symbol = image_->symbols().before({at.value});
    const std::string name = symbol ? std::string(symbol->name) : hex(match_->in_guest(at).value);
    if (!told.insert(name).second) continue;
    out.push_back({"vendor_text", name,
                   fmt::format("{}+{:#x} is {}, and the vendor's is {}", name, symbol ? at.value - symbol->at.value : 0,
                               hex_bytes(std::span(now).subspan(first)), hex_bytes(vendors.subspan(first))),
                   match_->in_guest(at)});
  }
}

}  // namespace mhv::integrity
