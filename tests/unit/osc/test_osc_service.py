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


import argparse
import io
import json
import tarfile

import pytest
from osc_lib import exceptions
from osc_testing import HYPERVISOR, IMAGE, SERVER

from nova_mhv.osc import service as commands
from nova_mhv.osc.escape import escaped

URL = f"{HYPERVISOR}/v1/servers/{SERVER}"
EVIL = "in\x1b[2Jit\u202e\x9b\ud800"


def service(**fields):
    return {
        "name": "integrity",
        "source": "added",
        "state": "ready",
        "message": "",
        "version": "1.0",
        "configuration": {"on_finding": "stop"},
        "restarts": 0,
        "epochs": 7,
        "alerts": 1,
        "late": 0,
        **fields,
    }


@pytest.mark.parametrize("text", ["", "kworker/0:1", "zwei Wörter", "名前", "🦊"])
def test_text_stays(text):
    assert escaped(text) == text


@pytest.mark.parametrize(
    "text, shown",
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\x7f\0", "a\\x0ab\\x09c\\x7f\\x00"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202eb\u2028", "a\\u{202e}b\\u{2028}"),
        ("\ud800", "\\u{d800}"),
        ("\\x1b", "\\\\x1b"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text, shown):
    assert escaped(text) == shown


def test_introspect_prints_the_columns_of_the_answer(shell):
    rows = [{"pid": 1, "name": "init", "uid": 0}, {"pid": 23, "name": "sshd", "tty": None, "kernel": False}]
    shell.mock.get(f"{URL}/introspection/processes", json={"processes": rows})
    shown = shell.run(commands.Introspect, "processes", "s1")
    assert list(shown[0]) == ["pid", "name", "uid", "tty", "kernel"]
    assert (shown[1]["pid"], shown[1]["name"], shown[1]["uid"], shown[1]["kernel"]) == (23, "sshd", None, False)
    assert "|  23 | sshd" in shell.run(commands.Introspect, "processes", "s1", form="table")


def test_introspect_of_one_process(shell):
    asked = shell.mock.get(f"{URL}/introspection/files?pid=0", json={"files": []})
    assert shell.run(commands.Introspect, "files", "s1", "--pid", "0") == []
    assert asked.called_once
    for wrong in ("-1", "x", "٣"):
        with pytest.raises((SystemExit, argparse.ArgumentError)):
            shell.run(commands.Introspect, "files", "s1", "--pid", wrong)
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        shell.run(commands.Introspect, "secrets", "s1")


def test_introspect_of_the_kernel_is_one_row(shell):
    shell.mock.get(f"{URL}/introspection/kernel", json={"kernel": {"release": "6.1.0", "symbols": 123456}})
    assert shell.run(commands.Introspect, "kernel", "s1") == [{"release": "6.1.0", "symbols": 123456}]


@pytest.mark.parametrize("form", ["table", "value", "csv", "yaml"])
def test_what_a_guest_says_cannot_command_the_terminal(shell, form):
    row = {"pid": 1, "name": EVIL, "de\x1bep": [EVIL]}
    shell.mock.get(f"{URL}/introspection/processes", json={"processes": [row]})
    text = shell.run(commands.Introspect, "processes", "s1", form=form)
    assert "\x1b" not in text and "\x9b" not in text and "\u202e" not in text and "\ud800" not in text
    assert "x1b[2Jit" in text


def test_json_has_what_the_guest_says_as_it_is(shell):
    shell.mock.get(f"{URL}/introspection/processes", json={"processes": [{"name": EVIL}]})
    assert shell.run(commands.Introspect, "processes", "s1") == [{"name": EVIL}]


@pytest.mark.parametrize("answer", ["text", [1], 5])
def test_an_answer_that_is_no_table(shell, answer):
    shell.mock.get(f"{URL}/introspection/log", json={"log": answer})
    with pytest.raises(exceptions.CommandError, match="no table"):
        shell.run(commands.Introspect, "log", "s1")


