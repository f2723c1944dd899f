#include "integrity/checker.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <tuple>

#include "base/error.h"
#include "integrity/code_map.h"
#include "integrity/cross_view.h"
#include "integrity/explain.h"
#include "integrity/hooks.h"
#include "integrity/inventory.h"
#include "integrity/pointers.h"
#include "integrity/processors.h"
#include "integrity/vendor_text.h"

namespace mhv::integrity {
namespace {

constexpr int kLooksAgain = 2;
constexpr std::uint64_t kModuleBytesMax = 256u << 20;  // of all that are measured

// The kernel writes to what is fixed later until its start is over.
void require_started(Reader& reader) {
  const std::int32_t running = reader.kernel().types().enumerator("system_states", "SYSTEM_RUNNING").value_or(3);  // 2 before Linux 5.16
  if (reader.get<std::int32_t>(reader.kernel().symbol("system_state")) == running) return;
  throw Error(Code::kBusy, "the guest's kernel has not finished its start, or is ending", "try again when it runs");
}

// At one place one may have gone and another have come, which has no number before its start is nearly over.
bool is_same(const Module& known, const Module& now) {
  if (known.name != now.name || known.text.start != now.text.start) return false;
  return known.serial == 0 || now.serial == 0 ? now.settled : known.serial == now.serial;
}

struct MeasuredModule {
  Module module;
  bool measured = false;
  std::vector<Measured> parts;  // the first is its text
};

}  // namespace

class Checker::Impl {
 public:
  Impl(const Kernel& kernel, std::span<const Registers> registers, std::shared_ptr<const VendorImage> vendor)
      : Impl(kernel, Reader(kernel), registers, std::move(vendor)) {}
  Impl(const Kernel& kernel, Reader reader, std::span<const Registers> registers, std::shared_ptr<const VendorImage> vendor)
      : kernel_(kernel),
        image_(started(reader)),
        processors_(reader, registers),
        pointers_(reader, image_),
        modules_(make<ModuleLists>("modules")),
        tasks_(make<TaskLists>("hidden processes")),
        slabs_(make<TaskSlabs>("processes that no list names")),
        netfilter_(make<NetfilterHooks>("netfilter's hooks")),
        ftrace_(make<FtraceOperations>("ftrace's operations")),
        proc_(make<ProcEntries>("/proc's entries")),
        probes_(make<Probes>("probes")) {
    CodeMap map(reader, image_);
    std::vector<Finding> notes;
    follow_modules(reader, map, notes);
    text_.emplace(reader, digester_, image_.text, kernel_sites(reader, map, image_));
    rodata_.emplace(reader, digester_, image_.rodata, std::vector<Site>{});
    for (const Probe& probe : list_probes(reader)) {
      if (!probe.is_ending) probed_.insert(probe.at);
    }
    if (vendor) compare_with_vendor(reader, map, std::move(vendor));
    std::vector<Finding> wrong;
    check_trusted(reader, map, wrong);
    was_wrong_ = !wrong.empty();
  }

  // What was seen in the middle of a change is gone when it is looked at again, with lists that are newer. What was told before needs none.
  std::vector<Finding> check(std::span<const Registers> registers, const Written* written) {
    if (slabs_) advance_slabs();
    std::vector<Finding> out = look(registers, written);
    for (int again = 0; again < kLooksAgain && has_news(out); ++again) keep_common(out, look(registers, written));
    told_.clear();
    for (const Finding& one : out) {
      if (one.alarm) told_.insert(key(one));
    }
    return out;
  }

  const std::vector<std::string>& unchecked() const { return unchecked_; }
  std::size_t measured_pages() const {
    std::size_t pages = text_->pages() + rodata_->pages();
    for (const auto& [at, module] : known_) {
      for (const Measured& part : module.parts) pages += part.pages();
    }
    return pages;
  }
  std::size_t measured_pointers() const { return pointers_.size(); }
  std::size_t vendor_sites() const { return vendor_ ? vendor_->sites() : 0; }

 private:
  using Key = std::tuple<std::string, std::string, GuestVirt>;
  static Key key(const Finding& one) { return {one.kind, one.subject, one.address}; }
  bool has_news(const std::vector<Finding>& found) const {
    return std::ranges::any_of(found, [&](const Finding& one) { return one.alarm && !told_.contains(key(one)); });
  }
  // Notes are those of both.
  static void keep_common(std::vector<Finding>& found, const std::vector<Finding>& again) {
    std::set<Key> there;
    for (const Finding& one : again) there.insert(key(one));
    std::erase_if(found, [&](const Finding& one) { return one.alarm && !there.contains(key(one)); });
    std::ranges::copy_if(again, std::back_inserter(found), [](const Finding& one) { return !one.alarm; });
  }

