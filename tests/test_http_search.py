"""GET /v1/admin/punishments/search (api.md §5.2)."""

from datetime import timedelta
from itertools import product
from typing import Any

from modledger.domain import commands
from modledger.domain.envelope import SYSTEM, Actor, Subject
from tests.http_client import ADMIN, GUILD, MODERATOR, NOW, OTHER_USER, USER, World, error_of

SEARCH = "/v1/admin/punishments/search"
BY_ADMIN, BY_MODERATOR = Actor("user", ADMIN), Actor("user", MODERATOR)


def populate(world: World) -> list[dict[str, Any]]:
    """Twelve punishments of every kind, as the search shows them all."""
    begin = NOW - timedelta(days=10)
    for hour, (actor, target) in enumerate(
        product((BY_ADMIN, BY_MODERATOR, SYSTEM), (Subject("user", USER), Subject("user", OTHER_USER)))
    ):
        world.act(commands.IssueWarning(target=target, reason=f"r{hour}"), actor, begin + timedelta(hours=hour))
    for hour, target in enumerate((Subject("user", USER), Subject("guild", GUILD)), 10):
        end = begin + timedelta(days=1 if hour == 10 else 100)
        ban = commands.IssueBan(target=target, reason=f"r{hour}", expires_at=end)
        world.act(ban, BY_ADMIN, begin + timedelta(hours=hour))
    timeout = commands.IssueTimeout(user_id=OTHER_USER, reason="r12", expires_at=begin + timedelta(days=11))
    issued = world.act(timeout, BY_MODERATOR, begin + timedelta(hours=12))
    number = issued.events[0].version
    lift = commands.LiftPunishment(target=Subject("user", OTHER_USER), number=number, reason="over")
    world.act(lift, BY_ADMIN, begin + timedelta(hours=13))
    found: list[dict[str, Any]] = world.get(f"{SEARCH}?limit=100", ADMIN).json()["punishments"]
    assert len(found) == 9
    return found


def test_an_empty_search_answers_the_documented_keys_alone(world: World) -> None:
    response = world.get(SEARCH, ADMIN)
    assert response.text == '{"punishments":[],"total":0,"limit":25,"offset":0}'


def test_every_combination_of_filters_answers_what_matches_and_its_exact_number(world: World) -> None:
    everything = populate(world)
    now = "2026-03-10T12:00:00Z"
    types = {"1": "WARNING", "2": "TIMEOUT", "BAN": "BAN", "GUILD_BLACKLIST": "GUILD_BLACKLIST"}
    for user, guild, issuer, kind, active in product(
        (None, USER), (None, GUILD), (None, ADMIN, MODERATOR), (None, *types), (False, True)
    ):
        expected = [
            one["id"]
            for one in everything
            if (user is None or one["discord_user_id"] == str(user))
            and (guild is None or one["discord_guild_id"] == str(guild))
            and (issuer is None or one["discord_issued_by_id"] == str(issuer))
            and (kind is None or one["punishment_type"] == types[kind])
            and (not active or (not one["is_lifted"] and (one["expires_at"] is None or one["expires_at"] > now)))
        ]
        given = {"user_id": user, "guild_id": guild, "issued_by": issuer, "punishment_type": kind}
        parameters = {name: str(value) for name, value in given.items() if value is not None}
        if active:
            parameters["active_only"] = "true"
        body = world.get(SEARCH, ADMIN, params=parameters).json()
        assert ([one["id"] for one in body["punishments"]], body["total"]) == (expected, len(expected)), parameters


def test_what_ran_out_is_not_lifted_and_changed_at_its_end(world: World) -> None:
    populate(world)
    (ban,) = world.get(f"{SEARCH}?punishment_type=3", ADMIN).json()["punishments"]
    assert (ban["is_lifted"], ban["lifted_at"], ban["updated_at"]) == (False, None, ban["expires_at"])
    (timeout,) = world.get(f"{SEARCH}?punishment_type=2", ADMIN).json()["punishments"]
    assert (timeout["is_lifted"], timeout["discord_lifted_by_id"]) == (True, str(ADMIN))
    system = [one for one in world.get(SEARCH, ADMIN).json()["punishments"] if one["discord_issued_by_id"] is None]
    assert len(system) == 2


