#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""A service hypervisor of one's own: derive from ``Layer``, override what is of interest, call ``run()``.

The same as the C++ API (``cpp/sdk/layer.h``, ``doc/layers.rst``). All methods are called on the thread that called
``run()``, one at a time. What they raise becomes the answer to a request, or a line in the engine's log; the layer goes on.
"""

import sys
from collections.abc import Sequence
from typing import Any

from nova_mhv._layer import Action, AddressSpace, Decision, Direction, Epoch, Guest, Process, Severity, Vcpu
from nova_mhv._layer import Layer as _Layer
from nova_mhv._layer import run as _run

__all__ = (
    "Action",
    "AddressSpace",
    "Decision",
    "Direction",
    "Epoch",
    "Guest",
    "Layer",
    "LayerError",
    "Process",
    "Severity",
    "Vcpu",
    "run",
)


class LayerError(Exception):
    """What a request is answered with, and what the engine refuses. Its codes are those of nova_mhv.engine."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class Layer(_Layer):
    def on_start(self, guest: Guest, configuration: Any) -> None:
        """Once, before anything else. What it raises ends the program."""

    def on_epoch(self, epoch: Epoch) -> None:
        """Of a moment of the guest."""

    def on_packet(self, number: int, nic: int, direction: Direction, frame: bytes) -> Decision | bytes:
        """A decision, or the bytes to send in the frame's place. One that is held is decided later, by decide()."""
        return Decision.PASS

    def on_event(self, event: Any) -> None:
        """Of another layer."""

    def on_request(self, method: str, arguments: Any) -> Any:
        """The result, for json.dumps(). Raise LayerError to answer an error."""
        raise LayerError("unsupported", f'this layer has no method "{method}"')

    def on_stop(self) -> None:
        """Once, after everything else."""


def run(layer: Layer, arguments: Sequence[str] | None = None) -> int:
    """The whole life of a layer. Returns what the program is to exit with."""
    return _run(layer, list(sys.argv if arguments is None else arguments))
