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

import pytest
from conftest import fault

from nova_mhv.api import app

HEADER = "OpenStack-API-Version"


def test_documents_need_no_token(cloud):
    root = cloud.ask("GET", "/", role=None)
    (version,) = root.json["versions"]
    assert (version["status"], version["min_version"], version["max_version"]) == ("CURRENT", "1.0", "1.2")
    assert version["links"] == [{"rel": "self", "href": "http://localhost/v1/"}]
    for path in ("/v1", "/v1/"):
        assert cloud.ask("GET", path, role=None).json == {"version": version}


def test_links_below_a_prefix(cloud):
    answer = cloud.ask("GET", "/", role=None, environ={"SCRIPT_NAME": "/hypervisor"})
    assert answer.json["versions"][0]["links"][0]["href"] == "http://localhost/hypervisor/v1/"


@pytest.mark.parametrize(
    "header, version",
    [
        (None, "1.0"),
        ("hypervisor-service 1.0", "1.0"),
        ("hypervisor-service 1.1", "1.1"),
        ("compute 2.96, hypervisor-service latest", "1.2"),
        ("compute 2.1", "1.0"),
    ],
)
def test_versions_that_are_served(cloud, header, version):
    headers = {HEADER: header} if header else {}
    answer = cloud.ask("GET", cloud.path("checkpoints"), headers=headers, version=None)
    assert answer.status_int == 200
    assert answer.headers[HEADER] == f"hypervisor-service {version}" and HEADER in answer.headers["Vary"]


@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "servers/{server}/services/checkpoint"),
        ("DELETE", "servers/{server}/services/checkpoint"),
        ("GET", "servers/{server}/introspection/processes"),
        ("GET", "servers/{server}/alerts"),
        ("GET", "services"),
    ],
)
def test_resources_of_a_later_version_are_not_in_an_earlier_one(cloud, method, path):
    answer = cloud.ask(method, "/v1/" + path.format(server=cloud.server), version="1.0")
    assert fault(answer)[0] == 404 and "version" in answer.json["itemNotFound"]["hint"]


def test_services_of_a_server_have_their_layers_from_1_1_on(cloud):
    old = cloud.ask("GET", cloud.path("services"), version="1.0").json["services"]
    new = cloud.ask("GET", cloud.path("services"), version="1.1").json["services"]
    assert [one["name"] for one in new.pop("layers")] == ["checkpoint"] and old == new
    assert fault(cloud.ask("POST", cloud.path("services"), {}, version="1.0"))[:2] == (405, "badMethod")


def test_services_are_asked_and_installed_from_1_2_on(cloud):
    for path, status in ((cloud.path("services", "checkpoint", "call"), 404), ("/v1/services", 405)):
        assert fault(cloud.ask("POST", path, {}, version="1.1"))[0] == status
        assert fault(cloud.ask("POST", path, {}, version="1.2"))[0] == 400


@pytest.mark.parametrize("version", ["1.3", "2.0", "1.9999"])
def test_versions_out_of_range(cloud, version):
    answer = cloud.ask("GET", cloud.path("checkpoints"), headers={HEADER: f"hypervisor-service {version}"})
    assert fault(answer)[:2] == (406, "notAcceptable") and answer.headers[HEADER] == "hypervisor-service 1.0"


@pytest.mark.parametrize("version", ["one", "1", "01.0", "1.00", "-1.0", "1.0 1.0", "", "1" * 1000 + ".0"])
def test_versions_that_are_none(cloud, version):
    answer = cloud.ask("GET", cloud.path("checkpoints"), headers={HEADER: f"hypervisor-service {version}"})
    assert fault(answer)[:2] == (400, "badRequest")


def test_health(cloud):
    assert cloud.ask("GET", "/healthcheck", role=None).status_int == 200


def test_missing_configuration_is_named(tmp_path):
    with pytest.raises(Exception, match="mhv-api.conf"):
        app.load_config({"OS_MHV_CONFIG_DIR": str(tmp_path)}, app.cfg.ConfigOpts())
