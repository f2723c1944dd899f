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

import hashlib

import pytest
from osc_lib import exceptions
from osc_testing import CHECKPOINT, HYPERVISOR, IMAGE, SERVER, operation

from nova_mhv.osc import checkpoint as commands

CONTENT = b"LibvirtQemudSave" + bytes(range(256)) * 100
EXPORT = f"{HYPERVISOR}/v1/servers/{SERVER}/checkpoints/{CHECKPOINT}/export"


@pytest.fixture
def exported(shell):
    result = {"image_id": "img", "bytes": len(CONTENT)}
    shell.exports = shell.mock.post(EXPORT, json=operation("done", result=result), status_code=202)
    image = {
        "id": "img",
        "size": len(CONTENT),
        "checksum": hashlib.md5(CONTENT, usedforsecurity=False).hexdigest(),
        "os_hash_algo": "sha512",
        "os_hash_value": hashlib.sha512(CONTENT).hexdigest(),
    }
    shell.mock.get(f"{IMAGE}/v2/images/img", json=image)
    shell.mock.get(f"{IMAGE}/v2/images/img/file", content=CONTENT)
    shell.deletes = shell.mock.delete(f"{IMAGE}/v2/images/img", status_code=204)
    return shell


def export(shell, path):
    return shell.run(commands.ExportCheckpoint, "s1", CHECKPOINT, "--file", str(path))


def test_file_is_the_image_and_the_image_is_gone(exported, tmp_path):
    path = tmp_path / "s1.save"
    assert export(exported, path) == {"checkpoint_id": CHECKPOINT, "file": str(path), "bytes": len(CONTENT)}
    assert path.read_bytes() == CONTENT and path.stat().st_mode & 0o777 == 0o600
    assert exported.deletes.called_once


def test_existing_file_is_left_alone(exported, tmp_path):
    path = tmp_path / "s1.save"
    path.write_bytes(b"precious")
    with pytest.raises(exceptions.CommandError, match="already there(.|\n)*Name another file"):
        export(exported, path)
    assert path.read_bytes() == b"precious" and not exported.exports.called


def test_link_is_not_followed(exported, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(exceptions.CommandError, match="already there"):
        export(exported, tmp_path / "link")
    assert not (tmp_path / "target").exists()


def test_folder_that_is_not_there(exported, tmp_path):
    with pytest.raises(exceptions.CommandError, match="cannot be made"):
        export(exported, tmp_path / "no" / "s1.save")


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"?", CONTENT + b"?", b""])
def test_altered_or_short_image_leaves_no_file(exported, tmp_path, content):
    exported.mock.get(f"{IMAGE}/v2/images/img/file", content=content)
    with pytest.raises(exceptions.CommandError, match="altered or cut short"):
        export(exported, tmp_path / "s1.save")
    assert list(tmp_path.iterdir()) == [] and exported.deletes.called_once


def test_failed_export_leaves_no_file(exported, tmp_path):
    exported.mock.post(EXPORT, json={"itemNotFound": {"code": 404, "message": "no checkpoint"}}, status_code=404)
    with pytest.raises(exceptions.CommandError, match="no checkpoint"):
        export(exported, tmp_path / "s1.save")
    assert list(tmp_path.iterdir()) == []


def test_image_that_cannot_be_read(exported, tmp_path):
    exported.mock.get(f"{IMAGE}/v2/images/img/file", status_code=403)
    with pytest.raises(exceptions.CommandError, match="img"):
        export(exported, tmp_path / "s1.save")
    assert list(tmp_path.iterdir()) == [] and exported.deletes.called_once


def test_image_that_cannot_be_deleted_is_named(exported, tmp_path, caplog):
    exported.mock.delete(f"{IMAGE}/v2/images/img", status_code=409)
    assert export(exported, tmp_path / "s1.save")["bytes"] == len(CONTENT)
    assert "img" in caplog.text