def test_pages_by_offset_and_by_cursor_are_the_same_and_lose_nothing(world: World) -> None:
    everything = [one["id"] for one in populate(world)]
    for sort in ("-created_at", "created_at", "-expires_at", "expires_at"):
        whole = [one["id"] for one in world.get(f"{SEARCH}?sort={sort}", ADMIN).json()["punishments"]]
        assert sorted(whole) == sorted(everything)
        by_offset = [
            one["id"]
            for offset in range(0, 10, 2)
            for one in world.get(f"{SEARCH}?sort={sort}&limit=2&offset={offset}", ADMIN).json()["punishments"]
        ]
        assert by_offset == whole
        by_cursor, parameters = [], {"sort": sort, "limit": "2"}
        while True:
            body = world.get(SEARCH, ADMIN, params=parameters).json()
            assert (body["total"], body["offset"], body["limit"]) == (9, 0, 2)
            by_cursor += [one["id"] for one in body["punishments"]]
            if "next_cursor" not in body:
                break
            parameters["cursor"] = body["next_cursor"]
        assert by_cursor == whole


def test_dates_of_issue_bound_what_is_found_and_its_number(world: World) -> None:
    everything = populate(world)
    third, sixth = everything[2]["created_at"], everything[5]["created_at"]
    parameters = {"created_after": sixth, "created_before": third}
    body = world.get(SEARCH, ADMIN, params=parameters).json()
    assert (body["punishments"], body["total"]) == (everything[3:5], 2)
    shifted = sixth.replace("Z", ".5+00:00")
    assert world.get(SEARCH, ADMIN, params={"created_after": shifted}).json()["total"] == 5
    page = world.get(SEARCH, ADMIN, params={**parameters, "limit": "1"}).json()
    assert page["punishments"] == everything[3:4]
    rest = world.get(SEARCH, ADMIN, params={**parameters, "limit": "1", "cursor": page["next_cursor"]}).json()
    assert (rest["punishments"], rest["total"]) == (everything[4:5], 2)
    other = error_of(world.get(SEARCH, ADMIN, params={"limit": "1", "cursor": page["next_cursor"]}), 400)
    assert other == "cursor belongs to another search"


def test_a_cursor_belongs_to_its_search(world: World) -> None:
    populate(world)
    cursor = world.get(f"{SEARCH}?limit=2", ADMIN).json()["next_cursor"]
    assert world.get(f"{SEARCH}?limit=5&cursor={cursor}", ADMIN).status_code == 200
    for other in ("sort=created_at", f"user_id={USER}", "active_only=true"):
        message = error_of(world.get(f"{SEARCH}?{other}&cursor={cursor}", ADMIN), 400)
        assert message == "cursor belongs to another search"
    message = error_of(world.get(f"{SEARCH}?offset=2&cursor={cursor}", ADMIN), 400)
    assert message == "offset cannot be used together with cursor"
    assert error_of(world.get(f"{SEARCH}?cursor={cursor[:-3]}", ADMIN), 400) == "cursor is not valid"


def test_an_offset_beyond_the_end_is_an_empty_page_with_the_true_total(world: World) -> None:
    populate(world)
    body = world.get(f"{SEARCH}?offset=9223372036854775807", ADMIN).json()
    assert body == {"punishments": [], "total": 9, "limit": 25, "offset": 9223372036854775807}


