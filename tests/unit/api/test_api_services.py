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


import json

import pytest
from conftest import fault
from fake_engine import error
from keystoneauth1 import exceptions as ks_exceptions

from nova_mhv.api import views

HOLD = {"on_finding": "hold"}


def add(cloud, name="integrity", **more):
    return cloud.ask("POST", cloud.path("services"), {"service": {"name": name, **more}})


def test_add_show_list_remove(cloud):
    added = add(cloud, configuration=HOLD)
    assert added.status_int == 201
    service = added.json["service"]
    assert service == {
        "name": "integrity",
        "source": "added",
        "state": "ready",
        "message": "",
        "version": "1.0",
        "configuration": HOLD,
        "restarts": 0,
        "epochs": 7,
        "alerts": 0,
        "late": 0,
    }
    assert cloud.ask("GET", cloud.path("services", "integrity")).json == {"service": service}
    listed = cloud.ask("GET", cloud.path("services")).json["services"]["layers"]
    assert [(one["name"], one["source"], one["state"]) for one in listed] == [
        ("checkpoint", "flavor", "attached"),
        ("integrity", "added", "ready"),
    ]
    removed = cloud.ask("DELETE", cloud.path("services", "integrity"))
    assert removed.status_int == 204 and removed.body == b""
    assert fault(cloud.ask("GET", cloud.path("services", "integrity")))[0] == 404


def test_a_service_that_holds_the_network_says_so():
    layer = {"name": "integrity", "state": "ready", "message": "late", "network_hold": "kernel_text x"}
    found = {"state": "attached", "options": {"services": ["integrity"]}, "layers": [layer]}
    (shown,) = views.services(found, ())
    assert shown["message"] == "holds the network: kernel_text x; late"


def test_adding_again_changes_the_configuration(cloud):
    assert add(cloud).json["service"]["configuration"] == {}
    assert add(cloud, configuration=HOLD).json["service"]["configuration"] == HOLD


def test_a_service_of_the_flavor_stays(cloud):
    specs = {"mhv:services": "checkpoint, integrity", "mhv:configure_integrity": json.dumps(HOLD)}
    cloud.nova.servers[cloud.server]["flavor"]["extra_specs"] = specs
    cloud.engine.services[cloud.server]["integrity"] = json.dumps(HOLD)
    removed = cloud.ask("DELETE", cloud.path("services", "integrity"))
    assert fault(removed)[0] == 409 and "comes with its flavor" in fault(removed)[2]
    changed = add(cloud, configuration={"on_finding": "alert"})
    assert fault(changed)[0] == 409 and "how its service integrity is configured" in fault(changed)[2]
    assert cloud.engine.services[cloud.server]["integrity"] == json.dumps(HOLD)


def test_a_service_that_the_flavor_does_not_configure_is_the_tenants_to_configure(cloud):
    cloud.nova.servers[cloud.server]["flavor"]["extra_specs"] = {"mhv:services": "checkpoint,integrity"}
    cloud.engine.services[cloud.server]["integrity"] = ""
    changed = add(cloud, configuration=HOLD).json["service"]
    assert changed["configuration"] == HOLD and changed["source"] == "flavor"


def test_a_manifest_says_what_a_configuration_may_hold(cloud, tmp_path):
    schema = {"properties": {"baseline": {"type": "string"}}, "required": ["baseline"]}
    (tmp_path / "integrity").mkdir()
    (tmp_path / "integrity" / "manifest.json").write_text(json.dumps({"name": "integrity", "configuration": schema}))
    for wrong, says in (({}, "'baseline' is a required property"), (HOLD, "'on_finding' was unexpected")):
        refused = add(cloud, configuration=wrong)
        assert fault(refused)[0] == 400 and says in fault(refused)[2]
    assert add(cloud, configuration={"baseline": "debian"}).status_int == 201


