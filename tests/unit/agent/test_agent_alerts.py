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


import uuid

import fake_engine
import pytest

from nova_mhv import engine
from nova_mhv.agent.alerts import AlertWatch

FIRST, SECOND = str(uuid.uuid4()), str(uuid.uuid4())


class Watched:
    """A watch that looks when it is told to; ``sent`` are the titles, by server."""

    def __init__(self):
        self.engine = fake_engine.FakeEngine(FIRST, SECOND)
        self.sent = []
        self._watch = AlertWatch(lambda: self.engine, lambda alert: self.sent.append((alert["server_id"], alert["title"])))

    def look(self):
        self.sent.clear()
        self._watch.look(self.engine)
        return self.sent


@pytest.fixture
def watched():
    return Watched()


def test_each_alert_is_sent_once(watched):
    watched.look()
    watched.engine.alert(FIRST, "a")
    watched.engine.alert(SECOND, "b")
    watched.engine.alert(FIRST, "c")
    assert watched.look() == [(FIRST, "a"), (FIRST, "c"), (SECOND, "b")]
    assert watched.look() == []
    watched.engine.alert(SECOND, "d")
    assert watched.look() == [(SECOND, "d")]
    assert watched.look() == []


def test_what_came_before_the_agent_is_not_sent(watched):
    watched.engine.alert(FIRST, "old")
    assert watched.look() == []
    assert watched.look() == []
    watched.engine.alert(FIRST, "new")
    assert watched.look() == [(FIRST, "new")]


def test_all_of_a_server_that_came_later_is_sent(watched):
    watched.look()
    third = str(uuid.uuid4())
    watched.engine.guests[third], watched.engine.services[third], watched.engine.found[third] = [], {}, []
    watched.engine.alert(third, "at once")
    assert watched.look() == [(third, "at once")]


def test_an_engine_that_counts_anew_loses_none_and_repeats_none(watched):
    watched.look()
    for title in ("a", "b", "c"):
        watched.engine.alert(FIRST, title)
    watched.look()
    old = watched.engine.found[FIRST]
    watched.engine.found[FIRST] = []
    assert watched.look() == []
    watched.engine.alert(FIRST, "new", number=1, time_ns=old[-1]["time_ns"] + 1)
    assert watched.look() == [(FIRST, "new")]
    assert watched.look() == []
    # The same number as the last that was sent, but another alert.
    watched.engine.found[FIRST] = []
    watched.engine.alert(FIRST, "other", number=1, time_ns=old[-1]["time_ns"] + 2)
    assert watched.look() == [(FIRST, "other")]


def test_more_alerts_than_the_engine_keeps(watched):
    watched.look()
    watched.engine.alert(FIRST, "a")
    watched.look()
    for number in range(5):
        watched.engine.alert(FIRST, f"b{number}")
    del watched.engine.found[FIRST][:3]
    assert watched.look() == [(FIRST, f"b{number}") for number in (2, 3, 4)]
    assert watched.look() == []


def test_an_engine_that_is_away_loses_none(watched, monkeypatch):
    watched.look()
    watched.engine.alert(FIRST, "a")

    def fail(*arguments):
        raise fake_engine.error("unavailable", "mhvd does not answer", "")

    for method in ("status", "alerts"):
        with monkeypatch.context() as away:
            away.setattr(watched.engine, method, fail)
            with pytest.raises(engine.EngineError):
                watched.look()
    assert watched.look() == [(FIRST, "a")]


def test_an_engine_that_goes_away_half_way_repeats_none(watched, monkeypatch):
    watched.look()
    watched.engine.alert(FIRST, "a")
    watched.engine.alert(SECOND, "b")
    ask = watched.engine.alerts

    def fail_for_the_second(guest, after):
        if guest == SECOND:
            raise fake_engine.error("unavailable", "mhvd does not answer", "")
        return ask(guest, after)

    with monkeypatch.context() as away:
        away.setattr(watched.engine, "alerts", fail_for_the_second)
        with pytest.raises(engine.EngineError):
            watched.look()
    assert watched.sent == [(FIRST, "a")]
    assert watched.look() == [(SECOND, "b")]


def test_a_server_that_has_no_alerts_to_show_keeps_no_other_back(watched, monkeypatch):
    watched.look()
    watched.engine.alert(SECOND, "b")
    ask = watched.engine.alerts

    def refuse_the_first(guest, after):
        if guest == FIRST:
            raise fake_engine.error("not-found", "forgotten meanwhile", "")
        return ask(guest, after)

    monkeypatch.setattr(watched.engine, "alerts", refuse_the_first)
    assert watched.look() == [(SECOND, "b")]
