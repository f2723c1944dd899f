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

import fake_engine
import pytest
from oslo_context import context as oslo_context
from oslo_messaging.rpc import dispatcher

from nova_mhv import engine
from nova_mhv.agent.endpoint import ENGINE_TROUBLE, ENGINE_TROUBLE_HINT, AgentEndpoint
from nova_mhv.agent.operations import Operations
from nova_mhv.rpc import AgentError

SERVER = str(uuid.uuid4())
CONTEXT = oslo_context.RequestContext(user_id="user", project_id="project")


class FakeExporter:
    def export(self, client, context, server_id, checkpoint_id, progress):
        return {"image_id": f"image-of-{context.project_id}", "bytes": 1}


class Agent:
    def __init__(self, *guests):
        self.engine = fake_engine.FakeEngine(*guests)
        self.operations = Operations(workers=1, kept=3)
        self.notifier = fake_engine.FakeNotifier()
        self.packages = fake_engine.FakePackages(image=b"package")
        self.endpoint = AgentEndpoint(lambda: self.engine, self.operations, self.notifier, FakeExporter(), self.packages)

    def call(self, method, **arguments):
        """As the RPC server calls it: the exception that would be sent."""
        try:
            return getattr(self.endpoint, method)(CONTEXT, server_id=SERVER, **arguments)
        except dispatcher.ExpectedException as error:
            raise error.exc_info[1] from None

    def run(self, method, **arguments):
        return fake_engine.wait_finished(self.operations, self.call(method, **arguments))


@pytest.fixture
def agent():
    made = Agent(SERVER)
    yield made
    made.engine.gate.set()
    assert made.operations.stop(30)


def test_create_runs_as_an_operation(agent):
    agent.engine.gate.clear()
    started = agent.call("checkpoint_create", name="before")
    assert (started["status"], started["action"], started["server_id"]) == ("running", "create", SERVER)
    assert agent.engine.entered.acquire(timeout=30)
    seen = agent.call("operation_show", operation_id=started["id"])
    assert (seen["stage"], seen["done"], seen["total"]) == ("copying memory", 1, 2)
    agent.engine.gate.set()
    done = fake_engine.wait_finished(agent.operations, started)
    assert done["status"] == "done" and done["error"] is None and done["finished_at"]
    assert done["result"]["checkpoint"]["name"] == "before"


def test_one_operation_per_server(agent):
    agent.engine.gate.clear()
    first = agent.call("checkpoint_create", name="")
    with pytest.raises(AgentError) as caught:
        agent.call("checkpoint_create", name="")
    assert caught.value.code == "busy" and first["id"] in caught.value.message
    agent.engine.gate.set()
    fake_engine.wait_finished(agent.operations, first)
    assert agent.run("checkpoint_create", name="")["status"] == "done"


def test_engine_error_ends_the_operation(agent):
    agent.engine.fail = fake_engine.error("no-space", "the disk is full", "delete checkpoints")
    failed = agent.run("checkpoint_create", name="")
    assert failed["status"] == "error" and failed["result"] is None
    assert failed["error"] == {"code": "no-space", "message": "the disk is full", "hint": "delete checkpoints"}


def test_unexpected_error_tells_nothing_of_the_host(agent):
    agent.engine.fail = RuntimeError("/secret/path")
    failed = agent.run("checkpoint_create", name="")
    assert failed["error"]["code"] == "internal" and "/secret" not in str(failed)


def test_operation_of_another_server_is_not_shown(agent):
    done = agent.run("checkpoint_create", name="")
    with pytest.raises(AgentError) as caught:
        agent.operations.show(str(uuid.uuid4()), done["id"])
    assert caught.value.code == "not-found"


def test_finished_operations_are_bounded(agent):
    ids = [agent.run("checkpoint_create", name="")["id"] for _ in range(3)]
    with pytest.raises(AgentError) as caught:
        agent.call("operation_show", operation_id=ids[0])
    assert caught.value.code == "not-found" and "list" in caught.value.hint
    assert agent.call("operation_show", operation_id=ids[2])["status"] == "done"


def test_stopping_agent_takes_no_operation():
    made = Agent(SERVER)
    assert made.operations.stop(30)
    with pytest.raises(AgentError) as caught:
        made.call("checkpoint_create", name="")
    assert caught.value.code == "unavailable"