def test_add_with_a_configuration(shell):
    shell.mock.post(f"{URL}/services", json={"service": service()}, status_code=201)
    shown = shell.run(commands.AddService, "s1", "integrity", "--configure", '{"on_finding": "stop"}')
    assert shown["name"] == "integrity" and shown["configuration"] == {"on_finding": "stop"}
    sent = shell.mock.last_request
    assert sent.json() == {"service": {"name": "integrity", "configuration": {"on_finding": "stop"}}}
    assert sent.headers["OpenStack-API-Version"] == "hypervisor-service 1.2"
    shell.run(commands.AddService, "s1", "integrity")
    assert shell.mock.last_request.json() == {"service": {"name": "integrity"}}


@pytest.mark.parametrize("wrong", ["", "hold", "[]", "{"])
def test_a_configuration_that_is_no_object(shell, wrong):
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        shell.run(commands.AddService, "s1", "integrity", "--configure", wrong)


def test_list(shell):
    layers = [service(), service(name="heat-map", state="failed", message="killed \x1b[31m")]
    shell.mock.get(f"{URL}/services", json={"services": {"layers": layers}})
    rows = shell.run(commands.ListService, "s1")
    assert [(row["Name"], row["Source"], row["State"], row["Alerts"]) for row in rows] == [
        ("integrity", "added", "ready", 1),
        ("heat-map", "added", "failed", 1),
    ]
    assert "killed \\x1b[31m" in shell.run(commands.ListService, "s1", form="table")


def test_show_and_remove(shell):
    shell.mock.get(f"{URL}/services/integrity", json={"service": service()})
    assert shell.run(commands.ShowService, "s1", "integrity")["epochs"] == 7
    removed = shell.mock.delete(f"{URL}/services/integrity", status_code=204)
    shell.run(commands.RemoveService, "s1", "integrity")
    assert removed.called_once


def test_names_cannot_leave_their_place_in_the_url(shell):
    gone = shell.mock.delete(f"{URL}/services/..%2Fx", status_code=204)
    shell.run(commands.RemoveService, "s1", "../x")
    assert gone.called_once


def test_alerts(shell):
    alert = {"number": 7, "time": "2026-01-02T03:04:05.678Z", "severity": "critical", "layer": "integrity",
             "title": "found \x1b", "detail": {"syscall": 59}}  # fmt: skip
    shell.mock.get(f"{URL}/alerts?after=6", json={"alerts": [alert]})
    (row,) = shell.run(commands.ListAlert, "s1", "--after", "6")
    assert (row["Number"], row["Severity"], row["Detail"]) == (7, "critical", {"syscall": 59})
    table = shell.run(commands.ListAlert, "s1", "--after", "6", form="table")
    assert json.dumps({"syscall": 59}) in table and "found \\x1b" in table


@pytest.mark.parametrize("hosts", [["h1", "h2"], None])
def test_services_of_the_cloud(shell, hosts):
    found = {"name": "integrity", "version": "1.0", "vendor": "nova-mhv", "tenant_addable": True}
    if hosts:
        found["hosts"] = hosts
    shell.mock.get(f"{HYPERVISOR}/v1/services", json={"services": [found]})
    (row,) = shell.run(commands.ListCloudService)
    assert (row["Name"], row["Vendor"], row["Tenant Addable"]) == ("integrity", "nova-mhv", True)
    assert row.get("Hosts") == hosts


def test_call(shell):
    asked = shell.mock.post(f"{URL}/services/heat/call", json={"answer": {"bytes": 5}})
    assert shell.run(commands.CallService, "s1", "heat", "total") == [{"bytes": 5}]
    assert asked.last_request.json() == {"call": {"method": "total", "arguments": {}}}
    shell.run(commands.CallService, "s1", "heat", "total", "--arguments", '{"top": 3}')
    assert asked.last_request.json() == {"call": {"method": "total", "arguments": {"top": 3}}}


@pytest.mark.parametrize(
    "answer, rows",
    [
        ("text", [{"answer": "text"}]),
        (None, [{"answer": None}]),
        ([1, {"a": 2}], [{"answer": 1, "a": None}, {"answer": None, "a": 2}]),
        ([], []),
    ],
)
def test_whatever_a_service_answers_is_shown(shell, answer, rows):
    shell.mock.post(f"{URL}/services/heat/call", json={"answer": answer})
    assert shell.run(commands.CallService, "s1", "heat", "m") == rows