def test_active_only_is_right_at_the_very_second_of_an_end(world: World) -> None:
    world.token(ADMIN, level=0)
    end = world.later(hours=1)
    world.act(commands.IssueBan(target=Subject("user", USER), reason="x", expires_at=end), BY_ADMIN)
    world.now = end - timedelta(seconds=1)
    assert world.get(f"{SEARCH}?active_only=true", ADMIN).json()["total"] == 1
    world.now = end
    body = world.get(f"{SEARCH}?active_only=true", ADMIN).json()
    assert (body["total"], body["punishments"]) == (0, [])


def test_the_search_is_for_admins(world: World) -> None:
    assert error_of(world.get(SEARCH, MODERATOR), 403) == "Admin access required"


def test_words_and_fragments_are_searched_for_together_with_every_filter(world: World) -> None:
    texts = ("Spam in chat", "SPAMMING, again", "nothing", "no spam", "100% scam_link", "o no")
    for hour, text in enumerate(texts):
        at = NOW - timedelta(days=10) + timedelta(hours=hour)
        actor, target = (BY_ADMIN, BY_MODERATOR)[hour % 2], Subject("user", (USER, OTHER_USER)[hour // 3])
        world.act(commands.IssueWarning(target=target, reason=text), actor, at)

    def found(**parameters: str) -> list[str]:
        body = world.get(SEARCH, ADMIN, params=parameters).json()
        assert body["total"] == len(body["punishments"])
        return [one["reason"] for one in body["punishments"]]

    assert found(q="spam") == ["no spam", "SPAMMING, again", "Spam in chat"]
    assert found(q=" SPAM\tin ") == ["Spam in chat"]
    assert found(q="no") == ["o no", "no spam"]
    assert found(q="pam", sort="created_at") == ["Spam in chat", "SPAMMING, again", "no spam"]
    assert found(q="0% cam_l") == []
    assert found(q="00% cam_l") == ["100% scam_link"]
    assert found(q="%%%") == []
    assert found(q="spam", issued_by=str(ADMIN)) == ["Spam in chat"]
    assert found(q="spam", user_id=str(OTHER_USER)) == ["no spam"]
    assert found(q="spam", guild_id=str(GUILD)) == []
    assert found(q="spam", punishment_type="BAN", active_only="true") == []
    dates = {"created_after": "2026-02-28T12:00:00Z", "created_before": "2026-02-28T15:00:00Z"}
    assert found(q="spam", **dates) == ["SPAMMING, again"]
    wider = {"q": "spam", **dates, "created_after": "2026-02-01T00:00:00Z"}
    whole = world.get(SEARCH, ADMIN, params=wider).json()
    assert (whole["total"], "next_cursor" in whole) == (2, False)
    first = world.get(SEARCH, ADMIN, params={**wider, "limit": "1"}).json()
    second = world.get(SEARCH, ADMIN, params={**wider, "limit": "1", "cursor": first["next_cursor"]}).json()
    assert first["punishments"] + second["punishments"] == whole["punishments"]
    assert (first["total"], second["total"], "next_cursor" in second) == (2, 2, False)
    for other in ("q=pam", "q=spam&sort=created_at"):
        message = error_of(world.get(f"{SEARCH}?{other}&cursor={first['next_cursor']}", ADMIN), 400)
        assert message == "cursor belongs to another search"


def test_what_is_searched_for_has_1_to_100_characters_and_no_nul(world: World) -> None:
    for bad in ("", "   ", "x" * 101):
        message = error_of(world.get(SEARCH, ADMIN, params={"q": bad}), 400)
        assert message == "q must be between 1 and 100 characters"
    assert error_of(world.get(f"{SEARCH}?q=a%00b", ADMIN), 400) == "q must not contain a NUL character"
    for good in (f" {'x' * 100} ", "🚫" * 100, " ".join(chr(0x3B1 + n) for n in range(50))):
        body = world.get(SEARCH, ADMIN, params={"q": good, "limit": "1"}).json()
        assert body == {"punishments": [], "total": 0, "limit": 1, "offset": 0}
