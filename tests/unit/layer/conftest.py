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

"""Layers are programs: each test starts one, as the engine does, with cpp/sdk/testing/fake_engine.cpp as its engine."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

TOP = pathlib.Path(__file__).resolve().parents[3]
BUILD = TOP / "build/release"
READY, EPOCH_DONE, VERDICT, ALERT, ANSWER, ASK, LOG, EVENT = 64, 65, 66, 67, 68, 69, 71, 4


class FakeEngine:
    def __init__(self, command, python_path):
        program = BUILD / "cpp/sdk/mhv_fake_engine"
        assert program.exists(), "build it first: cmake --build --preset release"
        env = {**os.environ, "PYTHONPATH": str(python_path)}
        self.process = subprocess.Popen([program, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def say(self, **line):
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def next(self):
        line = self.process.stdout.readline()
        assert line, "the engine ended"
        return json.loads(line)

    def expect(self, kind):
        said = self.next()
        assert said.get("type") == kind, said
        return said.get("json", said.get("bytes"))

    def answer(self, method, **arguments):
        self.say(request={"method": method, "arguments": arguments})
        return self.expect(ANSWER)

    def stop(self):
        """The layer's exit status."""
        self.process.stdin.close()
        said = self.next()
        self.process.wait()
        return said["exit"]


@pytest.fixture
def python_path():
    """What mhvd shows to layers in Python."""
    assert list((BUILD / "python/nova_mhv").glob("_layer.*.so")), "build it first: cmake --build --preset release"
    return BUILD / "python"


@pytest.fixture
def start(python_path):
    engines = []

    def begin(*command, **hello):
        engine = FakeEngine(command, python_path)
        engines.append(engine)
        engine.say(hello=hello)
        return engine

    yield begin
    for engine in engines:
        engine.process.stdin.close()
        engine.process.stdout.close()
        engine.process.wait()


@pytest.fixture
def start_python(start):
    return lambda source, **hello: start(sys.executable, str(source), **hello)