@pytest.mark.parametrize("change", [{"status": "SHUTOFF"}, {"OS-EXT-STS:task_state": "migrating"}, {"locked": True}])
def test_only_of_servers_at_rest(cloud, change):
    add(cloud, "introspection")
    cloud.nova.servers[cloud.server].update(change)
    for answer in (add(cloud), cloud.ask("DELETE", cloud.path("services", "introspection"))):
        assert fault(answer)[0] == 409 and "change the services of" in fault(answer)[2]
    assert list(cloud.engine.services[cloud.server]) == ["checkpoint", "introspection"]


def test_what_the_host_has_not_is_refused_with_the_reason(cloud):
    cloud.engine.host["integrity"] = False
    answer = add(cloud)
    assert fault(answer)[0] == 409 and "this host has no service integrity" in fault(answer)[2]


def test_services_that_exclude_each_other_are_refused_with_both(cloud, monkeypatch):
    def refuse(*arguments):
        raise error("unsupported", "integrity and introspection both trap the kernel's text", "remove one of them")

    monkeypatch.setattr(cloud.engine, "service_add", refuse)
    answer = add(cloud)
    assert fault(answer)[0] == 409 and "integrity and introspection both" in fault(answer)[2]


def test_introspection(cloud):
    add(cloud, "introspection")
    answer = cloud.ask("GET", cloud.path("introspection", "processes"))
    assert answer.json == {"processes": [{"pid": 1, "name": "init"}]}
    cloud.engine.answer = '{"release": "6.1.0", "name": "\\u001b[2J"}'
    answer = cloud.ask("GET", cloud.path("introspection", "kernel?pid=4194304"))
    assert answer.json == {"kernel": {"release": "6.1.0", "name": "\x1b[2J"}} and "\x1b" not in answer.text
    assert cloud.engine.asked == [
        ("introspection", "processes", "{}"),
        ("introspection", "kernel", '{"pid": 4194304}'),
    ]


def test_a_server_without_introspection(cloud):
    answer = cloud.ask("GET", cloud.path("introspection", "processes"))
    assert fault(answer)[0] == 409 and "mhv:services" in answer.json["conflictingRequest"]["hint"]


def test_an_answer_that_is_no_json_is_a_fault_of_the_service(cloud):
    add(cloud, "introspection")
    cloud.engine.answer = "]"
    assert fault(cloud.ask("GET", cloud.path("introspection", "log")))[:2] == (500, "hypervisorServiceFault")


def test_alerts(cloud):
    for title in ("first", "second"):
        cloud.engine.alert(cloud.server, title)
    found = cloud.ask("GET", cloud.path("alerts")).json["alerts"]
    assert [(one["number"], one["title"], one["detail"]) for one in found] == [
        (1, "first", {"syscall": 59}),
        (2, "second", {"syscall": 59}),
    ]
    assert cloud.ask("GET", cloud.path("alerts?after=1")).json["alerts"] == found[1:]
    assert cloud.ask("GET", cloud.path(f"alerts?after={(1 << 63) - 1}")).json["alerts"] == []


def test_services_of_the_cloud(cloud):
    cloud.nova.hosts = {"h1": "up", "silent": "up", "down": "down"}
    found = cloud.ask("GET", "/v1/services", role="admin").json["services"]
    assert found == [
        {"name": "checkpoint", "version": "", "vendor": "", "tenant_addable": False, "hosts": ["h1"]},
        {"name": "integrity", "version": "1.0", "vendor": "nova-mhv", "tenant_addable": True, "hosts": ["h1"]},
        {"name": "introspection", "version": "1.0", "vendor": "nova-mhv", "tenant_addable": True, "hosts": ["h1"]},
    ]


def test_services_of_a_cloud_whose_nova_is_away(cloud):
    cloud.nova.fail = ks_exceptions.ConnectFailure("nova is down")
    assert fault(cloud.ask("GET", "/v1/services"))[:2] == (503, "serviceUnavailable")


def call(cloud, name="integrity", **call):
    return cloud.ask("POST", cloud.path("services", name, "call"), {"call": call})


