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

import uuid

import pytest
from osc_lib import exceptions
from osc_testing import CHECKPOINT, HYPERVISOR, OPERATION, SERVER, checkpoint, operation

from nova_mhv.osc import checkpoint as commands

URL = f"{HYPERVISOR}/v1/servers/{SERVER}"
HINTED = {"conflictingRequest": {"code": 409, "message": "what failed", "hint": "what to do"}}


def test_create_without_waiting_shows_the_operation(shell):
    shell.mock.post(f"{URL}/checkpoints", json=operation(), status_code=202)
    shown = shell.run(commands.CreateCheckpoint, "s1", "--name", "before")
    assert shown["operation_id"] == OPERATION and shown["status"] == "running"
    sent = shell.mock.last_request
    assert sent.json() == {"checkpoint": {"name": "before"}}
    assert sent.headers["OpenStack-API-Version"] == "hypervisor-service 1.2"


def test_create_and_wait_shows_the_checkpoint(shell, capsys):
    shell.mock.post(f"{URL}/checkpoints", json=operation(stage="starting"), status_code=202)
    shell.mock.get(
        f"{URL}/operations/{OPERATION}",
        [{"json": operation()}, {"json": operation("done", result={"checkpoint": checkpoint()})}],
    )
    shown = shell.run(commands.CreateCheckpoint, SERVER, "--wait")
    assert (shown["id"], shown["name"], shown["pause_ms"], shown["ram_mib_stored"]) == (CHECKPOINT, "before", 3.61, 1.5)
    assert capsys.readouterr().err.splitlines() == ["starting", "copying memory"]


def test_failed_operation_prints_message_and_hint(shell):
    failed = operation("error", error={"code": "no-space", "message": "what failed", "hint": "what to do"})
    shell.mock.post(f"{URL}/checkpoints", json=operation(), status_code=202)
    shell.mock.get(f"{URL}/operations/{OPERATION}", json=failed)
    with pytest.raises(exceptions.CommandError, match="what failed\nwhat to do"):
        shell.run(commands.CreateCheckpoint, "s1", "--wait")


def test_list(shell):
    second = checkpoint(id=str(uuid.uuid4()), parent_id=CHECKPOINT, current=False)
    more = f"{URL}/checkpoints?limit=1&marker={CHECKPOINT}"
    shell.mock.get(
        f"{URL}/checkpoints",
        json={"checkpoints": [checkpoint()], "checkpoints_links": [{"rel": "next", "href": more}]},
    )
    shell.mock.get(more, json={"checkpoints": [second]})
    rows = shell.run(commands.ListCheckpoint, "s1")
    assert list(rows[0]) == [
        "ID", "Parent", "Name", "Created", "RAM MiB Stored", "Pages", "Disk", "Pause ms", "State", "Current"
    ]  # fmt: skip
    assert [row["Current"] for row in rows] == [True, False] and rows[1]["Parent"] == CHECKPOINT
    assert rows[0]["Disk"][1] == {"target": "vdb", "format": "raw", "included": False, "note": "raw has no snapshots"}
    table = shell.run(commands.ListCheckpoint, "s1", form="table")
    assert "vda, not vdb" in table and "| *" in table


def test_show(shell):
    shell.mock.get(f"{URL}/checkpoints/{CHECKPOINT}", json={"checkpoint": checkpoint()})
    assert shell.run(commands.ShowCheckpoint, "s1", CHECKPOINT)["disks"][0]["target"] == "vda"
    assert "before" in shell.run(commands.ShowCheckpoint, "s1", CHECKPOINT, form="table")


def test_delete_goes_on_after_a_failure(shell, caplog):
    good, bad = str(uuid.uuid4()), str(uuid.uuid4())
    shell.mock.delete(f"{URL}/checkpoints/{bad}", json=HINTED, status_code=409)
    deleted = shell.mock.delete(f"{URL}/checkpoints/{good}", status_code=204)
    with pytest.raises(exceptions.CommandError, match="1 of 2"):
        shell.run(commands.DeleteCheckpoint, "s1", bad, good)
    assert deleted.called_once and "what to do" in caplog.text
    shell.run(commands.DeleteCheckpoint, "s1", good)


def test_restore_and_wait(shell):
    result = {"checkpoint": checkpoint(), "pages_written": 17, "pause_us": 12500, "in_place": True}
    shell.mock.post(f"{URL}/checkpoints/{CHECKPOINT}/restore", json=operation("done", result=result), status_code=202)
    shown = shell.run(commands.RestoreCheckpoint, "s1", CHECKPOINT, "--wait")
    assert (shown["checkpoint_id"], shown["pages_written"], shown["pause_ms"]) == (CHECKPOINT, 17, 12.5)
    assert shell.run(commands.RestoreCheckpoint, "s1", CHECKPOINT)["operation_id"] == OPERATION


def test_verify(shell):
    result = {"checkpoints": 1, "records": 2, "bytes": 3, "problems": ["page 7 is damaged"]}
    shell.mock.post(f"{URL}/checkpoints/verify", json=operation("done", result=result), status_code=202)
    shown = shell.run(commands.VerifyCheckpoint, "s1")
    assert (shown["result"], shown["problems"]) == ("damaged", "page 7 is damaged")


def test_operation(shell):
    shell.mock.get(f"{URL}/operations/{OPERATION}", json=operation("error", error={"message": "what failed"}))
    assert shell.run(commands.ShowOperation, "s1", OPERATION)["error"] == "what failed"


def test_unknown_server(shell):
    with pytest.raises(exceptions.CommandError, match="'none'"):
        shell.run(commands.ListCheckpoint, "none")


@pytest.mark.parametrize("status", [403, 404, 409, 503])
def test_errors_keep_their_message_and_hint(shell, status):
    shell.mock.get(
        f"{URL}/checkpoints", json={"x": {"message": "what failed", "hint": "what to do"}}, status_code=status
    )
    with pytest.raises(exceptions.CommandError, match="what failed\nwhat to do"):
        shell.run(commands.ListCheckpoint, "s1")


def test_errors_cannot_command_the_terminal(shell):
    fault = {"message": "no \x1b[2J", "hint": "try\n\x9b31m"}
    shell.mock.get(f"{URL}/checkpoints", json={"x": fault}, status_code=409)
    with pytest.raises(exceptions.CommandError) as caught:
        shell.run(commands.ListCheckpoint, "s1")
    assert str(caught.value) == "no \\x1b[2J\ntry\\x0a\\x9b31m"


@pytest.mark.parametrize("answer", [{"text": "<html>"}, {"json": []}, {"json": {"a": 1, "b": 2}}, {"json": {"a": {}}}])
def test_errors_of_somebody_else(shell, answer):
    shell.mock.get(f"{URL}/checkpoints", status_code=502, **answer)
    with pytest.raises(exceptions.CommandError, match="HTTP 502"):
        shell.run(commands.ListCheckpoint, "s1")


def test_id_cannot_leave_its_place_in_the_url(shell):
    shell.mock.get(f"{URL}/checkpoints/..%2F..%2Fx", json=HINTED, status_code=409)
    with pytest.raises(exceptions.CommandError):
        shell.run(commands.ShowCheckpoint, "s1", "../../x")


def test_no_endpoint_in_the_catalog(shell):
    shell.manager.hypervisor_service._filter["service_type"] = "no-such-service"
    with pytest.raises(exceptions.CommandError, match="no endpoint of type hypervisor-service"):
        shell.run(commands.ListCheckpoint, "s1")
