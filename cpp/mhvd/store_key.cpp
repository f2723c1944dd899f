#include "mhvd/store_key.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>

#include "base/error.h"
#include "base/fd.h"

namespace mhv::mhvd {
namespace {

constexpr std::size_t kKeyBytes = sizeof(keys::Key::bytes);

// Never for a file that is there: it may be the only copy of a key.
std::string make_hint(const std::string& path) {
  return "make one: openssl rand -out " + path + " 32; chmod 0400 " + path + "; chown nova-mhv " + path + " (the user of mhvd)";
}
constexpr const char* kOtherFileHint = "name the file that the key is in; a new key is made by: openssl rand -out FILE 32; chmod 0400 FILE";

bool from_hex(std::string_view text, keys::Key& out) {
  if (text.size() != 2 * kKeyBytes + 1 || text.back() != '\n') return false;
  for (std::size_t i = 0; i < kKeyBytes; ++i) {
    const char* const two = text.data() + 2 * i;
    const auto [end, error] = std::from_chars(two, two + 2, out.bytes[i], 16);
    if (error != std::errc{} || end != two + 2) return false;
  }
  return true;
}

void check_file(int fd, const std::string& path) {
  struct stat about;
  if (::fstat(fd, &about) != 0) throw_errno("cannot look at the key file " + path);
  if (!S_ISREG(about.st_mode)) throw Error(Code::kInvalid, "the key file " + path + " is no regular file", kOtherFileHint);
  if (about.st_uid != 0 && about.st_uid != ::geteuid()) {
    throw Error(Code::kPermission,
                "the key file " + path + " belongs to user " + std::to_string(about.st_uid) + ", who can change and read it",
                "chown it to the user of mhvd, or to root");
  }
  if ((about.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    throw Error(Code::kPermission, "others than its owner have access to the key file " + path,
                "chmod 0400 " + path + "; who read it can read every checkpoint");
  }
}

}  // namespace

keys::Key read_store_key(const std::string& path) {
  Fd file;
  try {
    file = Fd::open(path, O_RDONLY | O_NONBLOCK);  // of a pipe, too, it is told what is wrong with it
  } catch (const Error& error) {
    const std::string hint =
        error.code() == Code::kNotFound ? make_hint(path) : "chown it to the user of mhvd (nova-mhv), which has to reach its folder, too";
    throw Error(error.code(), std::string("cannot read the key file: ") + error.what(), hint);
  }
  check_file(file.get(), path);
  char text[2 * kKeyBytes + 2];  // one more than any that is right
  const ssize_t bytes = ::read(file.get(), text, sizeof text);
  if (bytes < 0) throw_errno("cannot read the key file " + path);
  const std::string_view found(text, static_cast<std::size_t>(bytes));
  keys::Key key;
  const bool good = from_hex(found, key) || found.size() == kKeyBytes;
  if (good && found.size() == kKeyBytes) key = keys::Key(found);
  keys::wipe(text);
  if (!good) {
    throw Error(Code::kInvalid, "the key file " + path + " holds neither 32 bytes nor 64 hexadecimal digits with the end of a line",
                kOtherFileHint);
  }
  return key;
}

keys::Key guest_store_key(const keys::Key& host, const std::string& uuid) { return keys::derive(host, {}, "nova-mhv store " + uuid); }

}  // namespace mhv::mhvd
