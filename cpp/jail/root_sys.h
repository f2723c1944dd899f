// The files that a layer sees: what a dynamic program or a Python interpreter needs, and its own package, all of it read-only.
//
//   /usr                      and /bin, /lib, /lib64: links where the host's are links
//   /layer                    the package
//   /python                   the modules that a program in Python may import, where there are any
//   /data                     what the operator gives this layer, where there is any
//   /fd                       of a machine, in place of /layer: its own descriptors, to be opened by path
//
// There is no /proc (but for /fd nothing to open a descriptor again by), no /sys, no /dev, no /etc, no /tmp.
#pragma once

#include <string>
#include <vector>

#include "base/fd.h"

namespace mhv::jail {

// In a mount namespace of its own, in two steps: what is bound is looked up as the caller's user, the new root is made as the layer's.
class NewRoot {
 public:
  NewRoot(const std::string& package, const std::string& python_path, const std::string& data);
  // The caller's, which is the one process that can use it.
  void show_descriptors();
  // Ends in the new root; nothing of the old one is left, also of processes that share this mount namespace and were at its top.
  void enter();

 private:
  struct Tree {
    std::string target;  // relative to the new root
    Fd mount;            // detached, read-only
  };
  struct Link {
    std::string name, to;
  };
  void bind(const std::string& source, const std::string& target);

  std::vector<Tree> trees_;
  std::vector<Link> links_;
};

}  // namespace mhv::jail