@pytest.mark.parametrize(
    "method, arguments",
    [
        ("checkpoint_list", {"marker": "", "limit": 1}),
        ("checkpoint_show", {"checkpoint_id": str(uuid.uuid4())}),
        ("checkpoint_delete", {"checkpoint_id": str(uuid.uuid4())}),
        ("checkpoint_create", {"name": ""}),
        ("checkpoint_restore", {"checkpoint_id": str(uuid.uuid4())}),
        ("checkpoint_export", {"checkpoint_id": str(uuid.uuid4())}),
        ("checkpoint_verify", {}),
        ("guest_status", {}),
        ("service_add", {"service": "integrity", "configuration": ""}),
        ("service_remove", {"service": "integrity"}),
        ("introspect", {"kind": "processes", "pid": None}),
        ("service_call", {"service": "heat", "question": "total", "arguments": "{}"}),
        ("alert_list", {"after": 0}),
    ],
)
def test_server_without_the_service(method, arguments):
    made = Agent()
    with pytest.raises(AgentError) as caught:
        made.call(method, **arguments)
    assert caught.value.code == "no-service" and "mhv:services=checkpoint" in caught.value.hint


@pytest.mark.parametrize("method", ["checkpoint_show", "checkpoint_delete", "checkpoint_restore", "checkpoint_export"])
def test_unknown_checkpoint_is_told_at_once(agent, method):
    with pytest.raises(AgentError) as caught:
        agent.call(method, checkpoint_id=str(uuid.uuid4()))
    assert caught.value.code == "not-found"


def test_restore_export_verify(agent):
    checkpoint = agent.engine.add(SERVER)
    restored = agent.run("checkpoint_restore", checkpoint_id=checkpoint["id"])
    assert restored["result"]["in_place"] and restored["checkpoint_id"] == checkpoint["id"]
    exported = agent.run("checkpoint_export", checkpoint_id=checkpoint["id"])
    assert exported["result"]["image_id"] == "image-of-project"
    assert agent.run("checkpoint_verify")["result"]["problems"] == []


def test_notifications_of_create(agent):
    done = agent.run("checkpoint_create", name="n")
    checkpoint_id = done["result"]["checkpoint"]["id"]
    about = {"server_id": SERVER, "operation_id": done["id"], "name": "n"}
    assert agent.notifier.sent == [
        ("create.start", about),
        ("create.end", {**about, "checkpoint_id": checkpoint_id}),
    ]


def test_notifications_of_failures(agent):
    agent.engine.fail = fake_engine.error("gone", "the guest ended", "")
    agent.run("checkpoint_create", name="")
    with pytest.raises(AgentError):
        agent.call("checkpoint_delete", checkpoint_id="no-such")
    assert [event for event, _ in agent.notifier.sent] == [
        "create.start",
        "create.error",
        "delete.start",
        "delete.error",
    ]
    assert agent.notifier.sent[1][1]["error"]["code"] == "gone"


@pytest.mark.parametrize(
    ("message", "hint", "told_message", "told_hint"),
    [
        (f"mhvd does not answer on {engine.DEFAULT_SOCKET}", "start it", ENGINE_TROUBLE, ENGINE_TROUBLE_HINT),
        ("cannot open /var/lib/nova-mhv/guests/x", "", ENGINE_TROUBLE, ENGINE_TROUBLE_HINT),
        ("the server is held", "when it is over, or: mhvctl release x", "the server is held", ENGINE_TROUBLE_HINT),
        ("no checkpoint x", "list them", "no checkpoint x", "list them"),
        ("the guest's memory has 1/2 of what it had", "", "the guest's memory has 1/2 of what it had", ""),
    ],
)
def test_files_and_commands_of_the_host_are_for_its_operator(message, hint, told_message, told_hint):
    class Failing:
        def __getattr__(self, name):
            def fail(*arguments):
                raise fake_engine.error("unavailable", message, hint)

            return fail

    endpoint = AgentEndpoint(Failing, Operations(1, 1), fake_engine.FakeNotifier(), FakeExporter(), fake_engine.FakePackages())
    with pytest.raises(dispatcher.ExpectedException) as caught:
        endpoint.guest_status(CONTEXT, SERVER)
    told = caught.value.exc_info[1]
    assert (told.code, told.message, told.hint) == ("unavailable", told_message, told_hint)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("", ""),
        ("its process exited with status 7", "its process exited with status 7"),
        ("it cannot be started: the vendor v is not allowed here; put its key there: /etc/nova-mhv/vendors/v.pem",
         "it cannot be started: the vendor v is not allowed here"),
        ("cannot run /var/lib/nova-mhv/layers/x/1/p", ENGINE_TROUBLE),
    ],
)  # fmt: skip
def test_why_a_layer_does_not_run(agent, monkeypatch, message, told):
    agent.engine.services[SERVER]["heat"] = ""
    monkeypatch.setitem(fake_engine.LAYER, "message", message)
    assert [layer["message"] for layer in agent.call("guest_status")["layers"]] == [told]


