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

import io
import uuid

import pytest
from conftest import fault

CREATE = {"checkpoint": {}}


@pytest.mark.parametrize(
    "body, says",
    [
        ({}, "'checkpoint' is missing"),
        ([], "of type object"),
        ("text", "of type object"),
        (None, "of type object"),
        ({"checkpoint": None}, "/checkpoint: it has to be of type object"),
        ({"checkpoint": {"name": 5}}, "/checkpoint/name: it has to be of type string"),
        ({"checkpoint": {"name": "x" * 256}}, "more than 255 characters"),
        ({"checkpoint": {"name": "ö" * 128}}, "more than 255 bytes"),
        ({"checkpoint": {"name": "line\nline"}}, "control characters"),
        ({"checkpoint": {"name": "end\n"}}, "control characters"),
        ({"checkpoint": {"name": "\ud800"}}, "control characters"),
        ({"checkpoint": {"nmae": "x"}}, "'nmae' is not known; known are: name"),
        ({"checkpoint": {}, "force": True}, "'force' is not known"),
    ],
)
def test_wrong_bodies(cloud, body, says):
    import json

    answer = cloud.ask(
        "POST",
        cloud.path("checkpoints"),
        body=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    assert fault(answer)[:2] == (400, "badRequest") and says in fault(answer)[2]
    assert cloud.engine.guests[cloud.server] == []


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 60000, b'{"checkpoint": NaN', b"1" * 6000])
def test_bodies_that_are_no_json(cloud, raw):
    answer = cloud.ask("POST", cloud.path("checkpoints"), body=raw, headers={"Content-Type": "application/json"})
    assert fault(answer)[:2] == (400, "badRequest") and len(answer.text) < 1000


def test_body_of_another_type(cloud):
    answer = cloud.ask("POST", cloud.path("checkpoints"), body=b"<a/>", headers={"Content-Type": "text/xml"})
    assert fault(answer)[:2] == (415, "badMediaType")


def test_huge_body(cloud):
    answer = cloud.ask("POST", cloud.path("checkpoints"), {"checkpoint": {"name": "x" * (1 << 20)}})
    assert fault(answer)[:2] == (413, "overLimit")


def test_huge_body_of_unknown_length(cloud):
    answer = cloud.ask(
        "POST",
        cloud.path("checkpoints"),
        headers={"Content-Type": "application/json"},
        environ={"wsgi.input": io.BytesIO(b" " * (1 << 20)), "wsgi.input_terminated": True},
    )
    assert fault(answer)[:2] == (413, "overLimit")


def test_restore_takes_no_fields(cloud):
    checkpoint = cloud.checkpoint()
    answer = cloud.ask("POST", cloud.path("checkpoints", checkpoint, "restore"), {"force": True})
    assert fault(answer)[0] == 400 and "'force' is not known" in fault(answer)[2]


@pytest.mark.parametrize("name", ["", "x" * 255, "zwei Wörter", "名前", "../../etc", "'; drop"])
def test_names_that_are_fine(cloud, name):
    operation = cloud.finish(cloud.ask("POST", cloud.path("checkpoints"), {"checkpoint": {"name": name}}))
    assert operation["result"]["checkpoint"]["name"] == name


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=-1", "limit=x", "limit=1e3", "limit=" + "9" * 50, "limit=", "limit=1&limit=2", "limit=%C2%B2"]
    + ["marker=x", "marker=..%2F..", "sort=name", "markers=1", "%ff=1", "marker=%ff"],
)
def test_wrong_queries(cloud, query):
    assert fault(cloud.ask("GET", cloud.path("checkpoints") + "?" + query))[0] == 400


@pytest.mark.parametrize("server", ["x", "..", "%2e%2e%2f", "a" * 5000, "%00", "%ff", "{}"])
def test_ids_that_no_server_has(cloud, server):
    answer = cloud.ask("GET", f"/v1/servers/{server}/checkpoints")
    assert fault(answer)[0] in (400, 404) and len(answer.text) < 500


