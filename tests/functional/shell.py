"""A guest whose serial console can be typed at."""

import base64
import hashlib
import re
import socket
import time

import lab

SECONDS = 60 * lab.SLOW


class Shell:
    """The guest's serial console, logged in."""

    def __init__(self, path):
        self.line = socket.socket(socket.AF_UNIX)
        self.line.settimeout(0.2)
        self.line.connect(str(path))
        self.seen = b""

    def until(self, pattern, seconds=SECONDS):
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the guest's console never said {pattern!r}: {self.seen[-500:]!r}")
            try:
                self.seen += self.line.recv(65536)
            except TimeoutError:
                continue
        self.seen = self.seen[found.end() :]
        return found

    def type(self, text):
        self.line.sendall(text.encode() + b"\n")

    def log_in(self):
        self.type("")
        self.until(rb"login: ")
        self.type("root")
        self.until(rb"assword: ")
        self.type("guest")
        self.until(rb"# ")
        self.type("stty -echo; PS1=")

    def say(self, command):
        """What `command` prints. The self-checking program writes to this console too, so what comes is checked."""
        self.type(f"{{ {command}\n}} > /tmp/said 2>/dev/null")
        for _ in range(5):
            self.type("echo MARK-1 $(md5sum < /tmp/said); base64 /tmp/said; echo MARK-2")
            found = self.until(rb"MARK-1 ([0-9a-f]{32})[^\n]*\n([\s\S]*?)MARK-2")
            coded = b"".join(line.strip() for line in found[2].split(b"\n") if not line.startswith(b"MHV:"))
            try:
                text = base64.b64decode(coded)
            except ValueError:
                continue
            if hashlib.md5(text).hexdigest().encode() == found[1]:
                return text.decode(errors="replace")
        raise AssertionError(f"the console garbles {command!r}")


class TalkingGuest(lab.Guest):
    def xml(self):
        serial = f"<serial type='unix'><source mode='bind' path='{self.folder}/serial'/></serial>"
        return re.sub(r"<serial .*</serial>", serial, super().xml())
