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
from conftest import NovaAnswer, fault
from fake_engine import error
from keystoneauth1 import exceptions as ks_exceptions


def test_create_list_show_delete(cloud):
    answer = cloud.ask("POST", cloud.path("checkpoints"), {"checkpoint": {"name": "before"}})
    operation = cloud.finish(answer)
    assert (operation["status"], operation["action"]) == ("done", "create")
    made = operation["result"]["checkpoint"]
    (listed,) = cloud.ask("GET", cloud.path("checkpoints")).json["checkpoints"]
    shown = cloud.ask("GET", cloud.path("checkpoints", made["id"])).json["checkpoint"]
    assert made == listed == shown
    assert shown["name"] == "before" and shown["parent_id"] is None and shown["server_id"] == cloud.server
    assert shown["created_at"] == "2023-11-14T22:13:20.123Z" and shown["current"] is True
    deleted = cloud.ask("DELETE", cloud.path("checkpoints", made["id"]))
    assert deleted.status_int == 204 and deleted.body == b""
    assert cloud.ask("GET", cloud.path("checkpoints")).json == {"checkpoints": []}


def test_nothing_of_the_host_is_shown(cloud):
    cloud.checkpoint()
    texts = [cloud.ask("GET", cloud.path(name)).text for name in ("checkpoints", "services")]
    for secret in ("/secret/disk", "/dev/sdx", "h1", "qemu_pid", "instance-00000001"):
        assert not any(secret in text for text in texts), secret


def test_restore(cloud):
    checkpoint = cloud.checkpoint()
    operation = cloud.finish(cloud.ask("POST", cloud.path("checkpoints", checkpoint, "restore")))
    assert operation["result"]["in_place"] and operation["result"]["checkpoint"]["id"] == checkpoint
    assert operation["checkpoint_id"] == checkpoint


def test_export_belongs_to_who_asked(cloud):
    checkpoint = cloud.checkpoint()
    operation = cloud.finish(cloud.ask("POST", cloud.path("checkpoints", checkpoint, "export"), {}))
    assert operation["result"] == {"image_id": f"image-of-{cloud.mine}", "bytes": 1}


def test_verify(cloud):
    cloud.checkpoint()
    operation = cloud.finish(cloud.ask("POST", cloud.path("checkpoints", "verify")))
    assert operation["result"]["problems"] == []


def test_services(cloud):
    services = cloud.ask("GET", cloud.path("services")).json["services"]
    assert services["services"] == ["checkpoint"] and services["state"] == "attached"


def test_pages_follow_their_links(cloud):
    made = [cloud.checkpoint() for _ in range(7)]
    url, seen, sizes = cloud.path("checkpoints") + "?limit=3", [], []
    while url:
        body = cloud.ask("GET", url).json
        seen += [entry["id"] for entry in body["checkpoints"]]
        sizes.append(len(body["checkpoints"]))
        url = body["checkpoints_links"][0]["href"] if "checkpoints_links" in body else None
    assert seen == made and sizes == [3, 3, 1]


def test_page_is_never_larger_than_the_operator_allows(cloud):
    for _ in range(7):
        cloud.checkpoint()
    for query in ("", "?limit=1000"):
        body = cloud.ask("GET", cloud.path("checkpoints") + query).json
        assert len(body["checkpoints"]) == 5 and body["checkpoints_links"][0]["rel"] == "next"


def test_unknown_marker(cloud):
    cloud.checkpoint()
    answer = cloud.ask("GET", cloud.path("checkpoints") + f"?marker={uuid.uuid4()}")
    assert fault(answer)[:2] == (400, "badRequest") and "marker" in fault(answer)[2]


def test_one_operation_at_a_time(cloud):
    cloud.engine.gate.clear()
    first = cloud.ask("POST", cloud.path("checkpoints"), {"checkpoint": {}})
    assert cloud.engine.entered.acquire(timeout=30)
    seen = cloud.ask("GET", first.headers["Location"].removeprefix("http://localhost")).json["operation"]
    assert (seen["status"], seen["stage"], seen["result"]) == ("running", "copying memory", None)
    second = cloud.ask("POST", cloud.path("checkpoints"), {"checkpoint": {}})
    assert fault(second)[:2] == (409, "conflictingRequest") and first.json["operation"]["id"] in second.text
    cloud.engine.gate.set()
    assert cloud.finish(first)["status"] == "done"


def test_failed_operation_tells_why(cloud):
    cloud.engine.fail = error("no-space", "the disk is full", "delete old checkpoints")
    operation = cloud.finish(cloud.ask("POST", cloud.path("checkpoints"), {"checkpoint": {}}))
    assert operation["status"] == "error" and operation["result"] is None
    assert operation["error"] == {"code": "no-space", "message": "the disk is full", "hint": "delete old checkpoints"}


