#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mount.h>
#include <sys/socket.h>

#include "tapper/tapper.h"

namespace mhv::tapper {

// CAP_SYS_ADMIN: unshare and setns of a network namespace, and its bind mount. Moving a link, opening what is in the namespace and
// the taps would take CAP_NET_ADMIN alone. CAP_SYS_PTRACE: to see a QEMU's descriptors, which are another user's.
broker::Needs needs() {
  return {{CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_NET_ADMIN},
          {SCMP_SYS(sendto), SCMP_SYS(recvfrom), SCMP_SYS(fstatfs), SCMP_SYS(unlinkat)},
          {{SCMP_SYS(socket), 0, AF_NETLINK},
           {SCMP_SYS(unshare), 0, CLONE_NEWNET},
           {SCMP_SYS(setns), 1, CLONE_NEWNET},
           {SCMP_SYS(mount), 3, MS_BIND},
           {SCMP_SYS(umount2), 1, MNT_DETACH | UMOUNT_NOFOLLOW},
           {SCMP_SYS(ioctl), 1, TUNGETIFF},
           {SCMP_SYS(ioctl), 1, TUNGETDEVNETNS},
           {SCMP_SYS(ioctl), 1, TUNSETIFF},
           {SCMP_SYS(ioctl), 1, TUNSETPERSIST},
           {SCMP_SYS(ioctl), 1, TUNSETOFFLOAD}}};
}

}  // namespace mhv::tapper