@pytest.mark.parametrize("checkpoint", ["x", "..", "a" * 5000, "%00", str(uuid.uuid4())[:-1] + "%D9%A1"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_ids_that_no_checkpoint_has(cloud, checkpoint, method):
    answer = cloud.ask(method, cloud.path("checkpoints", checkpoint))
    assert fault(answer)[0] == 404 and len(answer.text) < 500


def test_ids_in_capitals(cloud):
    checkpoint = cloud.checkpoint()
    answer = cloud.ask("GET", cloud.path("checkpoints", checkpoint.upper(), server=cloud.server.upper()))
    assert answer.json["checkpoint"]["id"] == checkpoint


@pytest.mark.parametrize(
    "method, path, allow",
    [
        ("PUT", "checkpoints", "GET, POST"),
        ("PATCH", "services", "GET, POST"),
        ("PUT", "services/x", "DELETE, GET"),
        ("POST", "operations/x", "GET"),
        ("POST", "introspection/log", "GET"),
    ],
)
def test_wrong_methods(cloud, method, path, allow):
    answer = cloud.ask(method, cloud.path(path))
    assert fault(answer)[:2] == (405, "badMethod") and answer.headers["Allow"] == allow


@pytest.mark.parametrize("path", ["/v2/servers", "/v1/servers", "/v1/servers//checkpoints", "/v1/x", "/etc/passwd"])
def test_unknown_resources(cloud, path):
    assert fault(cloud.ask("GET", path))[:2] == (404, "itemNotFound")


@pytest.mark.parametrize(
    "body, says",
    [
        ({}, "'service' is missing"),
        ({"service": {}}, "'name' is missing"),
        ({"service": {"name": 5}}, "/service/name: it has to be of type string"),
        ({"service": {"name": "../x"}}, "/service/name: it is no name of a service"),
        ({"service": {"name": "integrity\n"}}, "/service/name: it is no name of a service"),
        ({"service": {"name": "i" * 33}}, "/service/name: it is no name of a service"),
        ({"service": {"name": "integrity", "configuration": "hold"}}, "/service/configuration: it has to be of type"),
        ({"service": {"name": "integrity", "configuration": {"on_finding": "panic"}}}, "wrong at /on_finding: 'panic'"),
        ({"service": {"name": "integrity", "configuration": {"on_finding": float("nan")}}}, "NaN is no JSON"),
        ({"service": {"name": "integrity"}, "force": True}, "'force' is not known"),
    ],
)
def test_wrong_services(cloud, body, says):
    answer = cloud.ask("POST", cloud.path("services"), body)
    assert fault(answer)[:2] == (400, "badRequest") and says in fault(answer)[2]
    assert list(cloud.engine.services[cloud.server]) == ["checkpoint"]


@pytest.mark.parametrize(
    "path",
    [
        *(f"introspection/processes?pid={pid}" for pid in ("-1", "x", "4194305", "", "1&pid=2", "%C2%B2")),
        "introspection/processes?name=x",
        *(f"alerts?{query}" for query in ("after=-1", "after=" + "9" * 20, "after=1.5", "limit=1")),
    ],
)
def test_wrong_queries_of_layers(cloud, path):
    cloud.engine.services[cloud.server]["introspection"] = ""
    assert fault(cloud.ask("GET", cloud.path(path)))[0] == 400
    assert cloud.engine.asked == []


@pytest.mark.parametrize("kind", ["x", "..", "Processes", "processes%0a", "a" * 5000])
def test_kinds_that_introspection_does_not_know(cloud, kind):
    cloud.engine.services[cloud.server]["introspection"] = ""
    answer = cloud.ask("GET", cloud.path("introspection", kind))
    assert fault(answer)[0] == 404 and len(answer.text) < 500 and cloud.engine.asked == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("name", ["x", "..", "a" * 5000, "%00"])
def test_services_that_the_server_has_not(cloud, method, name):
    answer = cloud.ask(method, cloud.path("services", name))
    assert fault(answer)[0] == 404 and len(answer.text) < 500


def test_the_clouds_services_take_no_query(cloud):
    assert fault(cloud.ask("GET", "/v1/services?host=h1"))[0] == 400
