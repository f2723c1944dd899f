"""A guest as large as they are served here: as right as the others."""

from test_restore import start_at, wait_filled


def test_sixteen_gibibytes_and_eight_vcpus(make_guest, engine, host):
    guest = make_guest("memfd", mib=64, ram_mib=16384, vcpus=8)
    engine.attach(guest.name)
    guest.busy(1000)
    guest.set("state", "earlier")
    earlier = engine.create(guest.name)
    guest.set("state", "later")
    guest.busy(1000)
    later = engine.create(guest.name)
    assert engine.restore(guest.name, earlier["id"])["in_place"]
    assert guest.get("state") == "earlier"
    guest.assert_whole()
    start_at(guest, engine, host, later)
    assert guest.get("state") == "later"
    guest.assert_whole()
    wait_filled(guest, engine)
    guest.assert_whole()
