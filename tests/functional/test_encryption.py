"""Checkpoints of real guests, encrypted at rest."""

import secrets

import lab
import pytest
from test_bad_input import refusal, store

FOLDER = "/etc/nova-mhv"
KEY = f"{FOLDER}/store.key"


class Keys:
    """The key that mhvd of the host has."""

    def __init__(self, host, engine):
        self.host, self.engine = host, engine

    def new(self):
        """One that nobody had before. Returns what use() takes it back by."""
        name = f"{KEY}.{secrets.token_hex(4)}"
        self.host.run("openssl", "rand", "-out", name, "32")
        self.host.run("chown", "nova-mhv", name)
        self.host.run("chmod", "0400", name)
        return self.use(name)

    def use(self, name):
        self.host.run("sh", "-c", f"echo store-key-file={name} >{FOLDER}/mhvd.conf")
        return self._restart(name)

    def none(self):
        self.host.run("rm", "-f", f"{FOLDER}/mhvd.conf")
        self._restart(None)

    def _restart(self, name):
        for action in ("stop", "start"):
            self.host.drive("daemon", self.host.number, "mhvd", action)
        return name


@pytest.fixture
def keys(host, engine):
    keys = Keys(host, engine)
    yield keys
    keys.none()
    host.run("sh", "-c", f"rm -f {KEY}.*")


def files_with(host, guest, text):
    """How many files of the guest's store hold the text."""
    found = host.run("grep", "-rlaF", text, f"{store(host, guest)}/segments", f"{store(host, guest)}/CATALOG", check=False).stdout
    return len(found.split())


def test_nothing_can_be_read_and_everything_restores(keys, make_guest, engine, host):
    guest = make_guest()
    secret = "s" + secrets.token_urlsafe(40)  # nothing in it comes twice: a page that is compressed still holds it in one piece
    guest.set("secret", secret)
    engine.attach(guest.name)
    engine.create(guest.name)
    assert files_with(host, guest, secret) > 0, "what the next look would find"
    engine.forget(guest.name)

    keys.new()
    engine.attach(guest.name)
    point = engine.create(guest.name, "encrypted")
    guest.set("secret", "another")
    guest.busy(3000, pages=500)
    later = engine.create(guest.name)
    for text in (secret, guest.name, guest.uuid, point["id"], "encrypted"):
        assert files_with(host, guest, text) == 0, text
    assert not engine.verify(guest.name).get("problems")

    lab.kill(engine.status(guest.name)["worker_pid"])
    engine.wait_state(guest.name, "attached")
    engine.restore(guest.name, point["id"])
    assert guest.get("secret") == secret
    guest.assert_whole()
    engine.restore(guest.name, later["id"])
    assert guest.get("secret") == "another"
    guest.assert_whole()

    host.virsh("destroy", guest.name)
    engine.wait_state(guest.name, "stopped")
    engine.restore(guest.name, point["id"])
    assert guest.get("secret") == secret
    guest.assert_whole()


def test_another_key_and_none_are_refused(keys, make_guest, engine):
    guest = make_guest()
    first = keys.new()
    engine.attach(guest.name)
    point = engine.create(guest.name)
    guest.set("here", "later")
    keys.new()
    with refusal("permission", "key"):
        engine.restore(guest.name, point["id"])
    keys.none()
    with refusal("permission", "key"):
        engine.restore(guest.name, point["id"])
    guest.assert_whole()
    keys.use(first)
    engine.wait_state(guest.name, "attached")
    engine.restore(guest.name, point["id"])
    assert guest.get("here") is None
    guest.assert_whole()
    keys.new()
    engine.forget(guest.name)  # nobody can open its store: the tracking of its memory goes on
    engine.attach(guest.name)
    engine.restore(guest.name, engine.create(guest.name)["id"])
    guest.assert_whole()


def test_a_store_from_before_stays_readable(keys, make_guest, engine):
    guest = make_guest()
    guest.set("here", "before")
    engine.attach(guest.name)
    point = engine.create(guest.name)
    keys.new()
    engine.wait_state(guest.name, "attached")
    guest.set("here", "later")
    engine.create(guest.name)
    engine.restore(guest.name, point["id"])
    assert guest.get("here") == "before"
    guest.assert_whole()
