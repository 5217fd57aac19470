import signal

pytest_plugins = ["tests.postgres_server", "tests.databases", "tests.http_world"]

# A shell that runs the tests in the background lets them ignore Ctrl-C, and so would every process that they start:
# those that are to end by one would be waited for in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)
