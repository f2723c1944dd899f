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

"""The arbiter of layers, as the API's validator asks it."""

import json

import pytest

engine = pytest.importorskip("nova_mhv._engine")
if not hasattr(engine, "arbitrate"):
    pytest.skip("nova_mhv._engine is not built: the other tests stand in for it", allow_module_level=True)


def manifest(name, **claims):
    return json.dumps(
        {
            "name": name,
            "version": "1",
            "vendor": "acme",
            "abi": 1,
            "program": "layer",
            "policy": "fail-open",
            "claims": claims,
        }
    )


def test_layers_that_go_together():
    assert engine.arbitrate(["checkpoint", manifest("heat", memory="read", written_pages=True)]) is None


@pytest.mark.parametrize(
    ("stack", "code", "said"),
    [
        (["unheard-of"], "not-found", "unheard-of"),
        ([manifest("a"), manifest("a")], "invalid", "a and a cannot be on one guest"),
        ([manifest("a", actions=["rollback"])], "invalid", "no layer of this guest makes checkpoints"),
        ([manifest("a", disk="delay")], "unsupported", "a claims disk delay"),
        (["{"], "invalid", "layer 1 of the stack"),
    ],
)
def test_the_reason_is_given(stack, code, said):
    with pytest.raises(engine.EngineError) as refused:
        engine.arbitrate(stack)
    assert refused.value.code == code
    assert said in refused.value.message
