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


"""``openstack server service ...``, ``server introspect``, ``server alert list`` and ``hypervisor service ...``"""

import argparse
import json
import tarfile
from collections.abc import Iterable
from typing import Any

from openstack import exceptions as sdk_exceptions
from osc_lib import exceptions
from osc_lib.cli import format_columns
from osc_lib.command import command

from nova_mhv.layers import INTROSPECTION_KINDS, MANIFEST_BYTES_MAX
from nova_mhv.osc import common
from nova_mhv.osc.escape import value_for

ShowOne = tuple[tuple[str, ...], tuple[Any, ...]]
Table = tuple[tuple[str, ...], Iterable[tuple[Any, ...]]]


def _add_service(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="<service>", help="Service (name)")


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


def _one(formatter: str, service: dict[str, Any]) -> ShowOne:
    return tuple(service), tuple(value_for(formatter, value) for value in service.values())


class AddService(command.ShowOne):
    """Add a hypervisor service to a running server, or give the one that it has another configuration"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        common.add_server(parser)
        _add_service(parser)
        parser.add_argument(
            "--configure", metavar="<json>", type=_object, help="Configuration of the service, a JSON object"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> ShowOne:
        manager = self.app.client_manager
        server_id = common.find_server(manager, parsed_args.server)
        added = manager.hypervisor_service.add_service(server_id, parsed_args.service, parsed_args.configure)
        return _one(parsed_args.formatter, added)


class ListService(command.Lister):
    """List the hypervisor services of a server, in the order of their stack"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        common.add_server(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Table:
        server_id = common.find_server(self.app.client_manager, parsed_args.server)
        found = self.app.client_manager.hypervisor_service.services(server_id)["layers"]
        fields = ("name", "source", "state", "version", "alerts", "message")
        rows = [tuple(value_for(parsed_args.formatter, one[field]) for field in fields) for one in found]
        return tuple(field.capitalize() for field in fields), rows


