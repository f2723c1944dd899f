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

"""The sample configuration in etc/ says what the code does."""

import pathlib
import re

import pytest

from nova_mhv import policies
from nova_mhv.conf import agent, api

SAMPLES = pathlib.Path(__file__).resolve().parents[3] / "etc" / "nova-mhv"


def test_policy_sample_has_every_default():
    text = (SAMPLES / "policy.yaml").read_text()
    lines = {line for line in text.splitlines() if line.startswith('#"')}
    assert lines == {f'#"{rule.name}": "{rule.check_str}"' for rule in policies.list_rules()}


@pytest.mark.parametrize(
    "name, module, group",
    [("mhv-agent", agent, "agent"), ("mhv-api", api, "api"), ("mhv-api", api, "layers")],
)
def test_configuration_sample_has_every_default(name, module, group):
    section = (SAMPLES / f"{name}.conf").read_text().split(f"[{group}]\n")[1].split("\n[")[0]
    sampled = dict(re.findall(r"^#(\w+) = ?(.*)$", section, re.MULTILINE))
    assert sampled == {option.name: _text(option.default) for option in dict(module.list_opts())[group]}


def _text(value):
    return ",".join(value) if isinstance(value, list) else str(value)
