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

"""The driver's tests need Nova and its fixtures, and no engine: the compiled module may be missing."""

import sys
import types
from unittest import mock

import pytest

try:
    import nova_mhv._engine  # noqa: F401
except ImportError:

    class EngineError(Exception):
        def __init__(self, code="internal", message="", hint=""):
            super().__init__(message)
            self.code, self.message, self.hint = code, message, hint

    stub = types.ModuleType("nova_mhv._engine")
    vars(stub).update(EngineError=EngineError, Client=mock.Mock, DEFAULT_SOCKET="/run/nova-mhv/mhvd.sock")
    sys.modules["nova_mhv._engine"] = stub

try:
    import libvirt  # noqa: F401
    import nova  # noqa: F401
    import oslotest  # noqa: F401
except ImportError as error:
    collect_ignore_glob = ["test_*.py"]
    print(f"tests/unit/driver left out: {error}", file=sys.stderr)


@pytest.fixture(autouse=True)
def _no_stray_engine(monkeypatch):
    """No test may reach a real mhvd."""
    monkeypatch.setattr("nova_mhv.engine.Client", mock.Mock(side_effect=AssertionError("a test reached for mhvd")))
