#include "integrity/vendor_files.h"

#include <boost/interprocess/file_mapping.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <filesystem>

#include "base/error.h"

namespace mhv::integrity {
namespace {

namespace fs = std::filesystem;
namespace ipc = boost::interprocess;

constexpr std::size_t kFilesMax = 256;
constexpr std::uintmax_t kFileBytesMax = 512u << 20;

// Kept for as long as its image is.
struct Mapped {
  explicit Mapped(const std::string& path) : file(path.c_str(), ipc::read_only), region(file, ipc::read_only) {}
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(region.get_address()), region.get_size()}; }

  ipc::file_mapping file;
  ipc::mapped_region region;
  std::optional<VendorImage> image;
};

// nullptr: it is another kernel's.
std::shared_ptr<const VendorImage> load(const fs::path& path, const std::string& banner) {
  if (fs::file_size(path) > kFileBytesMax) throw Error(Code::kInvalid, "it is too large");
  const auto mapped = std::make_shared<Mapped>(path.string());
  if (!VendorImage::may_have(mapped->bytes(), banner)) return nullptr;
  mapped->image.emplace(mapped->bytes());
  if (mapped->image->banner() != banner) return nullptr;
  return {mapped, &*mapped->image};
}

}  // namespace

VendorFile find_vendor_file(const std::string& folder, const std::string& banner) {
  std::string problems;
  std::size_t files = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (++files > kFilesMax) break;
    try {
      if (auto image = load(entry.path(), banner)) return {std::move(image), entry.path().filename().string()};
    } catch (const std::exception& failure) {
      problems += "; " + entry.path().filename().string() + ": " + failure.what();
    }
  }
  return {nullptr, (files == 0 ? "no reference" : "no reference of this kernel") + problems.substr(0, 500)};
}

}  // namespace mhv::integrity
