"""``python -m tests.chaos.process serve|work FILE``: the product's own process with a clock that can be stepped.

It is as many seconds ahead of the machine's as the file says, now. Everything else is ``modledger serve`` and
``modledger work``, by the functions that these run. PostgreSQL's clock is the machine's and stays as it is.
"""

import os
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from modledger.domain.postgres_ledger import PostgresLedger
from modledger.domain.settings import read_settings
from modledger.projections.catalog import PROJECTORS
from modledger.workers.database import database
from modledger.workers.logs import configure_logs
from modledger.workers.master_key import master_key
from modledger.workers.migrate import require_migrated
from modledger.workers.serve import serve
from modledger.workers.stopping import stop_on_signals
from modledger.workers.work import work


def stepped_clock(file: Path) -> Callable[[], datetime]:
    """The machine's time plus the seconds that the file holds at each call."""
    return lambda: datetime.now(UTC) + timedelta(seconds=float(file.read_text()))


def main(command: str, file: Path) -> None:
    """Runs until SIGTERM."""
    settings, clock = read_settings(os.environ), stepped_clock(file)
    configure_logs(settings.log_level, command)
    if command == "serve":
        serve(settings, clock)
        return
    stop = threading.Event()
    stop_on_signals(stop)
    with database(settings) as conninfo:
        require_migrated(conninfo)
        with PostgresLedger(conninfo, master_key(settings, conninfo), connections=len(PROJECTORS) + 2) as ledger:
            work(ledger, conninfo, settings, stop, clock)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
