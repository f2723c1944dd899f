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

"""The hypervisor service for python-openstackclient."""

import argparse
from typing import Any

from osc_lib import utils

from nova_mhv.osc.client import SERVICE_TYPE, Client

API_NAME = "hypervisor_service"
API_VERSION_OPTION = "os_hypervisor_service_api_version"
API_VERSIONS = dict.fromkeys(("1", "1.0", "1.1", "1.2"), "nova_mhv.osc.client.Client")
DEFAULT_API_VERSION = "1.2"


def make_client(instance: Any) -> Client:
    endpoint_filter = {
        "service_type": SERVICE_TYPE,
        "interface": instance.interface,
        "region_name": instance.region_name,
    }
    return Client(instance.session, endpoint_filter, instance._api_version[API_NAME])


def build_option_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "--os-hypervisor-service-api-version",
        metavar="<hypervisor-service-api-version>",
        default=utils.env("OS_HYPERVISOR_SERVICE_API_VERSION", default=DEFAULT_API_VERSION),
        help=f"Hypervisor service API version, default={DEFAULT_API_VERSION} (Env: OS_HYPERVISOR_SERVICE_API_VERSION)",
    )
    return parser
