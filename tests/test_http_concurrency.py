"""Many at once: one ban wins, and nobody is answered with what is not true (issue 2, Shown by)."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from modledger.domain import events
from modledger.http.sessions import COOKIE
from tests.http_client import USER, World


def test_of_200_bans_of_one_user_by_20_admins_exactly_one_succeeds(world: World) -> None:
    admins = range(1000, 1020)
    for admin in admins:
        world.register(admin, f"admin{admin}", 2)
    world.catch_up()
    tokens = {admin: world.token(admin, level=2) for admin in admins}

    def ban(number: int) -> tuple[int, str]:
        cookie = {"Cookie": f"{COOKIE}={tokens[admins[number % 20]]}"}
        path = f"/v1/admin/punishments/user/{USER}/ban"
        response = world.client.post(path, json={"reason": f"number {number}"}, headers=cookie)
        return response.status_code, response.json().get("error", "")

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ban, range(200)))
    assert Counter(status for status, _ in answers) == {200: 1, 409: 199}
    stream = world.ledger.load([f"user:{USER}"])[f"user:{USER}"]
    (issued,) = [recorded for recorded in stream if isinstance(recorded.event, events.UserBanned)]
    refusals = {message for status, message in answers if status == 409}
    assert refusals == {f"User {USER} already has an active ban: punishment {issued.position}"}
    found = world.get(f"/v1/admin/punishments/search?user_id={USER}", admins[0]).json()
    assert found["total"] == 1


def test_reads_and_commands_of_many_sessions_at_once_are_each_answered(world: World) -> None:
    users = range(2000, 2040)
    for user in users:
        world.register(user, f"user{user}")
    world.catch_up()
    tokens = {user: world.token(user) for user in users}

    def look(number: int) -> str:
        me, other = users[number % 40], users[(number * 7) % 40]
        cookie = {"Cookie": f"{COOKIE}={tokens[me]}"}
        mine = world.client.get("/v1/users/me", headers=cookie)
        theirs = world.client.get(f"/v1/users/profile/user{other}", headers=cookie)
        assert (mine.status_code, theirs.status_code) == (200, 200)
        assert mine.json()["discord_id"] == str(me)
        assert theirs.json()["discord_id"] == str(other)
        return "right"

    with ThreadPoolExecutor(24) as pool:
        assert Counter(pool.map(look, range(400))) == {"right": 400}