  std::vector<Finding> look(std::span<const Registers> registers, const Written* written) {
    Reader reader(kernel_);
    CodeMap map(reader, image_);
    SiteJudge judge(reader, map);
    std::vector<Finding> out;
    processors_.check(reader, image_, registers, out);
    follow_modules(reader, map, out);
    const std::vector<Probe> probes = list_probes(reader);
    check_measured(reader, map, judge, probes, written, out);
    for (const PointerTable::Changed& one : pointers_.check(reader, map, written)) {
      out.push_back({"function_pointer", describe_pointer(kernel_, one.at),
                     "leads to " + map.describe(one.is) + ", and led to " + describe_symbol(kernel_, one.was), one.at});
    }
    check_probes(probes, map, out);
    if (netfilter_) netfilter_->check(reader, map, out);
    if (ftrace_) ftrace_->check(reader, map, out);
    if (proc_) proc_->check(reader, map, out);
    if (tasks_) find_hidden_processes(kernel_, *tasks_, slabs_ ? &*slabs_ : nullptr, out);
    if (modules_) find_hidden_modules(kernel_, *modules_, out);
    if (was_wrong_) check_trusted(reader, map, out);
    if (vendor_) vendor_->check(reader, judge, probes, out);
    keep_once(out);
    return out;
  }

  void advance_slabs() {
    Reader reader(kernel_);
    slabs_->advance(reader);
  }

  static const Kernel& started(Reader& reader) {
    require_started(reader);
    return reader.kernel();
  }

  template <typename T>
  std::optional<T> make(const char* what) {
    try {
      return std::optional<T>(std::in_place, kernel_);
    } catch (const Error& error) {
      if (error.code() != Code::kUnsupported) throw;
      unchecked_.push_back(std::string(what) + ": " + error.what());
      return std::nullopt;
    }
  }

  // What no digest tells: it was so before.
  void check_trusted(Reader& reader, CodeMap& map, std::vector<Finding>& out) const {
    check_syscall_tables(reader, image_, map, out);
    check_operations(reader, image_, map, out);
  }
  void compare_with_vendor(Reader& reader, CodeMap& map, std::shared_ptr<const VendorImage> vendor);
  std::vector<Probe> list_probes(Reader& reader) const { return probes_ ? probes_->list(reader) : std::vector<Probe>{}; }
  void follow_modules(Reader& reader, CodeMap& map, std::vector<Finding>& out);
  bool is_listed(const Module& module) const;
  void measure(Reader& reader, CodeMap& map, MeasuredModule& known);
  void check_measured(Reader& reader, CodeMap& map, SiteJudge& judge, std::span<const Probe> probes, const Written* written,
                      std::vector<Finding>& out);
  void check_probes(std::span<const Probe> probes, const CodeMap& map, std::vector<Finding>& out);
  static void keep_once(std::vector<Finding>& out);

