"""Fixtures: one private host a session, guests that are removed whatever happens."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import lab
import pytest

FAILED = pytest.StashKey[list]()
GUESTS = pytest.StashKey[list]()
fates = []


def pytest_collection_modifyitems(items):
    # A storm of kills last: what it finds is easier to read when everything else is known to work.
    items.sort(key=lambda item: item.get_closest_marker("storm") is not None)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    item.stash.setdefault(FAILED, []).append(report.failed)
    host = item.funcargs.get("host") if hasattr(item, "funcargs") else None
    if report.failed and host:
        for name in ("mhvd", "mhv-broker", "libvirtd"):
            report.sections.append((f"last lines of {name}", "\n".join(host.log(name).splitlines()[-40:])))
        for guest in item.stash.get(GUESTS, []):
            report.sections.append((f"console of {guest.name}", guest.console()[-800:]))
            fates.append(f"{item.name}: {guest.name} {guest.fate()}")


def pytest_terminal_summary(terminalreporter):
    if fates:
        terminalreporter.section("guests of failed tests")
        terminalreporter.write("\n".join(fates) + "\n")


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


class Pool:
    """Guests that a test left as it found them serve the next one: a boot takes longer than most tests. They wait suspended,
    for each takes a tenth of a core when it runs."""

    def __init__(self, host, engine, images, state):
        self.host, self.engine, self.images, self.state = host, engine, images, state
        self.idle = []

    def take(self, kind="memfd", start=True, **more):
        if kind == "uefi" and not pathlib.Path("/usr/share/OVMF/OVMF_CODE_4M.fd").exists():
            pytest.skip("OVMF is not installed")
        wanted = (kind, sorted(more.items()))
        for guest in self.idle if start else []:
            if guest.wanted == wanted:
                self.idle.remove(guest)
                self.host.virsh("resume", guest.name)
                return guest
        guest = lab.Guest(self.host, self.images, self.state / "guests", kind, **more)
        guest.wanted = wanted
        return guest.start() if start else guest

    def give_back(self, guest, failed):
        try:
            self.engine.forget(guest.uuid)
        except (lab.EngineError, RuntimeError) as error:
            print(f"forget {guest.name}: {error}")
        try:
            if not failed and guest.state == "running":
                guest.reset()
                self.host.virsh("suspend", guest.name)
                self.idle.append(guest)
                return
        except (AssertionError, LookupError, OSError, RuntimeError) as error:
            print(f"{guest.name} is not used again: {error}")
        self.remove(guest)

    def remove(self, guest):
        guest.remove()
        if not os.environ.get("MHV_KEEP"):
            shutil.rmtree(guest.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def pool(host, engine, images, state):
    return Pool(host, engine, images, state)  # those that are left end with the host


@pytest.fixture
def make_guest(pool, request):
    taken = request.node.stash[GUESTS] = []

    def make(*args, **more):
        taken.append(pool.take(*args, **more))
        return taken[-1]

    yield make
    for guest in taken:
        pool.give_back(guest, any(request.node.stash.get(FAILED, [])))


@pytest.fixture(params=["memfd", "anon"])
def guest(request, make_guest, engine):
    """An attached guest, of both kinds of RAM and both ways to its monitor."""
    guest = make_guest(request.param)
    engine.attach(guest.name)
    return guest


@pytest.fixture(scope="module")
def shared(pool, engine):
    """One attached guest for tests that leave it as it was."""
    guest = pool.take()
    engine.attach(guest.name)
    yield guest
    pool.give_back(guest, failed=True)
