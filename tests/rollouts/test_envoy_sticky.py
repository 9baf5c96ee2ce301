"""Who meets the candidate: the gateway and `rollouts/bucketing.py` must agree about every session."""

import contextlib
import http.client
import itertools
import json
import math
import random

import pytest

from rollouts.bucketing import bucket
from rollouts.traffic.base import TOTAL_WEIGHT, Backend
from rollouts.traffic.envoy_lua import session_digest
from tests.rollouts.test_envoy import Upstream, eventually, new_id, running_gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with running_gateway(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def upstreams():
    with Upstream("stable") as stable, Upstream("candidate") as candidate:
        yield stable, candidate


@pytest.fixture
def split(gateway, upstreams):
    def write(weight, salt="salt"):
        stable, candidate = upstreams
        gateway.route(
            Backend("candidate", candidate.address, weight),
            Backend("stable", stable.address, TOTAL_WEIGHT - weight),
            salt=salt,
        )

    return write


@pytest.fixture
def versions(gateway):
    """The version that each session meets, over one connection."""
    with contextlib.closing(http.client.HTTPConnection(gateway.listen, timeout=5)) as connection:

        def ask(sessions, **headers):
            return [version_of(connection, {"x-session-id": session, **headers}) for session in sessions]

        yield ask


def version_of(connection, headers):
    connection.request("GET", "/prod/m/who", headers=headers)
    return json.loads(connection.getresponse().read())["name"]


def expected(sessions, weight, salt="salt"):
    return ["candidate" if bucket(s, salt=salt) < weight else "stable" for s in sessions]


USERS = [f"user-{i}" for i in range(2_500)]


def odd_sessions():
    chance = random.Random(7)
    letters = [chr(code) for code in range(33, 127)]
    return ["".join(chance.choices(letters, k=length)) for length in itertools.chain(range(1, 70), range(1, 2_000, 97))]


@pytest.mark.parametrize("weight", [1_000, 5_000])
def test_gateway_sends_each_session_where_the_pure_function_says(split, versions, weight):
    split(weight)
    met = versions(USERS)
    assert met == expected(USERS, weight)
    share, deviation = (
        weight / TOTAL_WEIGHT,
        math.sqrt(weight / TOTAL_WEIGHT * (1 - weight / TOTAL_WEIGHT) / len(USERS)),
    )
    assert abs(met.count("candidate") / len(USERS) - share) < 4 * deviation


def test_ids_of_all_lengths_and_characters_have_the_same_bucket_in_both(gateway, split):
    split(5_000, salt="sält/ 1")
    sessions, ids = [*odd_sessions(), "sessión-日本"], []
    with contextlib.closing(http.client.HTTPConnection(gateway.listen, timeout=5)) as connection:
        for session in sessions:
            ids.append(new_id())
            version_of(connection, {"x-session-id": session.encode(), "x-request-id": ids[-1]})
    gateway.record_of(ids[-1])
    records = {record["request_id"]: record for record in gateway.records()}
    assert [records[i]["bucket"] for i in ids] == [bucket(s, salt="sält/ 1") for s in sessions]
    assert [records[i]["session"] for i in ids] == [session_digest(s) for s in sessions]


def test_growing_weight_only_gains_sessions(split, versions):
    users = USERS[:300]
    before: set[str] = set()
    for weight in (0, 100, 1_000, 5_000, TOTAL_WEIGHT):
        split(weight)
        now = {user for user, version in zip(users, versions(users), strict=True) if version == "candidate"}
        assert before <= now
        before = now
    assert before == set(users)


def test_new_salt_reshuffles_the_sessions(split, versions):
    users = USERS[:400]
    split(5_000, salt="first")
    first = versions(users)
    split(5_000, salt="second")
    second = versions(users)
    same = sum(a == b for a, b in zip(first, second, strict=True))
    assert abs(same - 200) < 4 * math.sqrt(400 * 0.25)


def test_client_cannot_choose_its_bucket(split, versions):
    split(1_000)
    assert versions(USERS[:100], **{"x-dp-bucket": "0"}) == expected(USERS[:100], 1_000)


def test_visitor_without_a_session_gets_a_cookie_that_keeps_the_version(gateway, split):
    split(5_000)
    visitors = []
    for _ in range(12):
        with gateway.client() as browser:
            first = browser.get("/prod/m/who")
            session = browser.cookies["dp_session"]
            again = browser.get("/prod/m/who")
        assert first.headers["set-cookie"] == (f"dp_session={session}; Path=/; HttpOnly; SameSite=Lax; Max-Age=2592000")
        assert "set-cookie" not in again.headers
        assert first.json() == again.json()
        assert [first.json()["name"]] == expected([session], 5_000)
        visitors.append(session)
    assert len(set(visitors)) == len(visitors)


def test_cookie_is_found_among_others_and_a_session_header_goes_first(gateway, split):
    split(5_000)
    for session in USERS[:20]:
        cookies = f"xdp_session=no; a=b; dp_session={session}; c=d"
        assert gateway.get("/prod/m/who", cookie=cookies).json()["name"] == expected([session], 5_000)[0]
    answer = gateway.get("/prod/m/who", cookie="dp_session=other", session="user-1")
    assert answer.json()["name"] == expected(["user-1"], 5_000)[0]


def test_sessions_handed_out_differ_after_a_restart(tmp_path, upstreams):
    handed_out = []
    for _ in range(2):
        with running_gateway(tmp_path) as gateway:
            gateway.route(Backend("stable", upstreams[0].address, TOTAL_WEIGHT))
            eventually(lambda g=gateway: g.get("/prod/m/who").status_code == 200)
            handed_out.append(gateway.get("/prod/m/who").cookies["dp_session"])
    assert handed_out[0] != handed_out[1]
