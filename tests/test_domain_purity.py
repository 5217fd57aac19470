"""Decisions and folds answer from what they are given: the same history decides the same on any day and machine."""

import ast
from pathlib import Path

import pytest

DOMAIN = Path(__file__).resolve().parent.parent / "domain"
PURE = [
    "commands",
    "decide",
    "envelope",
    "erasure",
    "events",
    "facts",
    "identity",
    "importing",
    "permissions",
    "punishments",
    "rank",
    "refusals",
    "subjects",
    "subscriptions",
    "upcasting",
]
MAY_IMPORT = {"collections", "datetime", "typing", "unicodedata", "uuid", "msgspec", "modledger"}
IMPURE = {"now", "utcnow", "today", "uuid1", "uuid4", "open", "input", "print", "exec", "eval", "__import__"}


def impurities(source: str) -> list[str]:
    """What the source imports or names and a pure module has no use for."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [alias.name for alias in names if alias.name.split(".")[0] not in MAY_IMPORT]
            case ast.ImportFrom(module=module, names=names):
                if (module or "").split(".")[0] not in MAY_IMPORT:
                    found.append(str(module))
                if (module or "").startswith("modledger"):
                    found += [f"{module}.{one.name}" for one in names if not ours_and_pure(module or "", one.name)]
                found += [alias.name for alias in names if alias.name in IMPURE]
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in IMPURE:
                found.append(name)
    return found


def ours_and_pure(module: str, name: str) -> bool:
    return (name if module == "modledger.domain" else module.removeprefix("modledger.domain.")) in PURE


@pytest.mark.parametrize("name", PURE)
def test_a_decision_or_fold_looks_at_no_clock_and_does_no_io(name: str) -> None:
    assert impurities((DOMAIN / f"{name}.py").read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time", ["time"]),
        ("import random, os.path", ["random", "os.path"]),
        ("from socket import create_connection", ["socket"]),
        ("from uuid import uuid4", ["uuid4"]),
        ("from datetime import datetime\nat = datetime.now()", ["now"]),
        ("import uuid\nid = uuid.uuid4()", ["uuid4"]),
        ("from modledger.domain import settings", ["modledger.domain.settings"]),
        (
            "from modledger.domain.postgres_ledger import PostgresLedger",
            ["modledger.domain.postgres_ledger.PostgresLedger"],
        ),
        ("from modledger.domain import events\nfrom modledger.domain.facts import Facts", []),
    ],
)
def test_a_planted_impurity_is_found(source: str, found: list[str]) -> None:
    assert impurities(source) == found
