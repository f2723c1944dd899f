// The function pointers of a kernel's own data: each word that held the address of a function when it was trusted.
#pragma once

#include <span>
#include <vector>

#include "integrity/code_map.h"
#include "integrity/measured.h"

namespace mhv::integrity {

struct FunctionPointer {
  GuestVirt at, was;
};

// Not thread-safe.
class PointerTable {
 public:
  // Of read-only data and of data.
  PointerTable(Reader& reader, const Image& image);

  struct Changed {
    GuestVirt at, was, is;
  };
  // Of data: those that lead to what is nobody's code now.
  std::vector<Changed> check(Reader& reader, CodeMap& map, const Written* written);
  // What stood there; 0: no function's address did.
  GuestVirt was_at(GuestVirt at) const;
  std::size_t size() const { return read_only_.size() + data_.size(); }

 private:
  struct Page {
    GuestVirt at;
    GuestPhys phys;
    std::uint32_t begin, end;  // in data_
    bool suspect = false;
  };
  std::vector<FunctionPointer> read_only_, data_;
  std::vector<Page> pages_;
};

// "tcp_prot+0x10", or with the member's name where the symbol's says what it is: "ext4_file_operations.open".
std::string describe_pointer(const Kernel& kernel, GuestVirt at);
// The name is that of a structure of nothing but function pointers: `*_fops`, `*_seq_ops`, `*_proc_ops` and their like.
bool is_operations(std::string_view symbol);

}  // namespace mhv::integrity
