"""Runs a program as on a Linux before 6.7: PAGEMAP_SCAN is not there, for it and for all that it starts.

usage: old_kernel.py PROGRAM [ARGS...]    as root
"""

import ctypes
import errno
import os
import struct
import sys

PAGEMAP_SCAN = 0xC0606610
IOCTL = 16  # x86-64
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER, REQUEST = 0, 24  # offsets in struct seccomp_data: the system call, the low half of its second argument
ALLOW, ERRNO = 0x7FFF0000, 0x00050000

FILTER = [
    (LOAD, 0, 0, NUMBER),
    (JUMP_IF_EQUAL, 0, 3, IOCTL),
    (LOAD, 0, 0, REQUEST),
    (JUMP_IF_EQUAL, 0, 1, PAGEMAP_SCAN),
    (RETURN, 0, 0, ERRNO | errno.ENOTTY),
    (RETURN, 0, 0, ALLOW),
]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


code = b"".join(struct.pack("=HBBI", *instruction) for instruction in FILTER)
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Program(len(FILTER), code)), 0, 0):
    sys.exit(f"cannot install the system call filter: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[1], sys.argv[1:])