def test_a_service_is_asked(cloud):
    add(cloud)
    cloud.engine.answer = '{"bytes": 5}'
    assert call(cloud, method="total").json == {"answer": {"bytes": 5}}
    assert call(cloud, method="top pages", arguments={"top": 3}).status_int == 200
    assert cloud.engine.asked == [("integrity", "total", "{}"), ("integrity", "top pages", '{"top": 3}')]


def test_a_service_that_the_server_has_not_is_not_asked(cloud):
    for name in ("integrity", "x" * 300):
        assert fault(call(cloud, name, method="total"))[0] == 409
    assert cloud.engine.asked == []


@pytest.mark.parametrize(
    "body",
    [{}, {"method": ""}, {"method": 1}, {"method": "a\n"}, {"method": "x" * 256}]
    + [{"method": "a", "arguments": []}, {"method": "a", "b": 1}],
)
def test_a_question_that_is_none(cloud, body):
    add(cloud)
    assert fault(call(cloud, **body))[0] == 400 and cloud.engine.asked == []


def install(cloud, **more):
    return cloud.ask("POST", "/v1/services", {"service": {"image_id": cloud.image, **more}}, role="admin")


def test_install_answers_for_each_host(cloud):
    cloud.nova.hosts = {"h1": "up", "silent": "up", "down": "down"}
    first, silent = install(cloud).json["hosts"]
    nothing = {"message": "", "hint": ""}
    assert first == {"host": "h1", "status": "installed", "name": "heat", "version": "1.0", "vendor": "acme", **nothing}
    assert (silent["host"], silent["status"], silent["message"]) == ("silent", "error", "Its agent does not answer.")
    assert cloud.engine.installed == [b"package"]
    names = [one["name"] for one in cloud.ask("GET", "/v1/services", role="admin").json["services"]]
    assert names == ["checkpoint", "heat", "integrity", "introspection"]


@pytest.mark.parametrize("code, status", [("exists", "exists"), ("permission", "error"), ("corrupt", "error")])
def test_a_package_that_a_host_does_not_take(cloud, code, status):
    cloud.engine.fail = error(code, "the reason", "what to do, in /etc/nova-mhv")
    (found,) = install(cloud, hosts=["h1"]).json["hosts"]
    assert (found["status"], found["message"], found["hint"]) == (status, "the reason", "what to do, in /etc/nova-mhv")
    assert cloud.engine.installed == []


def test_an_image_that_is_not_there(cloud):
    (found,) = install(cloud, image_id="00000000-0000-0000-0000-000000000000").json["hosts"]
    assert found["status"] == "error" and "could not be found" in found["message"]


@pytest.mark.parametrize(
    "body",
    [{"image_id": "../x"}, {"image_id": 1}, {"hosts": []}, {"hosts": ["h1", "h1"]}, {"hosts": "h1"}, {"hosts": [1]}, {"force": True}],
)
def test_an_installation_that_is_none(cloud, body):
    assert fault(install(cloud, **body))[0] == 400 and cloud.engine.installed == []


@pytest.mark.parametrize("host", ["down", "none", "x" * 255])
def test_a_host_that_is_not_up(cloud, host):
    cloud.nova.hosts = {"h1": "up", "down": "down"}
    answer = install(cloud, hosts=["h1", host])
    assert fault(answer)[0] == 409 and "h1" in answer.json["conflictingRequest"]["hint"]
    assert cloud.engine.installed == []


def test_a_vendor_that_is_not_allowed_any_more(cloud, monkeypatch):
    def refuse(*arguments):
        raise error("permission", "the vendor acme of integrity is not allowed here", "put its key into /etc/nova-mhv/vendors")

    monkeypatch.setattr(cloud.engine, "service_add", refuse)
    answer = add(cloud)
    assert fault(answer) == (403, "forbidden", "the vendor acme of integrity is not allowed here") and "/etc" not in answer.text
