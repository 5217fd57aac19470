import gc
import signal

pytest_plugins = ["tests.postgres_server", "tests.databases", "tests.http_world"]

# A shell that runs the tests in the background lets them ignore Ctrl-C, and so would every process that they start:
# those that are to end by one would be waited for in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Some five thousand tests are made and kept until the end: to look for rubbish among them again and again took two of
# the five seconds of collecting them, in every worker.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()
