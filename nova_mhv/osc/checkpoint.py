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

"""``openstack server checkpoint ...``"""

import argparse
import logging
from collections.abc import Iterable
from typing import Any

from osc_lib import exceptions
from osc_lib.command import command

from nova_mhv.osc import common
from nova_mhv.osc.download import Download

LOG = logging.getLogger(__name__)

ShowOne = tuple[tuple[str, ...], tuple[Any, ...]]


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="<checkpoint>", help="Checkpoint (ID)")


def _wait(app: Any, operation: dict[str, Any]) -> dict[str, Any]:
    with common.Progress() as progress:
        return app.client_manager.hypervisor_service.wait(operation, progress.show)


class CreateCheckpoint(command.ShowOne):
    """Create a checkpoint of a server: its memory, CPUs, devices and disks at one moment"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        common.add_server(parser)
        parser.add_argument("--name", metavar="<name>", default="", help="Name of the checkpoint")
        parser.add_argument("--wait", action="store_true", help="Wait for the checkpoint, showing progress")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> ShowOne:
        server_id = common.find_server(self.app.client_manager, parsed_args.server)
        operation = self.app.client_manager.hypervisor_service.create(server_id, parsed_args.name)
        if not parsed_args.wait:
            return common.operation_columns(operation)
        return common.show_columns(_wait(self.app, operation)["checkpoint"])


class ListCheckpoint(command.Lister):
    """List the checkpoints of a server, oldest first"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        common.add_server(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], Iterable[tuple[Any, ...]]]:
        server_id = common.find_server(self.app.client_manager, parsed_args.server)
        found = self.app.client_manager.hypervisor_service.list(server_id)
        return common.LIST_COLUMNS, [common.list_row(checkpoint) for checkpoint in found]


class ShowCheckpoint(command.ShowOne):
    """Show a checkpoint"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        common.add_server(parser)
        _add_checkpoint(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> ShowOne:
        server_id = common.find_server(self.app.client_manager, parsed_args.server)
        return common.show_columns(self.app.client_manager.hypervisor_service.show(server_id, parsed_args.checkpoint))


class DeleteCheckpoint(command.Command):
    """Delete checkpoint(s) of a server; the others keep everything they need"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        common.add_server(parser)
        parser.add_argument("checkpoint", metavar="<checkpoint>", nargs="+", help="Checkpoint(s) to delete (ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        server_id = common.find_server(self.app.client_manager, parsed_args.server)
        failed = 0
        for checkpoint_id in parsed_args.checkpoint:
            try:
                self.app.client_manager.hypervisor_service.delete(server_id, checkpoint_id)
            except exceptions.CommandError as error:
                failed += 1
                LOG.error("Checkpoint %s was not deleted: %s", checkpoint_id, error)
        if failed:
            raise exceptions.CommandError(f"{failed} of {len(parsed_args.checkpoint)} checkpoints were not deleted.")


class RestoreCheckpoint(command.ShowOne):
    """Take a running server back to a checkpoint, in place: it keeps its ports and its identity"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        common.add_server(parser)
        _add_checkpoint(parser)
        parser.add_argument("--wait", action="store_true", help="Wait until the server runs from the checkpoint")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> ShowOne:
        server_id = common.find_server(self.app.client_manager, parsed_args.server)
        operation = self.app.client_manager.hypervisor_service.restore(server_id, parsed_args.checkpoint)
        if not parsed_args.wait:
            return common.operation_columns(operation)
        result = _wait(self.app, operation)
        data = {
            "checkpoint_id": result["checkpoint"]["id"],
            "name": result["checkpoint"]["name"],
            "server_id": server_id,
            "pages_written": result["pages_written"],
            "pause_ms": round(result["pause_us"] / 1000, 2),
            "in_place": result["in_place"],
        }
        return tuple(data), tuple(data.values())


class ExportCheckpoint(command.ShowOne):
    """Export a checkpoint as a file that plain 'virsh restore' takes"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        common.add_server(parser)
        _add_checkpoint(parser)
        parser.add_argument(
            "--file", metavar="<filename>", required=True, help="File to write; one that exists is left alone"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> ShowOne:
        manager = self.app.client_manager
        server_id = common.find_server(manager, parsed_args.server)
        with Download(parsed_args.file) as download, common.Progress() as progress:
            operation = manager.hypervisor_service.export(server_id, parsed_args.checkpoint)
            image_id = manager.hypervisor_service.wait(operation, progress.show)["image_id"]
            size = download.fetch(manager.sdk_connection.image, image_id, progress)
        data = {"checkpoint_id": parsed_args.checkpoint, "file": parsed_args.file, "bytes": size}
        return tuple(data), tuple(data.values())


class VerifyCheckpoint(command.ShowOne):
    """Read and check everything stored for a server"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        common.add_server(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> ShowOne:
        server_id = common.find_server(self.app.client_manager, parsed_args.server)
        report = _wait(self.app, self.app.client_manager.hypervisor_service.verify(server_id))
        data = {
            "server_id": server_id,
            "result": "damaged" if report["problems"] else "good",
            "checkpoints": report["checkpoints"],
            "records": report["records"],
            "bytes": report["bytes"],
            "problems": "\n".join(report["problems"]),
        }
        return tuple(data), tuple(data.values())


class ShowOperation(command.ShowOne):
    """Show what became of a create, restore, export or verify"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        common.add_server(parser)
        parser.add_argument("operation", metavar="<operation>", help="Operation (ID)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> ShowOne:
        server_id = common.find_server(self.app.client_manager, parsed_args.server)
        found = self.app.client_manager.hypervisor_service.operation(server_id, parsed_args.operation)
        return common.operation_columns(found)
