// What is hidden: it stands on one of the kernel's lists, and not on another on which it has to be.
#pragma once

#include <optional>
#include <vector>

#include "integrity/finding.h"
#include "integrity/modules.h"
#include "integrity/task_slabs.h"

namespace mhv::integrity {

// Each appends what it found. A guest that runs changes its lists meanwhile: they are compared a few times, and only what is hidden each
// time counts; one that is stopped in the middle of a change is not compared at all. `slabs`: nullptr if there are none.
void find_hidden_processes(const Kernel& kernel, const TaskLists& lists, TaskSlabs* slabs, std::vector<Finding>& out);
void find_hidden_modules(const Kernel& kernel, const ModuleLists& lists, std::vector<Finding>& out);

}  // namespace mhv::integrity
