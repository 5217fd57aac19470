pytest_plugins = ["tests.postgres_server", "tests.databases", "tests.http_world"]
