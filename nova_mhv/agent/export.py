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

"""An export: the engine writes a save image into an unnamed file, the agent uploads it to Glance.

The image is private and belongs to the project that asked. The file has no
name, so nothing of it remains whenever the agent dies.
"""

import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from keystoneauth1 import exceptions as ks_exceptions
from oslo_context import context as oslo_context
from oslo_log import log as logging

from nova_mhv.agent.operations import Progress
from nova_mhv.rpc import AgentError

LOG = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20


def temporary_file(folder: str) -> IO[bytes]:
    """Raises AgentError."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        message = f"The agent cannot write its export folder: {error.strerror}"
        raise AgentError("permission", message, "The operator sets export_dir in mhv-agent.conf.") from error


class GlanceExporter:
    """Thread-safe. ``glance`` is a keystoneauth adapter whose user may create images for other projects."""

    def __init__(self, glance: Any, folder: str) -> None:
        self._glance = glance
        self._folder = folder

    def export(
        self, client: Any, context: oslo_context.RequestContext, server_id: str, checkpoint_id: str, progress: Progress
    ) -> dict[str, Any]:
        """Returns image_id and bytes. Raises EngineError, AgentError."""
        with temporary_file(self._folder) as file:
            client.checkpoint_export(server_id, checkpoint_id, file.fileno(), progress)
            size = os.fstat(file.fileno()).st_size
            try:
                image_id = self._create_image(context, server_id, checkpoint_id)
                self._upload(image_id, file, size, progress)
            except ks_exceptions.ClientException as error:
                LOG.exception("The export of checkpoint %s could not be uploaded", checkpoint_id)
                raise AgentError(
                    "unavailable",
                    f"The image service did not take the export: {error}",
                    "The checkpoint itself is whole; try again, or ask the operator to look at the agent's log.",
                ) from error
        return {"image_id": image_id, "bytes": size}

    def _create_image(self, context: oslo_context.RequestContext, server_id: str, checkpoint_id: str) -> str:
        image = {
            "name": f"checkpoint-{checkpoint_id}",
            "disk_format": "raw",
            "container_format": "bare",
            "visibility": "private",
            "owner": context.project_id,
            "mhv_checkpoint": checkpoint_id,
            "mhv_server": server_id,
        }
        return self._glance.post("/v2/images", json=image).json()["id"]

    def _upload(self, image_id: str, file: IO[bytes], size: int, progress: Progress) -> None:
        file.seek(0)
        body = _Body(file, size, progress)
        headers = {"Content-Type": "application/octet-stream"}
        try:
            self._glance.put(f"/v2/images/{image_id}/file", data=body, headers=headers, log=False)
        except Exception:
            self._glance.delete(f"/v2/images/{image_id}", raise_exc=False)
            raise


class _Body:
    """A request body of known length that tells how much of it was read."""

    def __init__(self, file: IO[bytes], size: int, progress: Progress) -> None:
        self._file = file
        self._size = size
        self._progress = progress
        self._read = 0
        self._told = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(_CHUNK_BYTES):
            yield chunk

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self._read += len(chunk)
        if self._read - self._told >= _CHUNK_BYTES or self._read == self._size:
            self._told = self._read
            self._progress("uploading", self._read, self._size)
        return chunk