def test_services_come_and_go(agent):
    agent.call("service_add", service="integrity", configuration='{"on_finding": "stop"}')
    status = agent.call("guest_status")
    assert status["options"]["services"] == ["checkpoint", "integrity"]
    assert status["options"]["configurations"] == {"integrity": '{"on_finding": "stop"}'}
    agent.call("service_remove", service="integrity")
    assert agent.call("guest_status")["options"]["services"] == ["checkpoint"]


def test_a_server_whose_services_ended_gets_none(agent):
    agent.engine.services[SERVER].clear()
    for method, arguments in (("service_add", {"configuration": ""}), ("service_remove", {})):
        with pytest.raises(AgentError) as caught:
            agent.call(method, service="integrity", **arguments)
        assert caught.value.code == "no-service"
    assert agent.engine.services[SERVER] == {}


def test_introspection_is_asked_and_its_answer_read(agent):
    agent.engine.services[SERVER]["introspection"] = ""
    assert agent.call("introspect", kind="processes", pid=None) == [{"pid": 1, "name": "init"}]
    assert agent.call("introspect", kind="files", pid=1) == [{"pid": 1, "name": "init"}]
    assert agent.engine.asked == [("introspection", "processes", "{}"), ("introspection", "files", '{"pid": 1}')]


def test_a_server_without_introspection_is_not_asked(agent):
    with pytest.raises(AgentError) as caught:
        agent.call("introspect", kind="processes", pid=None)
    assert caught.value.code == "no-service" and "introspection" in caught.value.message and caught.value.hint
    assert agent.engine.asked == []


@pytest.mark.parametrize("answer", ["", "{", "[" * 100000, '{"a": NaN}', "\x1b[2J"])
def test_an_answer_that_is_no_json(agent, answer):
    agent.engine.services[SERVER]["introspection"] = ""
    agent.engine.answer = answer
    with pytest.raises(AgentError) as caught:
        agent.call("introspect", kind="processes", pid=None)
    assert caught.value.code == "corrupt" and len(str(caught.value)) < 200


def test_alerts_after_a_number(agent):
    agent.engine.alert(SERVER, "first")
    agent.engine.alert(SERVER, "second", detail="no JSON")
    agent.engine.alert(SERVER, "third", detail="")
    assert agent.call("alert_list", after=0)[0] == {
        "number": 1,
        "time": "2023-11-14T22:13:20.000Z",
        "layer": "integrity",
        "severity": "critical",
        "title": "first",
        "detail": {"syscall": 59},
    }
    found = agent.call("alert_list", after=1)
    assert [(one["title"], one["detail"]) for one in found] == [("second", {"text": "no JSON"}), ("third", {})]


def test_services_of_the_host(agent):
    agent.engine.host["integrity"] = False
    assert agent.endpoint.host_services(CONTEXT) == [
        {"name": "checkpoint", "version": "", "vendor": ""},
        {"name": "introspection", "version": "1.0", "vendor": "nova-mhv"},
    ]


def test_a_service_is_asked(agent):
    agent.engine.services[SERVER]["heat"] = ""
    agent.engine.answer = '{"bytes": 5}'
    assert agent.call("service_call", service="heat", question="total", arguments='{"top": 3}') == {"bytes": 5}
    assert agent.engine.asked == [("heat", "total", '{"top": 3}')]


def test_a_service_that_the_server_has_not_is_not_asked(agent):
    with pytest.raises(AgentError) as caught:
        agent.call("service_call", service="heat", question="total", arguments="{}")
    assert caught.value.code == "no-service" and "heat" in caught.value.message
    assert agent.engine.asked == []


def install(agent, image):
    try:
        return agent.endpoint.layer_install(CONTEXT, image)
    except dispatcher.ExpectedException as error:
        raise error.exc_info[1] from None


def test_a_package_is_installed(agent):
    assert install(agent, "image") == {"name": "heat", "version": "1.0", "vendor": "acme"}
    assert agent.engine.installed == [b"package"]
    assert {"name": "heat", "version": "1.0", "vendor": "nova-mhv"} in agent.endpoint.host_services(CONTEXT)


def test_a_package_that_the_engine_refuses(agent):
    """Its own words, with the file that the operator has to look at."""
    hint = "an operator who trusts it puts its public key there: /etc/nova-mhv/vendors/acme.pem"
    agent.engine.fail = fake_engine.error("permission", "the vendor acme of heat is not allowed here", hint)
    with pytest.raises(AgentError) as caught:
        install(agent, "image")
    assert (caught.value.code, caught.value.message, caught.value.hint) == (
        "permission",
        "the vendor acme of heat is not allowed here",
        hint,
    )
    assert agent.engine.installed == []


def test_a_package_that_is_not_there(agent):
    with pytest.raises(AgentError) as caught:
        install(agent, "other")
    assert caught.value.code == "not-found" and agent.engine.installed == []
