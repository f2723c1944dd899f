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

import pytest
import requests
from keystoneauth1 import adapter, session
from keystoneauth1.noauth import NoAuth

from nova_mhv.agent import packages
from nova_mhv.rpc import AgentError

GLANCE = "http://glance.test"
FILE = f"{GLANCE}/v2/images/image/file"


@pytest.fixture
def glance(tmp_path):
    plugin = NoAuth(endpoint=GLANCE)
    return packages.GlancePackages(adapter.Adapter(session.Session(auth=plugin), endpoint_override=GLANCE), str(tmp_path))


def refused(glance):
    with pytest.raises(AgentError) as caught:
        glance.fetch("image")
    return caught.value.code


def test_an_image_comes_into_a_file_without_a_name(glance, requests_mock, tmp_path):
    content = bytes(range(256)) * 10000
    requests_mock.get(FILE, content=content)
    with glance.fetch("image") as file, open(f"/proc/self/fd/{file.fileno()}", "rb") as again:
        assert again.read() == content
        assert list(tmp_path.iterdir()) == []


def test_no_more_than_a_package_can_have(glance, requests_mock, monkeypatch):
    monkeypatch.setattr(packages, "BYTES_MAX", 4)
    requests_mock.get(FILE, content=b"1234")
    glance.fetch("image").close()
    requests_mock.get(FILE, content=b"12345", headers={"Content-Length": "1"})
    assert refused(glance) == "invalid"


@pytest.mark.parametrize("status, code", [(404, "not-found"), (403, "unavailable"), (500, "unavailable")])
def test_what_glance_refuses(glance, requests_mock, status, code):
    requests_mock.get(FILE, status_code=status)
    assert refused(glance) == code


def test_glance_that_is_away(glance, requests_mock):
    requests_mock.get(FILE, exc=requests.ConnectionError)
    assert refused(glance) == "unavailable"


def test_an_image_that_breaks_off(glance, requests_mock):
    class Broken(io.BytesIO):
        def read(self, *arguments):
            raise requests.exceptions.ChunkedEncodingError("cut")

    requests_mock.get(FILE, body=Broken())
    assert refused(glance) == "unavailable"
