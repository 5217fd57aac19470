"""ETag, If-Match and If-None-Match (api.md §1)."""

import pytest

from modledger.http.errors import Problem
from modledger.http.etags import etag, expected_version, unchanged
from modledger.http.sessions import COOKIE
from tests.http_client import ADMIN, MODERATOR, USER, World, error_of

WHY = {"reason": "spam"}
PROFILE = "/v1/users/profile/user"


def test_a_stale_if_match_is_refused_and_a_true_one_acts(world: World) -> None:
    ban = f"/v1/admin/punishments/user/{USER}/ban"
    seen = world.get(PROFILE, ADMIN).headers["ETag"]
    warned = world.post(f"/v1/admin/punishments/user/{USER}/warn", MODERATOR, WHY)
    head = world.ledger.head()
    stale = error_of(world.post(ban, ADMIN, WHY, headers={"If-Match": seen}), 412)
    assert stale == "The record has changed since: it is at version 2"
    assert world.ledger.head() == head
    assert world.post(ban, ADMIN, WHY, headers={"If-Match": warned.headers["ETag"]}).status_code == 200


def test_a_punishment_has_a_version_of_its_own(world: World) -> None:
    number = world.post(f"/v1/admin/punishments/user/{USER}/warn", ADMIN, WHY).json()["id"]
    path = f"/v1/admin/punishments/{number}"
    first = world.get(path, ADMIN).headers["ETag"]
    world.post(f"/v1/admin/punishments/user/{USER}/warn", ADMIN, WHY)
    assert world.get(path, ADMIN).headers["ETag"] == first
    amended = world.post(f"{path}/amend", ADMIN, {"reason": "worse"}, headers={"If-Match": first})
    assert amended.status_code == 200
    assert world.get(path, ADMIN).headers["ETag"] == amended.headers["ETag"] != first
    error_of(world.post(f"{path}/lift", ADMIN, WHY, headers={"If-Match": first}), 412)
    listed = {"If-Match": f"{first}, {amended.headers['ETag']}"}
    assert world.post(f"{path}/lift", ADMIN, WHY, headers=listed).status_code == 200


def test_any_version_will_do_for_an_asterisk(world: World) -> None:
    warn = f"/v1/admin/punishments/user/{USER}/warn"
    assert world.post(warn, ADMIN, WHY, headers={"If-Match": "*"}).status_code == 200


def test_a_weak_or_foreign_tag_never_matches_and_a_malformed_one_is_refused(world: World) -> None:
    warn = f"/v1/admin/punishments/user/{USER}/warn"
    tag = world.get(PROFILE, ADMIN).headers["ETag"]
    error_of(world.post(warn, ADMIN, WHY, headers={"If-Match": f"W/{tag}"}), 412)
    error_of(world.post(warn, ADMIN, WHY, headers={"If-Match": '"abc"'}), 412)
    error_of(world.post(warn, ADMIN, WHY, headers={"If-Match": "1"}), 400)
    error_of(world.get(PROFILE, ADMIN, headers={"If-None-Match": "1"}), 400)


def test_tags_in_headers_of_their_own_are_one_list(world: World) -> None:
    tag = world.get(PROFILE, ADMIN).headers["ETag"]
    cookie = ("Cookie", f"{COOKIE}={world.token(ADMIN)}")
    json = ("Content-Type", "application/json")
    asked = world.raw("GET", PROFILE, [cookie, ("If-None-Match", '"x"'), ("If-None-Match", tag)])
    assert asked.status_code == 304
    warn = f"/v1/admin/punishments/user/{USER}/warn"
    stale = ("If-Match", etag(0, b""))
    both = world.raw("POST", warn, [cookie, json, stale, ("If-Match", tag)], b'{"reason": "spam"}')
    assert both.status_code == 200
    # An asterisk is no element of a list.
    error_of(world.raw("POST", warn, [cookie, json, ("If-Match", "*"), stale], b'{"reason": "spam"}'), 400)


@pytest.mark.parametrize(
    "path",
    ["/v1/users/me", "/v1/users/me/subscription", "/v1/admin/punishments/{}", "/v1/admin/punishments/{}/history"],
)
def test_every_single_record_spares_its_body(world: World, path: str) -> None:
    number = world.post(f"/v1/admin/punishments/user/{USER}/warn", ADMIN, WHY).json()["id"]
    tag = world.get(path.format(number), ADMIN).headers["ETag"]
    assert not tag.startswith("W/")
    for given in (tag, f"W/{tag}", "*"):
        response = world.get(path.format(number), ADMIN, headers={"If-None-Match": given})
        assert (response.status_code, response.content) == (304, b"")
    assert world.get(path.format(number), ADMIN, headers={"If-None-Match": '"x"'}).status_code == 200


def test_a_tag_names_version_and_body() -> None:
    assert etag(7, b"a") != etag(7, b"b") != etag(8, b"b")
    assert etag(7, b"a").startswith('"7-')
    assert unchanged(etag(7, b"a"), etag(7, b"a"))
    assert not unchanged(None, etag(7, b"a"))


@pytest.mark.parametrize("header", ["", ",", '"a" "b"', '"a', 'w/"a"', '"a",,"b"'])
def test_a_malformed_list_of_tags_is_refused(header: str) -> None:
    with pytest.raises(Problem) as refused:
        expected_version(header)
    assert refused.value.status == 400


def test_of_several_versions_only_the_greatest_can_still_be_met() -> None:
    assert expected_version(f"{etag(3, b'')}, {etag(9, b'')},{etag(4, b'')}") == 9
    assert expected_version(None) is None
    assert expected_version(" * ") is None
