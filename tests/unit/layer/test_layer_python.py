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

import pathlib

import pytest
from conftest import ALERT, ASK, EPOCH_DONE, EVENT, LOG, READY, VERDICT

EXAMPLE = pathlib.Path(__file__).with_name("example.py")


@pytest.fixture
def engine(start_python):
    engine = start_python(EXAMPLE, configuration={"a": [1]})
    assert engine.expect(READY) == {"abi": 1, "name": "tested", "version": "3.1"}
    return engine


def verdict(text):
    data = bytes.fromhex(text)
    return int.from_bytes(data[0:8], "little"), int.from_bytes(data[8:12], "little"), data[16:]


def test_starts_and_stops(engine):
    assert engine.stop() == 0


def test_hears_of_epochs(engine):
    engine.say(epoch=[1, [[0x1000, 0x2000], [0x9000, 0x1000]]])
    assert engine.expect(EVENT) == {"kind": "epoch", "written": [[0x1000, 0x2000], [0x9000, 0x1000]], "cr3": [0x1000], "all": False}
    assert engine.expect(EPOCH_DONE) == (1).to_bytes(8, "little").hex()
    engine.say(epoch=[2, []])
    assert engine.expect(LOG) == "on_epoch: RuntimeError: second"
    assert engine.expect(EPOCH_DONE) == (2).to_bytes(8, "little").hex()
    assert engine.stop() == 0


def test_decides_packets(engine):
    for number, expected in ((1, (1, 1, b"")), (2, (2, 3, b"other")), (4, (4, 0, b""))):
        engine.say(packet=[number, "00" * 60])
        assert verdict(engine.expect(VERDICT)) == expected
    engine.say(packet=[3, "00" * 60])
    assert engine.expect(LOG).startswith("on_packet: ")
    assert verdict(engine.expect(VERDICT)) == (3, 0, b"")
    assert engine.stop() == 0


def test_speaks_up(engine):
    engine.say(event={"kind": "x", "title": "t\u00e4"})
    assert engine.expect(ALERT) == {"severity": "warning", "title": "t\u00e4", "detail": {"n": 1}}
    assert engine.expect(ASK) == {"action": "checkpoint", "reason": "why", "before_ns": 0}
    assert engine.expect(LOG) == "said"
    engine.say(event={"kind": "x"})
    assert engine.expect(LOG) == "on_event: KeyError: 'title'"
    assert engine.stop() == 0


def test_answers(engine):
    engine.say(write=[0x5000, "cafe"])
    engine.say(epoch=[1, [[0x5000, 0x1000]]])
    engine.expect(EVENT)
    engine.expect(EPOCH_DONE)
    uuid = "00000000-0000-4000-8000-000000000001"
    assert engine.answer("facts") == {"result": [uuid, "test", [[0, 64 << 20]], {"a": [1]}, 1, [[0x5000, 0x1000]]]}
    assert engine.answer("read", at=0x5000, bytes=4) == {"result": "cafe0000"}
    assert engine.answer("read", at=(64 << 20) - 1, bytes=2) == {"result": None}
    for method, code, message, hint in (
        ("ours", "busy", "not now", "later"),
        ("any", "internal", "ValueError: oops", ""),
        ("other", "unsupported", 'this layer has no method "other"', ""),
    ):
        assert engine.answer(method) == {"error": {"code": code, "message": message, "hint": hint}}
    assert engine.answer("kernel")["error"]["code"] == "unsupported"
    assert "JSON serializable" in engine.answer("unserializable")["error"]["message"]
    assert engine.answer("read", at=0, bytes=1 << 40)["error"]["code"] == "invalid"
    assert engine.answer("read", at=-1, bytes=1)["error"]["code"] == "internal"
    assert engine.stop() == 0


def test_what_on_start_raises_ends_it(start_python, tmp_path):
    source = tmp_path / "bad.py"
    source.write_text(
        "import sys\nfrom nova_mhv.layer import Layer, run\n"
        "class Bad(Layer):\n    def on_start(self, guest, configuration):\n        raise RuntimeError('no')\n"
        "sys.exit(run(Bad()))\n"
    )
    assert start_python(source).stop() == 10
