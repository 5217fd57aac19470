"""The eraser: finishes erasures that whoever began them did not live to finish."""

import threading

import psycopg
import structlog

from modledger.projections.erasures import finish

log = structlog.get_logger()

TICK_SECONDS = 1.0


def run_eraser(conninfo: str, stop: threading.Event) -> threading.Thread:
    """Starts the thread that finishes erasures until ``stop`` is set. Any number may run: each erasure is finished
    once."""
    thread = threading.Thread(target=_run, args=(conninfo, stop), name="eraser", daemon=True)
    thread.start()
    return thread


def _run(conninfo: str, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            with psycopg.connect(conninfo, autocommit=True, application_name="modledger eraser") as connection:
                while not stop.wait(TICK_SECONDS):
                    if finished := finish(connection):
                        log.info("erasures are finished", subjects=finished)
        except psycopg.Error as error:
            log.warning("eraser starts over", error=str(error))
            stop.wait(TICK_SECONDS)
        except Exception:
            log.exception("eraser starts over after an unexpected error")
            stop.wait(TICK_SECONDS)
