"""When Python's collector looks for garbage, in what goes through the ledger by thousands of events at a time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Some batches' worth, net.
OBJECTS = 100_000


@contextmanager
def collected_seldom() -> Iterator[None]:
    """For the whole process: what is there by now is not looked through any more, and the rest only after so many new
    objects, until the end of this. Events and rows go by their count of references; at Python's own threshold those of
    a batch are looked through again and again while all of them are needed."""
    collections = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS, *collections[1:])
    try:
        yield
    finally:
        gc.set_threshold(*collections)
