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
from conftest import fault

READS = ["index", "show", "operation", "services", "service", "alerts"]
WRITES = ["create", "delete", "restore", "export", "verify", "add", "remove", "introspect", "call"]


def request(cloud, action, server, checkpoint, **who):
    def path(*steps):
        return cloud.path(*steps, server=server)

    match action:
        case "index":
            return cloud.ask("GET", path("checkpoints"), **who)
        case "create":
            return cloud.ask("POST", path("checkpoints"), {"checkpoint": {}}, **who)
        case "show" | "delete":
            return cloud.ask({"show": "GET"}.get(action, "DELETE"), path("checkpoints", checkpoint), **who)
        case "restore" | "export":
            return cloud.ask("POST", path("checkpoints", checkpoint, action), **who)
        case "verify":
            return cloud.ask("POST", path("checkpoints", "verify"), **who)
        case "operation":
            return cloud.ask("GET", path("operations", str(uuid.uuid4())), **who)
        case "services":
            return cloud.ask("GET", path("services"), **who)
        case "service":
            return cloud.ask("GET", path("services", "checkpoint"), **who)
        case "add":
            return cloud.ask("POST", path("services"), {"service": {"name": "integrity"}}, **who)
        case "remove":
            cloud.engine.services[server if server in cloud.engine.services else cloud.server]["introspection"] = ""
            return cloud.ask("DELETE", path("services", "introspection"), **who)
        case "introspect":
            return cloud.ask("GET", path("introspection", "processes"), **who)
        case "call":
            return cloud.ask("POST", path("services", "checkpoint", "call"), {"call": {"method": "total"}}, **who)
        case "alerts":
            return cloud.ask("GET", path("alerts"), **who)


@pytest.mark.parametrize("action", READS + WRITES)
@pytest.mark.parametrize("role", ["reader", "member"])
def test_server_of_another_project_is_not_there(cloud, action, role):
    checkpoint = cloud.checkpoint(cloud.foreign)
    answer = request(cloud, action, cloud.foreign, checkpoint, role=role)
    missing = str(uuid.uuid4())
    nowhere = request(cloud, action, missing, checkpoint, role=role)
    assert fault(answer)[:2] == (404, "itemNotFound")
    # Not a word tells it from a server that does not exist.
    assert fault(answer)[2].replace(cloud.foreign, missing) == fault(nowhere)[2]
    assert len(cloud.engine.guests[cloud.foreign]) == 1 and cloud.notifier.sent == []
    assert "integrity" not in cloud.engine.services[cloud.foreign] and cloud.engine.asked == []


@pytest.mark.parametrize("action", ["show", "delete", "restore", "export"])
def test_checkpoint_of_another_server_is_not_there(cloud, action):
    checkpoint = cloud.checkpoint(cloud.foreign)
    assert fault(request(cloud, action, cloud.server, checkpoint))[0] == 404
    assert len(cloud.engine.guests[cloud.foreign]) == 1


def test_operation_of_another_server_is_not_there(cloud):
    path = cloud.path("checkpoints", server=cloud.foreign)
    made = cloud.ask("POST", path, {"checkpoint": {}}, project_id=cloud.theirs)
    assert fault(cloud.ask("GET", cloud.path("operations", made.json["operation"]["id"])))[0] == 404


@pytest.mark.parametrize("action", WRITES)
def test_readers_change_nothing(cloud, action):
    checkpoint = cloud.checkpoint()
    answer = request(cloud, action, cloud.server, checkpoint, role="reader")
    assert fault(answer)[:2] == (403, "forbidden")
    assert len(cloud.engine.guests[cloud.server]) == 1
    assert "integrity" not in cloud.engine.services[cloud.server] and cloud.engine.asked == []


@pytest.mark.parametrize("action", ["index", "show", "services", "service", "alerts"])
def test_readers_read(cloud, action):
    assert request(cloud, action, cloud.server, cloud.checkpoint(), role="reader").status_int == 200


@pytest.mark.parametrize("action", READS + WRITES)
def test_other_roles_do_nothing(cloud, action):
    assert fault(request(cloud, action, cloud.server, cloud.checkpoint(), role="nobody"))[0] == 403


