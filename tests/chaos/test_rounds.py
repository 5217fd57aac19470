"""A short round of ``make chaos``, by the same code: the real processes, a load, and faults."""

from tests.chaos.faults import SHORT, possible
from tests.chaos.installation import installed
from tests.chaos.rounds import Rounds, Tally

FAULTS = ["kill_serve", "step_clocks", "hole_database", "take_over", "kill_postmaster", "cut_clients", "disk_full"]


def test_nothing_is_lost_doubled_or_stale_under_faults_of_every_family() -> None:
    tally = Tally()
    with installed() as one:
        there = possible(one)
        Rounds(one, "1", tally).play(0, [kind for kind in FAULTS if kind in there], 2.0, SHORT)
    assert tally.findings == []
    assert (tally.rounds, tally.tangled) == (1, 0)
    assert tally.acknowledged > 0
    assert tally.refused > 0
    assert tally.shared > 0
