from collections.abc import Sequence
from typing import Any, ClassVar

class Decision:
    PASS: ClassVar[Decision]
    DROP: ClassVar[Decision]
    HOLD: ClassVar[Decision]

class Direction:
    FROM_GUEST: ClassVar[Direction]
    TO_GUEST: ClassVar[Direction]

class Severity:
    INFO: ClassVar[Severity]
    WARNING: ClassVar[Severity]
    CRITICAL: ClassVar[Severity]

class Action:
    CHECKPOINT: ClassVar[Action]
    PAUSE: ClassVar[Action]
    HOLD: ClassVar[Action]
    RELEASE: ClassVar[Action]
    ROLLBACK: ClassVar[Action]
    STOP: ClassVar[Action]

class Vcpu:
    rip: int
    rsp: int
    rflags: int
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    efer: int
    star: int
    lstar: int
    cstar: int
    sfmask: int
    gs_base: int
    kernel_gs_base: int
    idt_base: int
    gdt_base: int
    idt_limit: int
    gdt_limit: int

class Epoch:
    number: int
    time_ns: int
    paused: bool
    vcpus: list[Vcpu]
    written: list[tuple[int, int]]
    written_all: bool

class Process:
    pid: int
    parent: int
    name: str
    command: str
    kernel_thread: bool

class AddressSpace:
    def read(self, address: int, bytes: int) -> bytes | None: ...
    def translate(self, address: int) -> int | None: ...

class Guest:
    uuid: str
    name: str
    ranges: list[tuple[int, int]]
    vcpus: list[Vcpu]
    written: list[tuple[int, int]]
    written_all: bool
    def read(self, address: int, bytes: int) -> bytes | None: ...
    def banner(self) -> str: ...
    def symbol(self, name: str) -> int: ...
    def offset(self, structure: str, member: str) -> int: ...
    def processes(self) -> list[Process]: ...
    def kernel(self) -> AddressSpace: ...
    def process(self, pid: int) -> AddressSpace: ...

class Layer:
    def __init__(self, version: str = ...) -> None: ...
    @property
    def guest(self) -> Guest: ...
    def raise_alert(self, severity: Severity, title: str, detail: Any = ...) -> None: ...
    def send_event(self, event: Any) -> None: ...
    def ask(self, action: Action, reason: str, before_ns: int = 0) -> None: ...
    def log(self, text: str) -> None: ...
    def decide(self, packet: int, decision: Decision) -> None: ...

def run(layer: Layer, arguments: Sequence[str]) -> int: ...
