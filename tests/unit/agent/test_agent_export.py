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
from keystoneauth1 import adapter, session
from keystoneauth1.noauth import NoAuth
from oslo_context import context as oslo_context

from nova_mhv.agent.export import GlanceExporter
from nova_mhv.rpc import AgentError

SERVER = str(uuid.uuid4())
CONTEXT = oslo_context.RequestContext(user_id="user", project_id="project")
GLANCE = "http://glance.test"


def make(folder):
    plugin = NoAuth(endpoint=GLANCE)
    return GlanceExporter(adapter.Adapter(session.Session(auth=plugin), endpoint_override=GLANCE), str(folder))


def run(exporter, progress=lambda *_: None):
    engine = fake_engine.FakeEngine(SERVER)
    checkpoint = engine.add(SERVER)
    return checkpoint["id"], exporter.export(engine, CONTEXT, SERVER, checkpoint["id"], progress)


def test_export_is_a_private_image_of_the_project(tmp_path, requests_mock):
    requests_mock.post(f"{GLANCE}/v2/images", json={"id": "image"}, status_code=201)
    received = []
    requests_mock.put(
        f"{GLANCE}/v2/images/image/file",
        status_code=204,
        additional_matcher=lambda request: received.append(b"".join(request.body)) or True,
    )
    seen = []
    folder = tmp_path / "export"
    checkpoint_id, result = run(make(folder), lambda *step: seen.append(step))
    assert result == {"image_id": "image", "bytes": len(fake_engine.SAVE_IMAGE)}
    assert received == [fake_engine.SAVE_IMAGE]
    assert requests_mock.request_history[1].headers["Content-Length"] == str(len(fake_engine.SAVE_IMAGE))
    image = requests_mock.request_history[0].json()
    assert image["owner"] == "project" and image["visibility"] == "private" and image["disk_format"] == "raw"
    assert image["mhv_checkpoint"] == checkpoint_id
    assert seen[-1] == ("uploading", len(fake_engine.SAVE_IMAGE), len(fake_engine.SAVE_IMAGE))
    assert list(folder.iterdir()) == []


def test_failed_upload_leaves_no_image(tmp_path, requests_mock):
    requests_mock.post(f"{GLANCE}/v2/images", json={"id": "image"}, status_code=201)
    requests_mock.put(f"{GLANCE}/v2/images/image/file", status_code=413)
    deleted = requests_mock.delete(f"{GLANCE}/v2/images/image", status_code=204)
    with pytest.raises(AgentError) as caught:
        run(make(tmp_path))
    assert caught.value.code == "unavailable" and deleted.called_once


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AgentError) as caught:
        run(make(tmp_path / "file" / "export"))
    assert caught.value.code == "permission" and "export_dir" in caught.value.hint
