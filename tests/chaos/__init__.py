"""Faults: the real processes under a random load while they and what they stand on are broken, and what must hold all
the same (docs/reliability.md). ``python -m tests.chaos``, and in short runs the tests in here."""