class ShowService(command.ShowOne):
    """Show a hypervisor service of a server"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        common.add_server(parser)
        _add_service(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> ShowOne:
        server_id = common.find_server(self.app.client_manager, parsed_args.server)
        found = self.app.client_manager.hypervisor_service.service(server_id, parsed_args.service)
        return _one(parsed_args.formatter, found)


class RemoveService(command.Command):
    """Remove a hypervisor service that was added to a server; the others go on"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        common.add_server(parser)
        _add_service(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        server_id = common.find_server(self.app.client_manager, parsed_args.server)
        self.app.client_manager.hypervisor_service.remove_service(server_id, parsed_args.service)


class CallService(command.Lister):
    """Ask a hypervisor service of a server something; its vendor says what it knows"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        common.add_server(parser)
        _add_service(parser)
        parser.add_argument("method", metavar="<method>", help="What it is asked for")
        parser.add_argument(
            "--arguments", metavar="<json>", type=_object, default={}, help="Arguments of the method, a JSON object"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Table:
        manager = self.app.client_manager
        server_id = common.find_server(manager, parsed_args.server)
        answer = manager.hypervisor_service.call_service(
            server_id, parsed_args.service, parsed_args.method, parsed_args.arguments
        )
        rows = answer if isinstance(answer, list) else [answer]
        return _table(parsed_args.formatter, [row if isinstance(row, dict) else {"answer": row} for row in rows])


class Introspect(command.Lister):
    """See what runs in a server, from its memory: nothing is installed in it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        kinds = ", ".join(INTROSPECTION_KINDS)
        parser.add_argument("kind", metavar="<kind>", choices=INTROSPECTION_KINDS, help=f"What to list: {kinds}")
        common.add_server(parser)
        parser.add_argument("--pid", metavar="<pid>", type=_number, help="Of this process only")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Table:
        server_id = common.find_server(self.app.client_manager, parsed_args.server)
        found = self.app.client_manager.hypervisor_service.introspect(server_id, parsed_args.kind, parsed_args.pid)
        return _table(parsed_args.formatter, found)


class ListAlert(command.Lister):
    """List what the hypervisor services of a server have found, oldest first"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        common.add_server(parser)
        parser.add_argument(
            "--after", metavar="<number>", type=_number, default=0, help="Only alerts after this number"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Table:
        server_id = common.find_server(self.app.client_manager, parsed_args.server)
        found = self.app.client_manager.hypervisor_service.alerts(server_id, parsed_args.after)
        fields = ("number", "time", "severity", "layer", "title", "detail")
        rows = [tuple(value_for(parsed_args.formatter, alert[field]) for field in fields) for alert in found]
        return tuple(field.capitalize() for field in fields), rows


class ListCloudService(command.Lister):
    """List the hypervisor services of the cloud; where they are is shown to operators"""

    def take_action(self, parsed_args: argparse.Namespace) -> Table:
        found = self.app.client_manager.hypervisor_service.cloud_services()
        rows = [
            (
                *(value_for(parsed_args.formatter, one[field]) for field in ("name", "version", "vendor")),
                one["tenant_addable"],
                *([format_columns.ListColumn(one["hosts"])] if "hosts" in one else []),
            )
            for one in found
        ]
        hosts = ("Hosts",) if any("hosts" in one for one in found) else ()
        return ("Name", "Version", "Vendor", "Tenant Addable", *hosts), rows


class UploadService(command.ShowOne):
    """Keep the package of a hypervisor service in the image service, from where hosts install it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("file", metavar="<filename>", help="Package, as mhvctl layer pack makes it")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> ShowOne:
        about = _read_manifest(parsed_args.file)
        try:
            image = self.app.client_manager.sdk_connection.image.create_image(
                name=f"{about['name']}-{about['version']}",
                filename=parsed_args.file,
                disk_format="raw",
                container_format="bare",
                visibility="private",
                mhv_service=about["name"],
                mhv_version=about["version"],
                mhv_vendor=about["vendor"],
            )
        except sdk_exceptions.SDKException as error:
            raise exceptions.CommandError(f"The package {parsed_args.file} cannot be uploaded: {error}") from error
        return _one(parsed_args.formatter, {"image_id": image.id, **about})


class InstallService(command.Lister):
    """Install the package of a hypervisor service on the compute hosts, which check its signature"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("image", metavar="<image>", help="Image that holds the package (name or ID)")
        parser.add_argument(
            "--host",
            metavar="<host>",
            action="append",
            default=[],
            help="Host to install it on (repeat for several); default: all that are up",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Table:
        manager = self.app.client_manager
        try:
            image = manager.sdk_connection.image.find_image(parsed_args.image, ignore_missing=False)
        except sdk_exceptions.SDKException as error:
            raise exceptions.CommandError(f"The image {parsed_args.image} cannot be used: {error}") from error
        found = manager.hypervisor_service.install_service(image.id, parsed_args.host)
        self._failed = any(one["status"] == "error" for one in found)
        fields = ("host", "status", "name", "version", "vendor", "message", "hint")
        rows = [tuple(value_for(parsed_args.formatter, one[field]) for field in fields) for one in found]
        return tuple(field.capitalize() for field in fields), rows

    def run(self, parsed_args: argparse.Namespace) -> int:
        return super().run(parsed_args) or int(self._failed)


def _read_manifest(path: str) -> dict[str, str]:
    """Of a package, as far as it names it: whether it is a good one, the hosts decide."""
    try:
        with tarfile.open(path, "r:") as package:
            file = package.extractfile("manifest.json")
            manifest = json.loads(file.read(MANIFEST_BYTES_MAX)) if file else None
    except (OSError, KeyError, ValueError, RecursionError, tarfile.TarError) as error:
        raise exceptions.CommandError(f"{path} is no package of a service: {error}") from error
    fields = ("name", "version", "vendor")
    if not isinstance(manifest, dict) or not all(isinstance(manifest.get(field), str) for field in fields):
        raise exceptions.CommandError(f"{path} is no package of a service: its manifest has no name, version and vendor")
    return {field: manifest[field] for field in fields}


def _table(formatter: str, answer: Any) -> Table:
    """Columns are the answer's keys, in the order in which they come; one object is one row."""
    rows = answer if isinstance(answer, list) else [answer]
    if not all(isinstance(row, dict) for row in rows):
        raise exceptions.CommandError("The service answered something that is no table.")
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    headings = tuple(value_for("table", name) for name in names)
    return headings, [tuple(value_for(formatter, row.get(name)) for name in names) for row in rows]