@pytest.mark.parametrize(
    "action, status",
    [("index", 200), ("show", 200), ("create", 202), ("delete", 204)]
    + [("add", 201), ("remove", 204), ("alerts", 200), ("service", 200)],
)
def test_operator_may_do_it_to_every_server(cloud, action, status):
    checkpoint = cloud.checkpoint(cloud.foreign)
    assert request(cloud, action, cloud.foreign, checkpoint, role="admin").status_int == status


def test_policy_file_decides(cloud, tmp_path):
    (tmp_path / "policy.yaml").write_text('"hypervisor_service:checkpoints:create": "role:admin"\n')
    cloud.conf.set_override("policy_file", str(tmp_path / "policy.yaml"), group="oslo_policy")
    assert fault(request(cloud, "create", cloud.server, ""))[0] == 403
    assert request(cloud, "create", cloud.server, "", role="admin").status_int == 202


@pytest.mark.parametrize("action", READS + WRITES)
def test_no_token(cloud, action):
    answer = request(cloud, action, cloud.server, cloud.checkpoint(), role=None)
    assert answer.status_int == 401 and "Keystone" in answer.headers["WWW-Authenticate"]


def test_wrong_token(cloud):
    assert cloud.ask("GET", cloud.path("checkpoints"), role=None, headers={"X-Auth-Token": "x"}).status_int == 401


def test_members_add_only_what_the_operator_lists(cloud):
    cloud.engine.host["heat-map"] = True
    body = {"service": {"name": "heat-map"}}
    refused = cloud.ask("POST", cloud.path("services"), body)
    assert fault(refused)[:2] == (403, "forbidden") and "introspection, integrity" in refused.json["forbidden"]["hint"]
    assert cloud.ask("POST", cloud.path("services"), body, role="admin").status_int == 201
    assert fault(cloud.ask("DELETE", cloud.path("services", "heat-map")))[0] == 403
    assert cloud.ask("DELETE", cloud.path("services", "heat-map"), role="admin").status_int == 204


def test_the_operator_may_list_none(cloud):
    cloud.conf.set_override("tenant_addable", [], group="layers")
    refused = cloud.ask("POST", cloud.path("services"), {"service": {"name": "integrity"}})
    assert fault(refused)[0] == 403 and refused.json["forbidden"]["hint"] == "The operator allows none."


def test_hosts_of_the_clouds_services_are_for_the_operator(cloud):
    assert all("hosts" not in one for one in cloud.ask("GET", "/v1/services", role="reader").json["services"])
    assert all(one["hosts"] == ["h1"] for one in cloud.ask("GET", "/v1/services", role="admin").json["services"])
    assert fault(cloud.ask("GET", "/v1/services", role="nobody"))[0] == 403
    assert cloud.ask("GET", "/v1/services", role=None).status_int == 401


@pytest.mark.parametrize("role", ["reader", "member"])
def test_packages_are_installed_by_operators_alone(cloud, role):
    body = {"service": {"image_id": cloud.image}}
    assert fault(cloud.ask("POST", "/v1/services", body, role=role))[0] == 403
    assert cloud.ask("POST", "/v1/services", body, role=None).status_int == 401
    assert cloud.engine.installed == []
    assert cloud.ask("POST", "/v1/services", body, role="admin").status_int == 200


def test_introspection_is_asked_by_those_who_may_introspect_alone(cloud, tmp_path):
    (tmp_path / "policy.yaml").write_text('"hypervisor_service:introspection:show": "role:admin"\n')
    cloud.conf.set_override("policy_file", str(tmp_path / "policy.yaml"), group="oslo_policy")
    cloud.engine.services[cloud.server] |= {"introspection": "", "integrity": ""}
    body = {"call": {"method": "processes"}}
    assert fault(cloud.ask("POST", cloud.path("services", "introspection", "call"), body))[0] == 403
    assert cloud.ask("POST", cloud.path("services", "introspection", "call"), body, role="admin").status_int == 200
    assert cloud.ask("POST", cloud.path("services", "integrity", "call"), body).status_int == 200
