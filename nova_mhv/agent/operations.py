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

"""Long requests to the engine, running in threads of their own, and what became of them.

INVARIANT: at most one operation of a server is unfinished. Nothing here is
stored: after a restart of the agent no operation is known, and the list of
checkpoints tells what was committed.

One lock guards the table and every operation in it; it is never held while
the engine works.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent import futures
from typing import Any

from oslo_log import log as logging
from oslo_utils import timeutils, uuidutils

from nova_mhv.rpc import AgentError

LOG = logging.getLogger(__name__)

RUNNING = "running"
DONE = "done"
ERROR = "error"

Progress = Callable[[str, int, int], None]
Work = Callable[[str, Progress], dict[str, Any]]  # (operation id, progress) -> result


class Operations:
    """Thread-safe. ``kept`` bounds the finished operations, one per server the unfinished ones."""

    def __init__(self, workers: int, kept: int) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._table: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._busy: dict[str, str] = {}  # server -> its unfinished operation
        self._pool = futures.ThreadPoolExecutor(workers, thread_name_prefix="operation")

    def start(self, server_id: str, action: str, work: Work, **about: Any) -> dict[str, Any]:
        """Returns the operation at once; ``about`` goes into it. Raises AgentError "busy"."""
        operation = {
            "id": uuidutils.generate_uuid(),
            "server_id": server_id,
            "action": action,
            "status": RUNNING,
            "stage": "waiting for its turn",
            "done": 0,
            "total": 0,
            "started_at": _now(),
            "finished_at": None,
            "result": None,
            "error": None,
            **about,
        }
        with self._lock:
            if server_id in self._busy:
                other = self._table[self._busy[server_id]]
                raise AgentError(
                    "busy",
                    f"The operation {other['id']} ({other['action']}) of this server is still running.",
                    "Wait until it is done, then try again.",
                )
            self._table[operation["id"]] = operation
            self._busy[server_id] = operation["id"]
            answer = dict(operation)
        LOG.info("Operation %s: %s of server %s", operation["id"], action, server_id)
        try:
            self._pool.submit(self._run, operation["id"], work)
        except RuntimeError as error:  # the pool is shut down
            self._finish(operation["id"], status=ERROR)
            raise AgentError("unavailable", "The agent of this server's host is stopping.", "Try again.") from error
        return answer

    def show(self, server_id: str, operation_id: str) -> dict[str, Any]:
        """Raises AgentError "not-found"."""
        with self._lock:
            operation = self._table.get(operation_id)
            if operation is None or operation["server_id"] != server_id:
                raise AgentError(
                    "not-found",
                    f"No operation {operation_id} of this server is known. Operations are forgotten when the agent "
                    "of the server's host starts anew, when the server moves, and after many newer ones.",
                    "The server's list of checkpoints tells which were completed.",
                )
            return dict(operation)

    def stop(self, timeout_s: float) -> bool:
        """Accepts no more, waits for the running ones; False when some are still running."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        waiters = [thread for thread in threading.enumerate() if thread.name.startswith("operation")]
        watch = timeutils.StopWatch(duration=timeout_s)
        with watch:
            for thread in waiters:
                thread.join(max(0.0, watch.leftover(return_none=False)))
        return not any(thread.is_alive() for thread in waiters)

    def _run(self, operation_id: str, work: Work) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            with self._lock:
                self._table[operation_id].update(stage=stage, done=done, total=total)

        progress("starting", 0, 0)
        try:
            result = work(operation_id, progress)
        except AgentError as error:
            LOG.warning("Operation %s failed: %s %s", operation_id, error.message, error.hint)
            failure = {"code": error.code, "message": error.message, "hint": error.hint}
            self._finish(operation_id, status=ERROR, error=failure)
        except Exception:
            LOG.exception("Operation %s failed", operation_id)
            message = "The operation failed for a reason that the log of the agent tells."
            failure = {"code": "internal", "message": message, "hint": "Give the operator the id of the operation."}
            self._finish(operation_id, status=ERROR, error=failure)
        else:
            LOG.info("Operation %s is done", operation_id)
            self._finish(operation_id, status=DONE, result=result)

    def _finish(self, operation_id: str, **changes: Any) -> None:
        with self._lock:
            operation = self._table[operation_id]
            operation.update(changes, finished_at=_now())
            self._busy.pop(operation["server_id"], None)
            finished = [key for key, entry in self._table.items() if entry["finished_at"]]
            for key in finished[: max(0, len(finished) - self._kept)]:
                del self._table[key]


def _now() -> str:
    return timeutils.utcnow().isoformat(timespec="milliseconds") + "Z"