def test_what_a_service_answers_cannot_command_the_terminal(shell):
    shell.mock.post(f"{URL}/services/heat/call", json={"answer": EVIL})
    text = shell.run(commands.CallService, "s1", "heat", "m", form="table")
    assert "\x1b" not in text and "x1b[2Jit" in text


def package(path, manifest=b'{"name": "heat", "version": "1.0", "vendor": "acme", "abi": 1}', name="manifest.json"):
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(manifest)
        tar.addfile(entry, io.BytesIO(manifest))
    return str(path)


def test_upload(shell, tmp_path):
    path = package(tmp_path / "heat.tar")
    shell.mock.get(f"{IMAGE}/v2/images/heat-1.0", status_code=404)
    shell.mock.get(f"{IMAGE}/v2/images", json={"images": []})
    created = shell.mock.post(f"{IMAGE}/v2/images", json={"id": "img", "status": "queued"}, status_code=201)
    put = shell.mock.put(f"{IMAGE}/v2/images/img/file", status_code=204)
    shell.mock.get(f"{IMAGE}/v2/images/img", json={"id": "img", "status": "active"})
    shown = shell.run(commands.UploadService, path)
    assert shown == {"image_id": "img", "name": "heat", "version": "1.0", "vendor": "acme"}
    assert put.called_once
    made = created.last_request.json()
    assert (made["name"], made["visibility"], made["disk_format"], made["container_format"]) == ("heat-1.0", "private", "raw", "bare")
    assert (made["mhv_service"], made["mhv_version"], made["mhv_vendor"]) == ("heat", "1.0", "acme")


@pytest.mark.parametrize(
    "manifest, name",
    [(b"{", "manifest.json"), (b"[]", "manifest.json"), (b'{"name": 1}', "manifest.json"), (b"{}", "other")]
    + [(b"[" * 60000, "manifest.json"), (b"\xff", "manifest.json")],
)
def test_what_is_no_package_is_not_uploaded(shell, tmp_path, manifest, name):
    with pytest.raises(exceptions.CommandError, match="is no package of a service"):
        shell.run(commands.UploadService, package(tmp_path / "x.tar", manifest, name))
    (tmp_path / "y").write_bytes(b"no tar" * 1000)
    for path in ("y", "none"):
        with pytest.raises(exceptions.CommandError, match="is no package of a service"):
            shell.run(commands.UploadService, str(tmp_path / path))
    assert not [request for request in shell.mock.request_history if request.url.startswith(IMAGE)]


def outcome(host, **fields):
    return {"host": host, "status": "installed", "name": "heat", "version": "1.0", "vendor": "acme", "message": "", "hint": "", **fields}


def test_install(shell, capsys):
    image = "6e1b9b62-5e1c-4b0a-8a59-3c2a1f0d7e11"
    shell.mock.get(f"{IMAGE}/v2/images/{image}", json={"id": image, "name": "heat-1.0"})
    refused = outcome("h2", status="error", message="the vendor acme of heat is not allowed here \x1b", hint="put its key there")
    sent = shell.mock.post(f"{HYPERVISOR}/v1/services", json={"hosts": [outcome("h1"), refused]})
    made = commands.InstallService(shell.app, None, cmd_name="command")
    assert made.run(made.get_parser("command").parse_args([image, "--host", "h1", "--host", "h2", "-f", "value"])) == 1
    assert sent.last_request.json() == {"service": {"image_id": image, "hosts": ["h1", "h2"]}}
    assert "acme of heat is not allowed here \\x1b" in shell.app.stdout.getvalue()
    shell.mock.post(f"{HYPERVISOR}/v1/services", json={"hosts": [outcome("h1"), outcome("h2", status="exists")]})
    made = commands.InstallService(shell.app, None, cmd_name="command")
    assert made.run(made.get_parser("command").parse_args([image])) == 0
    assert shell.mock.last_request.json() == {"service": {"image_id": image}}


def test_install_of_an_image_that_is_not_there(shell):
    shell.mock.get(f"{IMAGE}/v2/images/none", status_code=404)
    shell.mock.get(f"{IMAGE}/v2/images", json={"images": []})
    with pytest.raises(exceptions.CommandError, match="none cannot be used"):
        shell.run(commands.InstallService, "none")
