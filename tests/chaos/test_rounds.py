"""Short rounds of ``make chaos``, by the same code: the real processes, a load, and faults."""

from tests.chaos.faults import SHORT, possible
from tests.chaos.installation import installed
from tests.chaos.rounds import Rounds, Tally

SEED = "1"


def test_nothing_is_lost_doubled_or_stale_under_a_few_faults_of_every_family() -> None:
    tally = Tally()
    with installed() as one:
        rounds = Rounds(one, SEED, tally)
        there = possible(one)
        for number, kinds in enumerate(
            (
                ["kill_serve", "hole_database", "step_clocks"],
                ["take_over", "kill_postmaster", "cut_clients", "disk_full"],
            )
        ):
            rounds.play(number, [kind for kind in kinds if kind in there], 2.0, SHORT)
    assert tally.findings == []
    assert (tally.rounds, tally.tangled) == (2, 0)
    assert tally.acknowledged > 0
    assert tally.refused > 0
    assert tally.shared > 0
