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

"""A whole API on a small scale: the WSGI pipeline, RPC in memory, the agent's methods, an engine in memory.

Only Keystone and Nova are told what to answer. Two projects have a server
each on host h1, and the operator has none.
"""

import pathlib
import sys
import uuid

import pytest
import webob
from keystonemiddleware import fixture as ks_fixture
from oslo_config import cfg
from oslo_messaging import conffixture

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "agent"))

import fake_engine  # noqa: E402

from nova_mhv import policies, rpc  # noqa: E402
from nova_mhv.agent.endpoint import AgentEndpoint  # noqa: E402
from nova_mhv.agent.operations import Operations  # noqa: E402
from nova_mhv.api import app  # noqa: E402
from nova_mhv.api.checkpoints import Checkpoints  # noqa: E402
from nova_mhv.api.servers import Servers  # noqa: E402
from nova_mhv.api.services import Services  # noqa: E402

ROLES = {
    "reader": ["reader"],
    "member": ["member", "reader"],
    "admin": ["admin", "manager", "member", "reader"],
    "nobody": ["some-other-role"],
}


class NovaAnswer:
    def __init__(self, status, body):
        self.status_code = status
        self.text = str(body)
        self._body = body

    def json(self):
        return self._body


class FakeNova:
    """A keystoneauth adapter, as far as Servers uses it."""

    def __init__(self):
        self.servers = {}
        self.fail = None
        self.hosts = {"h1": "up"}

    def add(self, project_id, **fields):
        server_id = str(uuid.uuid4())
        self.servers[server_id] = {
            "id": server_id,
            "tenant_id": project_id,
            "status": "ACTIVE",
            "OS-EXT-SRV-ATTR:host": "h1",
            "OS-EXT-STS:task_state": None,
            "locked": False,
            "flavor": {"original_name": "m1.tiny.checkpoint", "extra_specs": {"mhv:services": "checkpoint"}},
            **fields,
        }
        return server_id

    def get(self, url, microversion, raise_exc):
        if isinstance(self.fail, Exception):
            raise self.fail
        if self.fail:
            return self.fail
        if url.startswith("/os-services"):
            hosts = [{"host": host, "state": state, "binary": "nova-compute"} for host, state in self.hosts.items()]
            return NovaAnswer(200, {"services": hosts})
        found = self.servers.get(url.removeprefix("/servers/"))
        return NovaAnswer(200, {"server": found}) if found else NovaAnswer(404, {})


class FakeExporter:
    def export(self, client, context, server_id, checkpoint_id, progress):
        return {"image_id": f"image-of-{context.project_id}", "bytes": 1}


class Cloud:
    def __init__(self, folder, tokens):
        self.tokens = tokens
        self.mine, self.theirs = uuid.uuid4().hex, uuid.uuid4().hex
        self.nova = FakeNova()
        self.server = self.nova.add(self.mine)
        self.foreign = self.nova.add(self.theirs)
        self.engine = fake_engine.FakeEngine(self.server, self.foreign)
        self.notifier = fake_engine.FakeNotifier()
        self.operations = Operations(workers=1, kept=10)
        self.image = str(uuid.uuid4())
        self.packages = fake_engine.FakePackages(**{self.image: b"package"})
        file = folder / "mhv-api.conf"
        file.write_text(
            "[DEFAULT]\ntransport_url=fake://\n[api]\nmax_limit=5\nrpc_timeout_s=1\ndelete_timeout_s=5\n"
            f"[layers]\ntenant_addable=introspection,integrity\nmanifest_dirs={folder}\n"
            "[nova]\nauth_type=none\nendpoint_override=http://nova.test\n"
            "[keystone_authtoken]\nwww_authenticate_uri=http://keystone.test\nauth_type=none\n"
        )
        self.conf = cfg.ConfigOpts()
        self._messaging = conffixture.ConfFixture(self.conf)
        self._messaging.setUp()
        app.load_config({"OS_MHV_CONFIG_DIR": str(folder)}, self.conf)
        transport = rpc.get_transport(self.conf)
        endpoint = AgentEndpoint(lambda: self.engine, self.operations, self.notifier, FakeExporter(), self.packages)
        self._server = rpc.get_server(transport, "h1", [endpoint])
        self._server.start()
        common = Servers(self.nova), rpc.AgentClient(self.conf, transport), policies.make_enforcer(self.conf)
        self.app = app.make_pipeline(self.conf, Checkpoints(*common, 5), Services(*common, self.conf))

    def close(self):
        self.engine.gate.set()
        self._server.stop()
        self.operations.stop(30)
        self._messaging.cleanUp()

    def token(self, role, project_id=None):
        token = uuid.uuid4().hex
        self.tokens.add_token_data(
            token, user_id=uuid.uuid4().hex, project_id=project_id or self.mine, role_list=ROLES[role]
        )
        return token

    def ask(self, method, path, json=None, role="member", project_id=None, headers=None, version="latest", **more):
        request = webob.Request.blank(path, method=method, **more)
        if json is not None:
            request.json_body = json
            request.content_type = "application/json"
        if role:
            request.headers["X-Auth-Token"] = self.token(role, project_id)
        if version:
            request.headers["OpenStack-API-Version"] = f"hypervisor-service {version}"
        request.headers.update(headers or {})
        return request.get_response(self.app)

    def path(self, *steps, server=None):
        return "/".join(["/v1/servers", server or self.server, *steps])

    def checkpoint(self, server=None, **fields):
        return self.engine.add(server or self.server, **fields)["id"]

    def finish(self, response):
        """The finished operation that a 202 announced."""
        assert response.status_int == 202, response.text
        operation = response.json["operation"]
        fake_engine.wait_finished(self.operations, operation)
        return self.ask("GET", webob.Request.blank(response.headers["Location"]).path).json["operation"]


def fault(response):
    """(status, name, message) of an error; every error has to have the same form."""
    ((name, body),) = response.json.items()
    assert body["code"] == response.status_int and body["message"]
    return response.status_int, name, body["message"]


@pytest.fixture
def cloud(tmp_path):
    tokens = ks_fixture.AuthTokenFixture()
    tokens.setUp()
    made = Cloud(tmp_path, tokens)
    yield made
    made.close()
    tokens.cleanUp()


@pytest.fixture(autouse=True)
def _no_messages_left():
    yield
    from oslo_messaging._drivers import impl_fake

    impl_fake.FakeExchangeManager._exchanges.clear()
