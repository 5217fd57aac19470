"""Heads and proofs over HTTP: right, checkable with the public key alone, and clear about what cannot be proved."""

import re
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modledger.domain import commands
from modledger.domain.envelope import SYSTEM, Subject
from modledger.domain.merkle import leaf_hash, proves_consistency, proves_inclusion
from modledger.domain.seal_proofs import consistency, inclusion
from modledger.domain.signed_heads import verify
from modledger.workers.seal_files import check_proof
from modledger.workers.seal_key import public_keys
from modledger.workers.seal_store import carry_out
from modledger.workers.sealer import seal
from tests.http_client import ADMIN, MODERATOR, OWNER, USER, World, error_of
from tests.sealing import begun, fill, unguarded

HEAD, PROOF, CONSISTENCY = "/v1/admin/audit/head", "/v1/admin/audit/proof", "/v1/admin/audit/consistency"


@pytest.fixture
def sealed(world: World) -> World:
    """The people of the world, sealed in two heads."""
    seal(world.connection, begun(world.connection), world.now - timedelta(minutes=1))
    world.act(commands.IssueWarning(target=Subject("user", USER), reason="Rule 1"), SYSTEM)
    world.act(commands.IssueWarning(target=Subject("user", USER), reason="Rule 2"), SYSTEM)
    seal(world.connection, begun(world.connection), world.now)
    return world


def test_the_head_is_the_newest_signed_one(sealed: World) -> None:
    answer = sealed.get(HEAD, ADMIN).json()
    head = verify(answer["note"], public_keys(sealed.connection))
    assert list(answer) == ["tree_size", "position", "root", "sealed_at", "note"]
    assert answer["tree_size"] == head.tree_size == len(sealed.ledger.read(0, 1000))
    assert answer["position"] == head.position == sealed.ledger.head()
    assert b64decode(answer["root"]) == head.root
    assert answer["sealed_at"] == "2026-03-10T12:00:00Z"


def test_every_event_is_proved(sealed: World) -> None:
    for recorded in sealed.ledger.read(0, 1000):
        answer = sealed.get(f"{PROOF}/{recorded.position}", OWNER).json()
        head = verify(answer["head"], public_keys(sealed.connection))
        path = [b64decode(one) for one in answer["path"]]
        leaf = b64decode(answer["leaf"])
        assert recorded.stream.encode() in leaf
        assert answer["tree_size"] == head.tree_size
        assert proves_inclusion(leaf_hash(leaf), answer["leaf_index"], head.tree_size, path, head.root)


def test_any_two_sizes_are_proved_consistent(sealed: World) -> None:
    size = sealed.get(HEAD, ADMIN).json()["tree_size"]
    for first, second in ((1, size), (size - 2, size), (size, size), (3, 5)):
        answer = sealed.get(f"{CONSISTENCY}?from={first}&to={second}", ADMIN).json()
        path = [b64decode(one) for one in answer["path"]]
        roots = [b64decode(answer["from_root"]), b64decode(answer["to_root"])]
        assert proves_consistency(first, second, path, *roots)
        assert (answer["from_head"] is not None) == (first in (size - 2, size))
        assert (answer["to_head"] is not None) == (second == size)
    assert sealed.get(f"{CONSISTENCY}?from=1", ADMIN).json()["to_size"] == size


def test_answers_saved_to_files_are_checked_offline(sealed: World, tmp_path: Path) -> None:
    keys = public_keys(sealed.connection)
    size = sealed.get(HEAD, ADMIN).json()["tree_size"]
    for name, path in (("proof", f"{PROOF}/3"), ("link", f"{CONSISTENCY}?from={size - 2}")):
        (tmp_path / name).write_bytes(sealed.get(path, ADMIN).content)
    (tmp_path / "head").write_text(sealed.get(HEAD, ADMIN).json()["note"], "utf-8")
    assert "the event at position 3 is in the ledger" in check_proof(tmp_path / "proof", keys, {})
    assert f"begins with that of {size - 2}, unchanged" in check_proof(tmp_path / "link", keys, {})
    assert f"the head of {size} events" in check_proof(tmp_path / "head", keys, {})


def test_http_and_the_command_line_give_the_same_proofs(sealed: World) -> None:
    answer = sealed.get(f"{PROOF}/4", ADMIN).json()
    proof = carry_out(sealed.connection, inclusion(4))
    assert [b64decode(one) for one in answer["path"]] == proof.path
    assert (b64decode(answer["leaf"]), answer["head"]) == (proof.leaf, proof.head)
    link = carry_out(sealed.connection, consistency(2, None))
    answer = sealed.get(f"{CONSISTENCY}?from=2", ADMIN).json()
    assert [b64decode(one) for one in answer["path"]] == link.path


def test_before_anything_is_sealed_there_is_nothing_to_prove(world: World) -> None:
    for path in (HEAD, f"{PROOF}/1", f"{CONSISTENCY}?from=1"):
        assert error_of(world.get(path, ADMIN), 404) == "Nothing is sealed yet"


