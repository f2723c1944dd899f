// The layer "integrity": says at each epoch whether the guest's kernel is still what it was when the layer first saw it.
#include <fmt/format.h>

#include <map>
#include <memory>

#include "base/error.h"
#include "base/text.h"
#include "integrity/checker.h"
#include "integrity/vendor_files.h"
#include "sdk/layer.h"

namespace {

using namespace mhv;
using integrity::Finding;

// So often everything is looked at, also what nobody seems to have written: page tables lead elsewhere without a write to what they led to.
constexpr std::uint64_t kWholeEveryNs = 10'000'000'000;

class Integrity : public sdk::Layer {
 public:
  Integrity() : Layer(MHV_VERSION) {}

  void on_start(sdk::Guest&, const sdk::Json& configuration) override { on_finding_ = configuration.value("on_finding", "alert"); }

  void on_epoch(const sdk::Epoch& epoch) override {
    std::vector<integrity::Registers> registers;
    for (const ring::Vcpu& vcpu : epoch.vcpus) {
      registers.push_back({vcpu.cr0, vcpu.cr3, vcpu.cr4, vcpu.efer, vcpu.lstar, vcpu.idt_base, vcpu.idt_limit});
    }
    unchecked_all_ |= epoch.written_all;
    if (registers.empty() || !is_measured(registers)) return;
    integrity::Written written;
    for (const ring::PageRange& range : epoch.written) written.push_back({{range.start}, range.bytes});
    const bool whole = unchecked_all_ || epoch.time_ns - whole_ns_ > kWholeEveryNs;
    report(checker_->check(registers, whole ? nullptr : &written), epoch.time_ns);
    if (whole) whole_ns_ = epoch.time_ns;
    unchecked_all_ = false;
    ++checks_;
  }

  sdk::Json on_request(const std::string& method, const sdk::Json&) override {
    if (method != "findings" && method != "status" && method != "release") {
      throw Error(Code::kInvalid, "integrity has no method " + method, "it has: findings, release, status");
    }
    if (method == "release") {
      ask(sdk::Action::kRelease, "somebody asked for it");
      return {{"released", true}};
    }
    if (method == "findings") return findings_json();
    if (!checker_) return {{"measured", false}, {"reason", waits_}};
    return {{"measured", true},
            {"measured_ns", measured_ns_},
            {"checks", checks_},
            {"pages", checker_->measured_pages()},
            {"pointers", checker_->measured_pointers()},
            {"findings", findings_.size()},
            {"vendor", vendor_},
            {"unchecked", checker_->unchecked()}};
  }

 private:
  static std::string key(const Finding& finding) { return finding.kind + " " + finding.subject; }

  // Whether there is something to compare with: measured at the first epoch at which the guest's kernel has started, and never again. A
  // guest that is reset gets a layer anew; nothing that stands in its memory is a reason to trust it again.
  bool is_measured(std::span<const integrity::Registers> registers) {
    if (checker_) return true;
    try {
      kernel_ = guest().shared_kernel();
      auto vendor = integrity::find_vendor_file(integrity::kVendorFolder, kernel_->banner());
      checker_ = std::make_unique<integrity::Checker>(*kernel_, registers, std::move(vendor.image));
      vendor_ = {{"reference", vendor.name}, {"sites", checker_->vendor_sites()}};
    } catch (const Error& error) {
      waits_ = error.what();
      return false;
    }
    raise_alert(sdk::Severity::kInfo, "the kernel was measured: what it is now is taken as right",
                {{"pages", checker_->measured_pages()}, {"pointers", checker_->measured_pointers()}, {"vendor", vendor_}});
    return true;
  }

  // Each is told when it comes; what the tenant chose is done when any comes.
  void report(const std::vector<Finding>& found, std::uint64_t time_ns) {
    if (measured_ns_ == 0 || clean_ns_ == 0) measured_ns_ = clean_ns_ = time_ns;
    std::map<std::string, Finding> now;
    std::string news;
    for (const Finding& finding : found) {
      const sdk::Json detail{{"kind", finding.kind},
                             {"subject", finding.subject},
                             {"detail", finding.detail},
                             {"address", fmt::format("{:#x}", finding.address.value)}};
      if (!finding.alarm) {
        raise_alert(sdk::Severity::kInfo, key(finding), detail);
        continue;
      }
      now.emplace(key(finding), finding);
      if (findings_.contains(key(finding))) continue;
      raise_alert(sdk::Severity::kCritical, key(finding), detail);
      send_event({{"kind", "integrity_finding"}, {"finding", finding.kind}, {"subject", finding.subject}});
      news += (news.empty() ? "" : ", ") + key(finding);
    }
    findings_ = std::move(now);
    if (!news.empty()) act(beginning(news, 200));
    if (findings_.empty()) clean_ns_ = time_ns;
  }

  void act(const std::string& news) {
    if (on_finding_ == "hold") ask(sdk::Action::kHold, news);
    if (on_finding_ == "checkpoint") ask(sdk::Action::kCheckpoint, news);
    if (on_finding_ == "rollback") ask(sdk::Action::kRollback, news, clean_ns_);
    if (on_finding_ == "stop") ask(sdk::Action::kStop, news);
  }

  sdk::Json findings_json() const {
    sdk::Json out = sdk::Json::array();
    for (const auto& [name, finding] : findings_) {
      out.push_back({{"kind", finding.kind},
                     {"subject", finding.subject},
                     {"detail", finding.detail},
                     {"address", fmt::format("{:#x}", finding.address.value)}});
    }
    return out;
  }

  std::string on_finding_;
  std::shared_ptr<const introspection::Kernel> kernel_;
  std::unique_ptr<integrity::Checker> checker_;  // of kernel_
  std::map<std::string, Finding> findings_;      // that are there now
  sdk::Json vendor_;                             // which of the vendors' kernels it was compared with
  std::string waits_ = "no epoch so far";
  std::uint64_t whole_ns_ = 0, clean_ns_ = 0, measured_ns_ = 0, checks_ = 0;
  bool unchecked_all_ = true;  // what was written was not told, and not all was looked at since
};

}  // namespace

int main(int argc, char** argv) {
  Integrity layer;
  return sdk::run(layer, argc, argv);
}
