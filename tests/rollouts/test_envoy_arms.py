"""Several arms, holdouts, forced arms and ids of one's own, through a real Envoy."""

import contextlib
import http.client
import json
import math
from dataclasses import replace

import pytest

from rollouts.bucketing import Lane, bucket, cuts_of, is_held_out, owner, weights_of
from rollouts.traffic.base import Assignment, Backend, ForcedRule, RouteTable
from rollouts.traffic.envoy_lua import session_digest
from tests.rollouts.test_envoy import Upstream, eventually, new_id, running_gateway

ARMS = ("candidate", "candidate-2", "candidate-3", "stable")
LANES = [Lane("candidate"), Lane("candidate-2"), Lane("candidate-3")]
USERS = [f"user-{i}" for i in range(2_500)]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with running_gateway(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def servers():
    with contextlib.ExitStack() as stack:
        yield {arm: stack.enter_context(Upstream(arm)) for arm in ARMS}


@pytest.fixture
def table(servers):
    """Of so much traffic for three candidates; each server is called as its arm is."""

    def of(share, lanes=LANES, **more):
        cuts = cuts_of(share, lanes)
        weights = weights_of(cuts)
        backends = tuple(Backend(arm, servers[arm].address, weights.get(arm, 0)) for arm in ARMS)
        on = {lane.arm for lane in lanes if lane.on} | {"stable"}
        usual = {"salt": "salt", "cuts": cuts, "arms": tuple((arm, arm) for arm in ARMS if arm in on)}
        return RouteTable("prod", "m", backends, **{**usual, **more})

    return of


@pytest.fixture
def put(gateway):
    def put(table):
        revision = gateway.router.write([table])
        eventually(lambda: gateway.router.installed().revision == revision)
        return table

    return put


@pytest.fixture
def met(gateway):
    """The arm that each request meets, over one connection."""
    with contextlib.closing(http.client.HTTPConnection(gateway.listen, timeout=5)) as connection:

        def ask(sessions, **headers):
            return [answered_by(connection, {"x-session-id": s, **headers}) for s in sessions]

        yield ask


def answered_by(connection, headers):
    connection.request("GET", "/prod/m/who", headers=headers)
    return json.loads(connection.getresponse().read())["name"]


def drawn(sessions, table):
    return [owner(bucket(s, salt=table.salt), table.cuts) for s in sessions]


# Arms


def test_gateway_sends_each_session_to_the_arm_that_the_pure_function_says(table, put, met):
    split = put(table(6_000))
    arms = met(USERS)
    assert arms == drawn(USERS, split)
    for arm, weight in weights_of(split.cuts).items():
        share = weight / 10_000
        assert abs(arms.count(arm) / len(USERS) - share) < 4 * math.sqrt(share * (1 - share) / len(USERS)), arm


def test_sessions_keep_their_arm_while_the_share_of_the_experiment_grows(table, put, met):
    users = USERS[:400]
    before = ["stable"] * len(users)
    for share in (0, 300, 3_000, 6_000, 9_900):
        put(table(share))
        now = met(users)
        moved = {was for was, arm in zip(before, now, strict=True) if was != arm}
        assert moved <= {"stable"}, share
        before = now
    assert {arm for arm in ARMS if arm in before} >= {"candidate", "candidate-2", "candidate-3"}


def test_sessions_of_an_arm_that_is_taken_off_meet_stable_and_nobody_else_notices(table, put, met):
    users = USERS[:400]
    put(table(6_000))
    before = met(users)
    put(table(6_000, [LANES[0], replace(LANES[1], on=False), LANES[2]]))
    after = met(users)
    assert after == ["stable" if arm == "candidate-2" else arm for arm in before]
    assert "candidate-2" in before


def test_weights_that_the_data_plane_says_are_summed_over_the_pieces(gateway, table, put):
    put(table(6_000))
    assert gateway.router.installed().weights == {
        "prod/m": {"candidate": 1_999, "candidate-2": 1_999, "candidate-3": 2_000, "stable": 4_002}
    }


# Holdouts


def test_those_held_out_meet_stable_under_every_salt(gateway, table, put, met):
    users = USERS[:500]
    out = [u for u in users if is_held_out(u, model="m", share=2_000)]
    assert abs(len(out) / len(users) - 0.2) < 4 * math.sqrt(0.2 * 0.8 / len(users))
    for salt in ("first", "second"):
        split = put(table(9_900, holdout=2_000, salt=salt))
        expected = {u: "stable" if u in out else arm for u, arm in zip(users, drawn(users, split), strict=True)}
        assert met(users) == list(expected.values())
    assert [record["group"] for record in last(gateway, 500)] == ["holdout" if u in out else None for u in users]


def test_those_held_out_meet_what_the_others_do_while_stable_cannot_answer(gateway, table, put):
    split = table(9_999, holdout=10_000)
    put(replace(split, arms=tuple(pair for pair in split.arms if pair[0] != "stable")))
    user = next(u for u in USERS if owner(bucket(u, salt="salt"), split.cuts) == "candidate-2")
    answer = gateway.get("/prod/m/who", session=user, request_id=(asked := new_id()))
    assert answer.json()["name"] == "candidate-2"
    assert gateway.record_of(asked)["group"] == "holdout"


# Forced arms


@pytest.mark.parametrize("arm", ARMS)
def test_request_that_names_its_arm_meets_it_and_is_not_counted(gateway, table, put, arm):
    put(table(300, holdout=5_000))
    for user in USERS[:10]:
        answer = gateway.get("/prod/m/who", session=user, x_deploypipe_arm=arm, request_id=(asked := new_id()))
        assert (answer.json()["name"], answer.headers["x-deploypipe-version"]) == (arm, arm)
        record = gateway.record_of(asked)
        assert (record["backend"], record["group"], record["session"]) == (arm, "forced", session_digest(user))


def test_arm_without_any_share_can_be_looked_at_before_it_gets_one(gateway, table, put):
    put(table(0))
    assert gateway.get("/prod/m/who", session="a").json()["name"] == "stable"
    assert gateway.get("/prod/m/who", session="a", x_deploypipe_arm="candidate-3").json()["name"] == "candidate-3"


@pytest.mark.parametrize("arm", ["candidate-9", "", "STABLE", "stable, candidate"])
def test_request_that_names_no_arm_of_the_route_is_drawn_as_any_other(gateway, table, put, arm):
    split = put(table(5_000))
    for user, expected in zip(USERS[:5], drawn(USERS[:5], split), strict=True):
        answer = gateway.get("/prod/m/who", session=user, x_deploypipe_arm=arm, request_id=(asked := new_id()))
        assert answer.json()["name"] == expected
        assert gateway.record_of(asked)["group"] is None


def test_arm_that_was_taken_off_cannot_be_forced(gateway, table, put):
    put(table(3_000, [replace(LANES[0], on=False), *LANES[1:]]))
    user = next(u for u in USERS if bucket(u, salt="salt") < 900)
    assert gateway.get("/prod/m/who", session=user, x_deploypipe_arm="candidate").json()["name"] == "stable"


def test_rule_of_the_experiment_forces_an_arm_by_a_header_of_its_own(gateway, table, put):
    rules = (ForcedRule("x-beta", "true", "candidate-2"), ForcedRule("x-team", "a b=c", "stable"))
    put(table(0, forced=rules))
    assert gateway.get("/prod/m/who", session="a", x_beta="true").json()["name"] == "candidate-2"
    assert gateway.get("/prod/m/who", session="a", x_beta="True").json()["name"] == "stable"
    answer = gateway.get("/prod/m/who", session="a", x_team="a b=c", request_id=(asked := new_id()))
    assert answer.json()["name"] == "stable"
    assert gateway.record_of(asked)["group"] == "forced"


def test_client_cannot_use_the_gateways_own_header_and_the_server_does_not_see_it(gateway, table, put, servers):
    split = put(table(5_000))
    for user, expected in zip(USERS[:20], drawn(USERS[:20], split), strict=True):
        assert gateway.get("/prod/m/who", session=user, x_dp_arm="candidate-3").json()["name"] == expected
    gateway.get("/prod/m/who", x_deploypipe_arm="candidate")
    assert "x-dp-" not in servers["candidate"].heads[-1].lower()


# Ids of one's own


def test_header_of_the_operators_choice_makes_the_session(gateway, table, put):
    split = put(table(6_000, assignment=Assignment("header", "x-user-id")))
    for user, expected in zip(USERS[:20], drawn(USERS[:20], split), strict=True):
        answer = gateway.get("/prod/m/who", x_user_id=user, session="another", request_id=(asked := new_id()))
        assert answer.json()["name"] == expected
        assert "set-cookie" not in answer.headers
        assert gateway.record_of(asked)["session"] == session_digest(user)


@pytest.mark.parametrize("name", ["uid", "my-id_2", "__Host-user"])
def test_cookie_of_the_operators_choice_makes_the_session(gateway, table, put, name):
    split = put(table(6_000, assignment=Assignment("cookie", name)))
    for user, expected in zip(USERS[:10], drawn(USERS[:10], split), strict=True):
        cookies = f"x{name}=no; dp_session=other; {name}={user}; a=b"
        assert gateway.get("/prod/m/who", cookie=cookies).json()["name"] == expected


@pytest.mark.parametrize("by", [Assignment("header", "x-user-id"), Assignment("cookie", "uid")])
def test_who_has_no_such_id_is_a_session_as_usual(gateway, table, put, by):
    split = put(table(6_000, assignment=by))
    for user, expected in zip(USERS[:10], drawn(USERS[:10], split), strict=True):
        assert gateway.get("/prod/m/who", session=user, x_user_id="").json()["name"] == expected
    assert gateway.get("/prod/m/who").headers["set-cookie"].startswith("dp_session=")


def test_no_record_holds_an_id_or_the_value_of_a_header(gateway, table, put):
    rules = (ForcedRule("x-beta", "beta-word", "candidate"),)
    put(table(6_000, assignment=Assignment("header", "x-user-id"), forced=rules))
    asked = new_id()
    headers = {"x_user_id": "ida-lovelace", "x_beta": "beta-word", "authorization": "Bearer hush"}
    gateway.get("/prod/m/who?key=hush", request_id=asked, **headers)
    said = json.dumps(gateway.record_of(asked))
    assert not [word for word in ("ida-lovelace", "beta-word", "hush") if word in said]


def last(gateway, count):
    """The records of the last requests, in their order; one more request is asked for to know that they are written."""
    before = new_id()
    gateway.get("/prod/m/who", request_id=before)
    gateway.record_of(before)
    return gateway.records()[-count - 1 : -1]