def test_what_is_not_sealed_yet_is_409_and_what_does_not_exist_404(sealed: World) -> None:
    last = sealed.ledger.head()
    sealed.act(commands.IssueWarning(target=Subject("user", USER), reason="Rule 3"), SYSTEM)
    said = f"Position {last + 1} is not sealed yet: the last head is of position {last}"
    assert error_of(sealed.get(f"{PROOF}/{last + 1}", ADMIN), 409) == said
    assert error_of(sealed.get(f"{PROOF}/{last + 2}", ADMIN), 404) == "Event not found"
    assert error_of(sealed.get(f"{PROOF}/{2**63 - 1}", ADMIN), 404) == "Event not found"
    assert "are not sealed yet" in error_of(sealed.get(f"{CONSISTENCY}?from=1&to=100000", ADMIN), 409)
    assert "are not sealed yet" in error_of(sealed.get(f"{CONSISTENCY}?from=100000", ADMIN), 409)


def test_an_admin_who_has_just_written_is_not_kept_waiting_for_the_sealer(sealed: World) -> None:
    warned = sealed.post(f"/v1/admin/punishments/user/{USER}/warn", ADMIN, {"reason": "Rule 3"})
    assert warned.status_code == 200
    assert sealed.get(HEAD, ADMIN).json()["position"] < int(warned.headers["X-Ledger-Position"])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{PROOF}/0", "position must be between 1 and 9223372036854775807"),
        (f"{PROOF}/x", "position must be between 1 and 9223372036854775807"),
        (CONSISTENCY, "from is required"),
        (f"{CONSISTENCY}?from=0", "from must be between 1 and 9223372036854775807"),
        (f"{CONSISTENCY}?from=5&to=4", "from must not be greater than to"),
        (f"{CONSISTENCY}?from=5&to=x", "to must be between 1 and 9223372036854775807"),
        (f"{CONSISTENCY}?from=1&until=4", "unknown parameter: until"),
        (f"{HEAD}?size=1", "unknown parameter: size"),
    ],
)
def test_bad_input_is_refused(shared_world: World, path: str, message: str) -> None:
    assert error_of(shared_world.get(path, ADMIN), 400) == message


def test_only_admins_may_ask(shared_world: World) -> None:
    for path in (HEAD, f"{PROOF}/1", f"{CONSISTENCY}?from=1"):
        assert error_of(shared_world.get(path, MODERATOR), 403) == "Admin access required"
        assert error_of(shared_world.get(path), 401) == "Authentication required"


def test_an_event_that_is_no_longer_what_was_sealed_is_not_proved(sealed: World) -> None:
    unguarded(sealed.connection, "update ledger set via = 'import' where notification_id = 11")
    unguarded(sealed.connection, "delete from ledger where notification_id = 12")
    assert error_of(sealed.get(f"{PROOF}/11", ADMIN), 409) == "The event at position 11 is not what was sealed"
    assert error_of(sealed.get(f"{PROOF}/12", ADMIN), 409) == "The event at position 12 was sealed and is gone"


@pytest.mark.usefixtures("unfolded")
def test_an_event_that_was_put_between_sealed_ones_is_not_proved(world: World) -> None:
    world.catch_up()
    world.catching_up = False
    world.connection.execute("select nextval(pg_get_serial_sequence('ledger', 'notification_id'))")
    gap = world.ledger.head() + 1
    fill(world.connection, 3)
    seal(world.connection, begun(world.connection), world.now)
    assert error_of(world.get(f"{PROOF}/{gap}", ADMIN), 404) == "Event not found"
    unguarded(
        world.connection,
        "insert into ledger overriding system value"
        " values (%s, 'user:5', 99, 'x.v1', '{}', now(), null, 'system', 'cli')",
        gap,
    )
    said = f"The event at position {gap} was not there when the ledger was sealed"
    assert error_of(world.get(f"{PROOF}/{gap}", ADMIN), 409) == said


def test_a_tree_that_was_damaged_is_told(sealed: World) -> None:
    unguarded(sealed.connection, "delete from seal_tiles")
    assert error_of(sealed.get(f"{CONSISTENCY}?from=1", ADMIN), 409).startswith("The sealed tree is damaged")


def test_erasing_somebody_changes_no_proof(sealed: World) -> None:
    before = sealed.get(f"{PROOF}/3", ADMIN).json()
    sealed.act(commands.EraseSubject(target=Subject("user", USER), reason="asked"))
    seal(sealed.connection, begun(sealed.connection), sealed.now)
    after = sealed.get(f"{PROOF}/3", ADMIN).json()
    assert after["leaf"] == before["leaf"]
    head = verify(after["head"], public_keys(sealed.connection))
    path = [b64decode(one) for one in after["path"]]
    assert proves_inclusion(leaf_hash(b64decode(after["leaf"])), after["leaf_index"], head.tree_size, path, head.root)


@pytest.mark.usefixtures("unfolded")
def test_a_sealer_that_has_stopped_degrades_the_health(world: World) -> None:
    # Events are recorded at the database's time.
    world.now = datetime.now(UTC) + timedelta(minutes=5)
    assert world.get("/health").json()["errors"] == []
    world.now += timedelta(minutes=6)
    health = world.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    [said] = health.json()["errors"]
    assert re.fullmatch(r"The sealer is 6\d\d s behind", said)
    seal(world.connection, begun(world.connection), world.now)
    assert world.get("/health").json()["status"] == "healthy"
