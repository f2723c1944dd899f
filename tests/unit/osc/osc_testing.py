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

"""The commands against a hypervisor service and an image service that requests-mock plays."""

import argparse
import io
import json
import uuid
from types import SimpleNamespace

import openstack
from keystoneauth1 import session
from keystoneauth1.fixture import V3Token
from keystoneauth1.identity import v3

from nova_mhv.osc import plugin

KEYSTONE = "http://keystone.test/v3"
HYPERVISOR = "http://hypervisor.test"
COMPUTE = "http://compute.test/v2.1"
IMAGE = "http://image.test"

SERVER = str(uuid.uuid4())
CHECKPOINT = str(uuid.uuid4())
OPERATION = str(uuid.uuid4())


def checkpoint(**fields):
    return {
        "id": CHECKPOINT,
        "parent_id": None,
        "name": "before",
        "server_id": SERVER,
        "created_at": "2026-01-02T03:04:05.678Z",
        "automatic": False,
        "state": "available",
        "current": True,
        "epoch": 1,
        "ram_bytes": 128 << 20,
        "ram_stored_bytes": 3 << 19,
        "pages": 1000,
        "pages_stored": 384,
        "pause_us": 3612,
        "device_state_bytes": 81920,
        "disks": [
            {"target": "vda", "format": "qcow2", "included": True, "note": ""},
            {"target": "vdb", "format": "raw", "included": False, "note": "raw has no snapshots"},
        ],
        "links": [],
        **fields,
    }


def operation(status="running", **fields):
    return {
        "operation": {
            "id": OPERATION,
            "server_id": SERVER,
            "action": "create",
            "checkpoint_id": None,
            "status": status,
            "stage": "copying memory",
            "done": 1,
            "total": 4,
            "started_at": "2026-01-02T03:04:05.000Z",
            "finished_at": None,
            "result": None,
            "error": None,
            "links": [],
            **fields,
        }
    }


class Shell:
    """Runs a command class as `openstack` does; ``run`` returns what it prints."""

    def __init__(self, mock):
        self.mock = mock
        token = V3Token(project_id=uuid.uuid4().hex, user_id=uuid.uuid4().hex)
        for service_type, url in (
            ("hypervisor-service", HYPERVISOR + "/v1"),
            ("compute", COMPUTE),
            ("image", IMAGE),
        ):
            token.add_service(service_type).add_standard_endpoints(public=url, region="R")
        mock.get(KEYSTONE, json={"version": {"id": "v3.14", "status": "stable", "links": []}})
        mock.post(KEYSTONE + "/auth/tokens", json=token, headers={"X-Subject-Token": "t"})
        servers = [{"id": SERVER, "name": "s1", "links": []}]
        mock.get(f"{COMPUTE}/servers/s1", status_code=404)
        mock.get(f"{COMPUTE}/servers/none", status_code=404)
        mock.get(f"{COMPUTE}/servers/detail?name=s1", json={"servers": servers})
        mock.get(f"{COMPUTE}/servers/detail?name=none", json={"servers": []})
        mock.get(f"{COMPUTE}/servers/{SERVER}", json={"server": servers[0]})
        version = {"id": "v2.1", "status": "CURRENT", "version": "2.96", "min_version": "2.1", "links": []}
        mock.get(COMPUTE, json={"version": version})
        image = {"id": "v2.16", "status": "CURRENT", "links": [{"rel": "self", "href": IMAGE + "/v2/"}]}
        mock.get(IMAGE, json={"versions": [image]})
        auth = v3.Password(KEYSTONE, username="u", password="p", user_domain_id="d", project_name="p")
        self.session = session.Session(auth=auth)
        connection = openstack.connection.Connection(session=self.session, region_name="R")
        manager = SimpleNamespace(
            session=self.session,
            interface="public",
            region_name="R",
            sdk_connection=connection,
            _api_version={"hypervisor_service": plugin.DEFAULT_API_VERSION},
        )
        manager.hypervisor_service = plugin.make_client(manager)
        self.manager = manager
        self.app = SimpleNamespace(
            client_manager=manager,
            stdout=io.StringIO(),
            options=argparse.Namespace(),
            command_manager=SimpleNamespace(namespace="openstack.cli"),
        )

    def run(self, command, *arguments, form="json"):
        made = command(self.app, None, cmd_name="command")
        if hasattr(made, "_formatter_plugins"):
            arguments = (*arguments, "-f", form)
        self.app.stdout = io.StringIO()
        made.run(made.get_parser("command").parse_args(arguments))
        text = self.app.stdout.getvalue()
        return json.loads(text) if form == "json" and text else text
