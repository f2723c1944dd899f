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

"""The agent over a transport in memory, as its service starts it."""

import threading

import fake_engine
import oslo_messaging as messaging
import pytest
from oslo_config import cfg
from oslo_context import context as oslo_context
from oslo_messaging import conffixture

from nova_mhv import notifications, rpc
from nova_mhv.agent import main
from nova_mhv.agent import service as agent_service
from nova_mhv.conf import api as api_conf

SERVER = "0b8b0b6e-3c0e-4d0e-8d7a-5a6f3c1f9d11"
CONTEXT = oslo_context.RequestContext(user_id="user", project_id="project", auth_token="secret", roles=["member"])


@pytest.fixture
def conf(tmp_path):
    file = tmp_path / "mhv-agent.conf"
    file.write_text(
        "[DEFAULT]\nhost=h1\ntransport_url=fake://\n[oslo_messaging_notifications]\ndriver=test\n"
        "[glance]\nauth_type=none\nendpoint_override=http://glance.test\n"
    )
    conf = cfg.ConfigOpts()
    api_conf.register_opts(conf)
    with conffixture.ConfFixture(conf):
        yield main.load_config(["--config-file", str(file)], conf)


@pytest.fixture
def service(conf, monkeypatch):
    fake = fake_engine.FakeEngine(SERVER)
    monkeypatch.setattr(agent_service.engine, "Client", lambda socket: fake)
    made = agent_service.AgentService(conf)
    made.start()
    yield made
    made.stop()
    made.wait()


def client(conf):
    return rpc.AgentClient(conf, rpc.get_transport(conf))


def test_calls_cross(conf, service):
    operation = client(conf).call(CONTEXT, "h1", "checkpoint_create", server_id=SERVER, name="n")
    assert operation["action"] == "create"
    fake_engine.wait_finished(service._operations, operation)
    found = client(conf).call(CONTEXT, "h1", "checkpoint_list", server_id=SERVER, marker="", limit=10)
    assert [entry["name"] for entry in found["checkpoints"]] == ["n"] and not found["more"]
    client(conf).call(CONTEXT, "h1", "checkpoint_delete", server_id=SERVER, checkpoint_id=found["checkpoints"][0]["id"])


def test_errors_cross_with_their_hint(conf, service):
    with pytest.raises(rpc.AgentError) as caught:
        client(conf).call(CONTEXT, "h1", "guest_status", server_id="other")
    assert caught.value.code == "no-service" and caught.value.hint


def test_errors_survive_the_wire_format():
    from oslo_messaging._drivers import common

    sent = common.serialize_remote_exception(_raised(rpc.AgentError("busy", "later", "wait")))
    received = common.deserialize_remote_exception(sent, [rpc.__name__])
    assert isinstance(received, rpc.AgentError)
    assert (received.code, received.message, received.hint) == ("busy", "later", "wait")


def test_token_is_not_sent():
    sent = rpc.ContextSerializer().serialize_context(CONTEXT)
    assert "secret" not in str(sent)
    assert rpc.ContextSerializer().deserialize_context(sent).project_id == "project"


def test_stop_ends_wait(conf, service):
    ended = threading.Thread(target=service.wait)
    ended.start()
    service.stop()
    ended.join(30)
    assert not ended.is_alive()


def test_notifications_go_out(conf):
    messaging.notify._impl_test.reset()
    notifier = notifications.Notifier(conf)
    notifier.error(CONTEXT, "create", {"server_id": SERVER})
    ((_, message, priority, _),) = messaging.notify._impl_test.NOTIFICATIONS
    assert message["event_type"] == "hypervisor_service.checkpoint.create.error" and priority == "ERROR"
    assert message["publisher_id"] == "mhv-agent.h1"
    assert message["payload"] == {"server_id": SERVER, "project_id": "project", "user_id": "user"}
    messaging.notify._impl_test.reset()


@pytest.mark.parametrize(
    "severity, priority", [("info", "INFO"), ("warning", "WARN"), ("critical", "CRITICAL"), ("else", "WARN")]
)
def test_alerts_go_out_with_their_severity(conf, severity, priority):
    messaging.notify._impl_test.reset()
    notifications.Notifier(conf).alert({"server_id": SERVER, "severity": severity, "title": "t"})
    ((_, message, sent_priority, _),) = messaging.notify._impl_test.NOTIFICATIONS
    assert message["event_type"] == "hypervisor_service.alert" and sent_priority == priority
    assert message["payload"] == {"server_id": SERVER, "severity": severity, "title": "t"}
    messaging.notify._impl_test.reset()


def test_service_watches_alerts(conf, service, monkeypatch):
    messaging.notify._impl_test.reset()
    fake = service._alerts._connect()
    looked = threading.Semaphore(0)
    look = service._alerts.look

    def counted(client):
        look(client)
        looked.release()

    monkeypatch.setattr(service._alerts, "look", counted)
    assert looked.acquire(timeout=30)
    fake.alert(SERVER, "found")
    assert looked.acquire(timeout=30) and looked.acquire(timeout=30)
    ((_, message, _, _),) = messaging.notify._impl_test.NOTIFICATIONS
    assert message["payload"]["title"] == "found" and message["payload"]["server_id"] == SERVER
    messaging.notify._impl_test.reset()


def test_methods_that_came_later_ask_for_their_version(conf, service):
    assert client(conf).call(CONTEXT, "h1", "alert_list", server_id=SERVER, after=0) == []
    service._server.dispatcher.endpoints[0].target.version = "1.0"
    try:
        assert client(conf).call(CONTEXT, "h1", "guest_status", server_id=SERVER)["state"] == "attached"
        with pytest.raises(rpc.AgentError) as caught:
            client(conf).call(CONTEXT, "h1", "alert_list", server_id=SERVER, after=0)
        assert caught.value.code == "unavailable" and "older release" in caught.value.message
    finally:
        service._server.dispatcher.endpoints[0].target.version = rpc.VERSION


def test_lost_notification_is_no_error(conf, monkeypatch):
    notifier = notifications.Notifier(conf)

    def fail(*arguments):
        raise messaging.MessageDeliveryFailure("down")

    monkeypatch.setattr(notifier, "_notifier", type("Down", (), {"info": fail, "error": fail})())
    notifier.start(CONTEXT, "create", {})


def _raised(error):
    try:
        raise error
    except Exception as caught:
        return (type(caught), caught, caught.__traceback__)
