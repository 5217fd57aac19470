"""What lies between the dates of a search: whole weeks and days, of which there are counts and marks, and the rest."""

from datetime import datetime

import msgspec

from modledger.projections.parameters import Parameters
from modledger.projections.weeks import beginning, beginning_of_day, covering, day, week


class Dates(msgspec.Struct, frozen=True):
    """What lies between the dates of a search, as SQL. ``both``: the conditions as they are. ``cells``: conditions on
    ``punishment_counts``, of whole weeks and days, and ``cut_days`` on rows: what is left at both ends. ``whole_weeks``
    on the number of a week, ``whole`` the same on a row, and ``cut_weeks`` what is left on both sides of these weeks.
    ``weeks``: all that the dates touch, as a condition on a number; None where there are no dates."""

    both: list[str]
    cells: list[str]
    cut_days: list[str]
    whole_weeks: str
    whole: list[str]
    cut_weeks: list[str]
    weeks: str | None


def between(after: datetime | None, before: datetime | None, parameters: Parameters) -> Dates:
    """Of a search for what was issued between the two moments, which it excludes. None: however early or late."""
    cells = [
        f"week between {first} and {last}" if last is not None else f"week >= {first}"
        for first, last in covering(after, before)
    ]
    if after is None and before is None:
        return Dates([], cells, [], "week = 0", [], [], None)
    later = earlier = None
    if after is not None:
        later = f"created_at > {parameters.add(after, 'timestamptz')}"
    if before is not None:
        earlier = f"created_at < {parameters.add(before, 'timestamptz')}"
    both = [condition for condition in (later, earlier) if condition is not None]
    if after is not None and before is not None and day(after) >= day(before):
        cut_days = [" and ".join(both)]
    else:
        cut_days = [] if after is None else [f"{later} and created_at < {beginning_of_day(day(after) + 1)}"]
        cut_days += [] if before is None else [f"created_at >= {beginning_of_day(day(before))} and {earlier}"]
    if after is not None and before is not None and week(after) >= week(before):
        touched = f"week between {week(after)} and {week(before)}"
        return Dates(both, cells, cut_days, "false", ["false"], [" and ".join(both)], touched)
    weeks, whole, cut, touches = ["week > 0"], [], [], []
    if after is not None:
        touches.append(f"week >= {week(after)}")
        weeks.append(f"week > {week(after)}")
        whole.append(f"created_at >= {beginning(week(after) + 1)}")
        cut.append(f"{later} and created_at < {beginning(week(after) + 1)}")
    if before is not None:
        touches.append(f"week <= {week(before)}")
        weeks.append(f"week < {week(before)}")
        whole.append(f"created_at < {beginning(week(before))}")
        cut.append(f"created_at >= {beginning(week(before))} and {earlier}")
    return Dates(both, cells, cut_days, " and ".join(weeks), whole, cut, " and ".join(touches))
