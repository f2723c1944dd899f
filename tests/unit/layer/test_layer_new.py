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

"""What `mhvctl layer new` makes: it builds, and runs, in both languages."""

import functools
import json
import subprocess

import pytest
from conftest import ALERT, BUILD, EPOCH_DONE, READY

MIB = 1 << 20
MHVCTL = BUILD / "cpp/ctl/mhvctl"


def mhvctl(folder, *arguments):
    return subprocess.run([MHVCTL, "layer", "new", *arguments], cwd=folder, capture_output=True, text=True)


def counts(engine):
    ready = engine.expect(READY)
    assert (ready["abi"], ready["version"]) == (1, "0.1")
    engine.say(epoch=[1, [[0, MIB], [8 * MIB, MIB]]])
    assert engine.expect(EPOCH_DONE) == (1).to_bytes(8, "little").hex()
    engine.say(epoch=[2, [[0, 3 * MIB]]])
    assert engine.expect(ALERT) == {"severity": "warning", "title": "the guest writes much", "detail": {"bytes": 3 * MIB}}
    engine.expect(EPOCH_DONE)
    assert engine.answer("total") == {"result": {"bytes": 5 * MIB}}
    assert engine.answer("kernel")["error"]["code"] == "unsupported"  # there is none
    assert engine.answer("other")["error"]["code"] == "unsupported"
    assert engine.stop() == 0


def packed(tmp_path, folder):
    """As the README says."""
    run = functools.partial(subprocess.run, cwd=tmp_path, check=True)
    (tmp_path / "vendors").mkdir()
    run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "secret.pem"])
    run(["openssl", "pkey", "-in", "secret.pem", "-pubout", "-out", "vendors/example.pem"])
    run([MHVCTL, "layer", "pack", folder, "--key", "secret.pem", "--output", "my-layer-0.1.tar"])
    return tmp_path / "my-layer-0.1.tar"


def verified(package):
    command = [MHVCTL, "layer", "verify", package, "--keys", package.with_name("vendors")]
    assert "its signature is good" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def made(tmp_path, *arguments):
    outcome = mhvctl(tmp_path, "my-layer", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    project = tmp_path / "my-layer"
    manifest = json.loads((project / "manifest.json").read_text())
    assert (manifest["name"], manifest["program"], manifest["abi"]) == ("my-layer", "my-layer", 1)
    for file in project.iterdir():
        assert "@" not in file.read_text()
    return project


def test_cpp(tmp_path, start):
    project = made(tmp_path)
    assert {file.name for file in project.iterdir()} == {"manifest.json", "main.cpp", "CMakeLists.txt", "README.rst"}
    assert len((project / "main.cpp").read_text().splitlines()) <= 50
    build = project / "build"
    subprocess.run(["cmake", "-S", project, "-B", build, f"-Dmhv-layer_DIR={BUILD / 'mhv-layer'}"], check=True)
    subprocess.run(["cmake", "--build", build], check=True)
    counts(start(str(build / "my-layer"), configuration={"alert_above_mib": 2}))
    verified(packed(tmp_path, build / "package"))


def test_python(tmp_path, start):
    project = made(tmp_path, "--python")
    assert {file.name for file in project.iterdir()} == {"manifest.json", "my-layer", "README.rst"}
    assert len((project / "my-layer").read_text().splitlines()) <= 50
    counts(start(str(project / "my-layer"), configuration={"alert_above_mib": 2}))
    verified(packed(tmp_path, project))


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "..", "-x", "a b", "a" * 100])
def test_a_bad_name(tmp_path, name):
    outcome = mhvctl(tmp_path, "--", name)
    assert outcome.returncode in (2, 11)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path):
    made(tmp_path)
    before = (tmp_path / "my-layer/main.cpp").stat()
    outcome = mhvctl(tmp_path, "my-layer", "--python")
    assert (outcome.returncode, "already" in outcome.stderr) == (13, True)
    assert (tmp_path / "my-layer/main.cpp").stat() == before
