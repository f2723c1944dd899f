"""A layer for test_layer_python.py: uses each thing once."""

import sys

from nova_mhv.layer import Action, Decision, Direction, Layer, LayerError, Severity, run


class Example(Layer):
    def on_start(self, guest, configuration):
        self.configuration = configuration
        self.first_guest = guest

    def on_epoch(self, epoch):
        if epoch.number == 2:
            raise RuntimeError("second")
        self.send_event({"kind": "epoch", "written": epoch.written, "cr3": [v.cr3 for v in epoch.vcpus], "all": epoch.written_all})

    def on_packet(self, number, nic, direction, frame):
        assert direction == Direction.FROM_GUEST and nic == 0
        return {1: Decision.DROP, 2: b"other", 3: "nonsense"}.get(number, Decision.PASS)

    def on_event(self, event):
        self.raise_alert(Severity.WARNING, event["title"], {"n": 1})
        self.ask(Action.CHECKPOINT, "why")
        self.log("said")

    def on_request(self, method, arguments):
        guest = self.guest
        if method == "facts":
            return [guest.uuid, guest.name, guest.ranges, self.configuration, len(guest.vcpus), guest.written]
        if method == "read":
            data = guest.read(arguments["at"], arguments["bytes"])
            return data if data is None else data.hex()
        if method == "kernel":
            return guest.banner()
        if method == "ours":
            raise LayerError("busy", "not now", "later")
        if method == "any":
            raise ValueError("oops")
        if method == "unserializable":
            return object()
        return super().on_request(method, arguments)

    def on_stop(self):
        print("stopped", file=sys.stderr)


layer = Example("3.1")
log = layer.log
status = run(layer)
guest = layer.first_guest
for use in (lambda: guest.read(0, 1), lambda: guest.processes(), lambda: log("late")):
    try:
        use()
        status = 99
    except LayerError as error:
        assert error.code == "invalid"
layer = log = use = None
try:
    guest.read(0, 1)
    status = 98
except LayerError as error:
    assert error.message == "the layer is gone"
sys.exit(status)
