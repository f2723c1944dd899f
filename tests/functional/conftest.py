"""Fixtures: one private host a session, guests that are removed whatever happens."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import lab
import pytest


def pytest_collection_modifyitems(items):
    # A storm of kills last: what it finds is easier to read when everything else is known to work.
    items.sort(key=lambda item: item.get_closest_marker("storm") is not None)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    host = item.funcargs.get("host") if hasattr(item, "funcargs") else None
    if report.failed and host:
        for name in ("mhvd", "mhv-broker", "libvirtd"):
            report.sections.append((f"last lines of {name}", "\n".join(host.log(name).splitlines()[-40:])))


@pytest.fixture(scope="session")
def state():
    """A folder that libvirt-qemu and nova-mhv can reach; removed at the end."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mhv-functional-", dir=os.environ.get("MHV_TEST_TMP", "/var/tmp")))
    folder.chmod(0o755)
    yield folder
    if os.environ.get("MHV_KEEP"):
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def images(state):
    """Kernel, initrd and disk of the test guest."""
    folder = state / "images"
    subprocess.run([lab.TOP / "devstack/guest/build", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def host(state):
    host = lab.Host(state, 1)
    host.drive("build")
    try:
        host.start()
        yield host
    finally:
        host.stop()


@pytest.fixture(scope="session")
def stranger(state, host):
    """A second host, whose libvirt never saw nova-mhv."""
    other = lab.Host(state, 2)
    try:
        other.start(engine=False)
        yield other
    finally:
        other.stop()


@pytest.fixture(scope="session")
def engine(host):
    return lab.Engine(host)


def _maker(host, engine, images, state):
    guests = []

    def make(kind="memfd", start=True, **more):
        if kind == "uefi" and not pathlib.Path("/usr/share/OVMF/OVMF_CODE_4M.fd").exists():
            pytest.skip("OVMF is not installed")
        guest = lab.Guest(host, images, state / "guests", kind, **more)
        guests.append(guest)
        return guest.start() if start else guest

    yield make
    for guest in guests:
        guest.remove()
        try:
            engine.forget(guest.uuid)
        except (lab.EngineError, RuntimeError):
            pass
        shutil.rmtree(guest.folder, ignore_errors=True)


@pytest.fixture
def make_guest(host, engine, images, state):
    yield from _maker(host, engine, images, state)


@pytest.fixture(scope="module")
def make_shared_guest(host, engine, images, state):
    yield from _maker(host, engine, images, state)


@pytest.fixture(params=["memfd", "anon"])
def guest(request, make_guest, engine):
    """An attached guest, of both kinds of RAM and both ways to its monitor."""
    guest = make_guest(request.param)
    engine.attach(guest.name)
    return guest


@pytest.fixture(scope="module")
def shared(make_shared_guest, engine):
    """One attached guest for tests that leave it as it was."""
    guest = make_shared_guest()
    engine.attach(guest.name)
    return guest
