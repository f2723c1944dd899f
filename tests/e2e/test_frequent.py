"""A tenant's server with forty checkpoints a second, under load: it rewrites pages and blocks of its disk.

MHV_EPOCHS sets how many (default 400; tests/soak/run takes 24,000, ten minutes at full rate: its restore goes back by five).
"""

import datetime
import os
import time

from conftest import ensure_flavor, wait_for

EPOCHS = int(os.environ.get("MHV_EPOCHS", "400"))
FLAVOR = "m1.tiny.frequent"
PAGE = 200
KEEP = "7m:all" if EPOCHS > 10000 else str(4 * EPOCHS)  # what is restored must still be there when a busy host gets to it


def listed(server):
    """All checkpoints of the server, page by page, as a client reads a long list."""
    found, marker = [], ""
    while True:
        after = f"&marker={marker}" if marker else ""
        status, body = server.client.api("GET", f"/servers/{server.id}/checkpoints?limit={PAGE}{after}")
        if status == 400 and marker:  # thinned out since the page before
            found, marker = [], ""
            continue
        assert status == 200, body
        found += body["checkpoints"]
        if not body.get("checkpoints_links"):
            return found
        assert len(body["checkpoints"]) == PAGE
        marker = found[-1]["id"]


def taken(server):
    status, body = server.client.api.services(server.id)
    return body["services"]["epoch"] if status == 200 else 0


def test_forty_checkpoints_a_second_of_a_tenants_server(admin, servers):
    specs = {
        "mhv:services": "checkpoint",
        "trait:CUSTOM_MHV_CHECKPOINT": "required",
        "mhv:checkpoint_interval_s": "0.025",
        "mhv:checkpoint_keep": KEEP,
        "mhv:checkpoint_overhead_max": "50",
    }
    ensure_flavor(admin.sdk, FLAVOR, 192, specs)
    server = servers(FLAVOR)
    server.set("here", "the beginning")
    server.ask("rate 1000")
    server.ask("disk-rate 5")
    wait_for("the first checkpoints", lambda: taken(server) >= 10, 120)
    began, first = time.monotonic(), taken(server)
    server.set("here", "halfway")
    half = wait_for("half of the checkpoints", lambda: taken(server) >= EPOCHS // 2 and taken(server), 900)
    server.assert_sound()
    (point,) = listed(server)[-1:]
    server.set("here", "later")
    wait_for("all checkpoints", lambda: taken(server) >= half + EPOCHS // 2, 900)
    assert server.status() == "ACTIVE", "Nova never sees the pauses"
    print(f"{(taken(server) - first) / (time.monotonic() - began):.1f} checkpoints a second")

    began = time.monotonic()
    found = listed(server)
    print(f"{len(found)} listed in {time.monotonic() - began:.2f} s, {PAGE} a page")
    assert len({c["id"] for c in found}) == len(found)
    assert point["id"] in {c["id"] for c in found}
    assert {c["state"] for c in found} == {"available"}
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(point["created_at"])
    began = time.monotonic()
    server.restore(point["id"])
    server.wait_answer()
    print(f"restored to {age.total_seconds():.0f} s ago; answers again after {time.monotonic() - began:.1f} s")
    assert server.get("here") == "halfway"
    server.assert_sound()
    server.assert_store_is_sound()