def test_unknown_operation_points_to_the_list(cloud):
    answer = cloud.ask("GET", cloud.path("operations", str(uuid.uuid4())))
    assert fault(answer)[0] == 404 and "list of checkpoints" in answer.json["itemNotFound"]["hint"]


@pytest.mark.parametrize("status", ["SHUTOFF", "PAUSED", "SUSPENDED", "BUILD", "ERROR", "VERIFY_RESIZE"])
@pytest.mark.parametrize("action", ["create", "restore"])
def test_only_active_servers(cloud, status, action):
    checkpoint = cloud.checkpoint()
    cloud.nova.servers[cloud.server]["status"] = status
    if action == "create":
        answer = cloud.ask("POST", cloud.path("checkpoints"), {"checkpoint": {}})
    else:
        answer = cloud.ask("POST", cloud.path("checkpoints", checkpoint, "restore"))
    assert fault(answer)[0] == 409 and status in fault(answer)[2]
    assert cloud.ask("GET", cloud.path("checkpoints", checkpoint)).status_int == 200


def test_not_while_nova_works_on_the_server(cloud):
    cloud.nova.servers[cloud.server]["OS-EXT-STS:task_state"] = "migrating"
    answer = cloud.ask("POST", cloud.path("checkpoints"), {"checkpoint": {}})
    assert fault(answer)[0] == 409 and "migrating" in fault(answer)[2]


def test_locked_server_is_not_restored(cloud):
    checkpoint = cloud.checkpoint()
    cloud.nova.servers[cloud.server]["locked"] = True
    answer = cloud.ask("POST", cloud.path("checkpoints", checkpoint, "restore"))
    assert fault(answer)[0] == 409 and "locked" in fault(answer)[2]
    assert cloud.finish(cloud.ask("POST", cloud.path("checkpoints"), {"checkpoint": {}}))["status"] == "done"


def test_server_on_no_host(cloud):
    cloud.nova.servers[cloud.server].update({"OS-EXT-SRV-ATTR:host": None, "status": "SHELVED_OFFLOADED"})
    answer = cloud.ask("GET", cloud.path("checkpoints"))
    assert fault(answer)[0] == 409 and "SHELVED_OFFLOADED" in fault(answer)[2]


def test_server_without_the_service(cloud):
    server = cloud.nova.add(cloud.mine)
    for answer in (
        cloud.ask("GET", cloud.path("checkpoints", server=server)),
        cloud.ask("GET", cloud.path("services", server=server)),
        cloud.ask("POST", cloud.path("checkpoints", server=server), {"checkpoint": {}}),
    ):
        assert fault(answer)[0] == 409
        assert "mhv:services=checkpoint" in answer.json["conflictingRequest"]["hint"]


def test_no_agent_on_the_host(cloud):
    cloud.nova.servers[cloud.server]["OS-EXT-SRV-ATTR:host"] = "h2"
    answer = cloud.ask("GET", cloud.path("checkpoints"))
    assert fault(answer)[:2] == (503, "serviceUnavailable") and "h2" not in answer.text


@pytest.mark.parametrize(
    "failure",
    [
        ks_exceptions.ConnectFailure("nova is down"),
        NovaAnswer(500, {}),
        NovaAnswer(401, {}),
        NovaAnswer(200, {"server": {"id": "x", "tenant_id": "y", "status": "ACTIVE"}}),
        NovaAnswer(200, {"server": {"id": "x", "tenant_id": "y", "OS-EXT-SRV-ATTR:host": "h1", "flavor": {}}}),
    ],
)
def test_nova_cannot_be_asked(cloud, failure):
    cloud.nova.fail = failure
    assert fault(cloud.ask("GET", cloud.path("checkpoints")))[:2] == (503, "serviceUnavailable")


@pytest.mark.parametrize(
    "code, status",
    [("unsupported", 409), ("gone", 409), ("unavailable", 503), ("no-space", 507), ("corrupt", 500), ("internal", 500)],
)
def test_engine_codes_in_http(cloud, monkeypatch, code, status):
    def fail(*arguments):
        raise error(code, "what failed", "what to do")

    monkeypatch.setattr(cloud.engine, "checkpoint_list", fail)
    answer = cloud.ask("GET", cloud.path("checkpoints"))
    assert fault(answer)[0] == status and "what to do" in answer.text


def test_unexpected_failure_is_json_with_a_request_id(cloud, monkeypatch):
    monkeypatch.setattr(cloud.nova, "get", None)
    answer = cloud.ask("GET", cloud.path("checkpoints"))
    assert fault(answer)[:2] == (500, "hypervisorServiceFault")
    assert answer.headers["x-openstack-request-id"].startswith("req-") and "NoneType" not in answer.text