  const Kernel& kernel_;
  std::vector<std::string> unchecked_;
  Image image_;
  Digester digester_;
  Processors processors_;
  PointerTable pointers_;
  std::optional<ModuleLists> modules_;
  std::optional<TaskLists> tasks_;
  std::optional<TaskSlabs> slabs_;
  std::optional<NetfilterHooks> netfilter_;
  std::optional<FtraceOperations> ftrace_;
  std::optional<ProcEntries> proc_;
  std::optional<Probes> probes_;
  std::optional<Measured> text_, rodata_;
  std::optional<VendorText> vendor_;
  std::map<GuestVirt, MeasuredModule> known_;
  std::set<GuestVirt> probed_;
  std::set<Key> told_;  // by the last check
  bool was_wrong_ = false;
};

// An image that does not fit is no reason to check nothing.
void Checker::Impl::compare_with_vendor(Reader& reader, CodeMap& map, std::shared_ptr<const VendorImage> vendor) {
  try {
    SiteJudge judge(reader, map);
    vendor_.emplace(kernel_, std::move(vendor));
    vendor_->compare(reader, judge);
  } catch (const Error& error) {
    if (error.code() != Code::kUnsupported && error.code() != Code::kCorrupt) throw;
    unchecked_.push_back(std::string("the vendor's text: ") + error.what());
  }
}

void Checker::Impl::measure(Reader& reader, CodeMap& map, MeasuredModule& known) {
  std::uint64_t bytes = 0;
  for (const auto& [at, other] : known_) {
    for (const Measured& part : other.parts) bytes += part.range().bytes;
  }
  known.measured = true;
  for (const Range& range : known.module.fixed) {
    if (range.bytes == 0 || range.bytes > kModuleBytesMax - std::min(bytes, kModuleBytesMax)) continue;
    bytes += range.bytes;
    const bool text = range.start == known.module.text.start;
    try {
      known.parts.emplace_back(reader, digester_, range, text ? module_sites(reader, map, known.module) : std::vector<Site>{});
    } catch (const Error& error) {  // gone while it was read: it is tried again
      if (error.code() != Code::kBusy) throw;
      known.measured = false;
      known.parts.clear();
      return;
    }
  }
}

// A guest that runs may have taken it away meanwhile; while it is listed, its memory is there.
bool Checker::Impl::is_listed(const Module& module) const {
  Reader reader(kernel_);  // that remembers nothing of what was there before
  const auto listed = modules_->listed(reader);
  return !listed || std::ranges::any_of(*listed, [&](const Module& one) { return one.at == module.at && is_same(module, one); });
}

// A module is measured when its start is over. While the list does not hold together, what was known stays known.
void Checker::Impl::follow_modules(Reader& reader, CodeMap& map, std::vector<Finding>& out) {
  const auto listed = modules_ ? modules_->listed(reader) : std::nullopt;
  if (listed) {
    std::set<GuestVirt> there;
    for (const Module& module : *listed) {
      there.insert(module.at);
      MeasuredModule& known = known_[module.at];
      if (!is_same(known.module, module)) {
        if (known.measured) out.push_back({"module_unloaded", known.module.name, "", module.at, false});
        known = {module, false, {}};
      }
      if (!known.measured) known.module = module;
    }
    std::erase_if(known_, [&](const auto& one) {
      if (there.contains(one.first)) return false;
      if (one.second.measured) out.push_back({"module_unloaded", one.second.module.name, "", one.first, false});
      return true;
    });
  }
  std::vector<Module> all;
  for (const auto& [at, known] : known_) all.push_back(known.module);
  map.set_modules(all);
  for (auto& [at, known] : known_) {
    if (known.measured || !known.module.settled) continue;
    measure(reader, map, known);
    if (known.measured)
      out.push_back({"module_loaded", known.module.name, std::to_string(known.module.text.bytes) + " bytes of code", at, false});
  }
}

void Checker::Impl::check_measured(Reader& reader, CodeMap& map, SiteJudge& judge, std::span<const Probe> probes, const Written* written,
                                   std::vector<Finding>& out) {
  Explainer explain(reader, map, pointers_, out);
  // Each time with lists that are as new as the memory.
  const auto look = [&](Measured& part) {
    Changes changes = part.check(reader, digester_, judge, probes, written);
    for (int again = 0; again < kLooksAgain && !changes.empty(); ++again) {
      map.forget_made();
      changes = part.check_again(reader, digester_, judge, list_probes(reader));
    }
    return changes;
  };
  explain.kernel_text(look(*text_), judge);
  explain.kernel_rodata(look(*rodata_));
  for (auto& [at, known] : known_) {
    for (Measured& part : known.parts) {
      const bool text = part.range().start == known.module.text.start;
      const Changes changes = look(part);
      if (!changes.empty() && is_listed(known.module)) explain.module(known.module.name, text, changes, judge);
    }
  }
}

// A probe is told when it appears; one whose handler is nobody's code, for as long as it is there.
void Checker::Impl::check_probes(std::span<const Probe> probes, const CodeMap& map, std::vector<Finding>& out) {
  std::set<GuestVirt> now;
  for (const Probe& probe : probes) {
    if (probe.is_ending) continue;
    now.insert(probe.at);
    if (probe.handler.value != 0 && !map.is_code(probe.handler)) {
      out.push_back({"kprobe", describe_symbol(kernel_, probe.at), "is probed by " + map.describe(probe.handler), probe.at});
    } else if (!probed_.contains(probe.at)) {
      const std::string by = probe.handler.value != 0 ? "is probed by " + map.describe(probe.handler) : "is probed";
      out.push_back({"kprobe", describe_symbol(kernel_, probe.at), by, probe.at, false});
    }
  }
  probed_ = std::move(now);
}

// Two ways may lead to one finding.
void Checker::Impl::keep_once(std::vector<Finding>& out) {
  std::set<std::pair<std::string, GuestVirt>> seen;
  std::erase_if(out, [&](const Finding& one) {
    return one.address.value != 0 && !one.subject.starts_with("cpu ") && !seen.emplace(one.kind, one.address).second;
  });
  if (out.size() > kFindingsMax) out.resize(kFindingsMax);
}

Checker::Checker(const Kernel& kernel, std::span<const Registers> registers, std::shared_ptr<const VendorImage> vendor)
    : impl_(std::make_unique<Impl>(kernel, registers, std::move(vendor))) {}
Checker::~Checker() = default;
Checker::Checker(Checker&&) noexcept = default;

std::vector<Finding> Checker::check(std::span<const Registers> registers, const Written* written) {
  return impl_->check(registers, written);
}
const std::vector<std::string>& Checker::unchecked() const { return impl_->unchecked(); }
std::size_t Checker::measured_pages() const { return impl_->measured_pages(); }
std::size_t Checker::measured_pointers() const { return impl_->measured_pointers(); }
std::size_t Checker::vendor_sites() const { return impl_->vendor_sites(); }

}  // namespace mhv::integrity
