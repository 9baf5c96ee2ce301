"""Users come, ask and leave as real ones do, and what they say depends on what happened to them."""

import random
from collections import Counter
from itertools import islice, pairwise

import pytest

from examples.textgen.users import Audience, Experience, Question, geometric, questions, rating


def asked(number: int, *, rate: float = 60.0, mean: float = 2.0, seed: int = 1) -> list[Question]:
    return list(islice(questions(random.Random(seed), rate=rate, mean=mean, name="x"), number))


@pytest.mark.parametrize(("rate", "mean"), [(60.0, 2.0), (5.0, 1.0), (200.0, 4.0)])
def test_questions_come_at_the_rate_asked_for_however_many_a_user_asks(rate: float, mean: float) -> None:
    found = asked(20_000, rate=rate, mean=mean)
    assert 20_000 / found[-1].due == pytest.approx(rate, rel=0.05)


def test_questions_come_in_order_of_time() -> None:
    found = asked(2_000)
    assert all(one.due <= other.due for one, other in pairwise(found))


def test_new_users_keep_coming_and_each_leaves_after_her_last_question() -> None:
    found = asked(4_000)
    by_user: dict[str, list[Question]] = {}
    for one in found:
        by_user.setdefault(one.session, []).append(one)
    gone = [those for those in by_user.values() if len(those) == those[0].of]
    assert len(gone) > 1_800
    assert len(by_user) - len(gone) < 60  # those who are still here when we stop to look
    assert all([one.number for one in those] == list(range(1, len(those) + 1)) for those in by_user.values())
    assert sum(those[0].of for those in gone) / len(gone) == pytest.approx(2.0, abs=0.15)


def test_user_stays_a_few_seconds() -> None:
    seen: dict[str, list[float]] = {}
    for one in asked(4_000):
        seen.setdefault(one.session, []).append(one.due)
    stays = sorted(times[-1] - times[0] for times in seen.values())
    assert stays[int(0.95 * len(stays))] < 3.0


def test_number_of_questions_is_geometric() -> None:
    rng = random.Random(3)
    drawn = Counter(geometric(rng, 2.0) for _ in range(20_000))
    assert [drawn[number] / 20_000 for number in (1, 2, 3)] == pytest.approx([0.5, 0.25, 0.125], abs=0.015)
    assert {geometric(rng, 1.0) for _ in range(100)} == {1}


@pytest.mark.parametrize(
    ("seen", "least", "most"),
    [
        (Experience(answers=2), 4.3, 4.7),
        (Experience(answers=2, slowest_first=0.6), 3.3, 3.7),
        (Experience(answers=2, slowest_first=3.0), 2.3, 2.7),
        (Experience(answers=2, failed=1), 1.2, 1.6),
        (Experience(answers=5, failed=1, slowest_first=9.0), 1.2, 1.6),
    ],
)
def test_rating_depends_on_what_happened(seen: Experience, least: float, most: float) -> None:
    rng = random.Random(4)
    stars = [rating(seen, rng) for _ in range(4_000)]
    assert set(stars) <= {1, 2, 3, 4, 5}
    assert least < sum(stars) / len(stars) < most


def test_user_rates_once_and_after_the_last_answer() -> None:
    audience = Audience(1.0, random.Random(5))
    first, second = Question(0.0, "session-a", 1, 2), Question(0.1, "session-a", 2, 2)
    assert audience.answered(second, failed=True, first_event_seconds=None) is None
    assert audience.answered(first, failed=False, first_event_seconds=0.1) in (1, 2)


def test_share_of_users_that_rate_is_as_set() -> None:
    audience = Audience(0.25, random.Random(6))
    said = [
        audience.answered(Question(0.0, f"session-{user}", 1, 1), failed=False, first_event_seconds=0.01)
        for user in range(4_000)
    ]
    assert sum(stars is not None for stars in said) / 4_000 == pytest.approx(0.25, abs=0.03)
