from examples.textgen.limiter import Limit, Limiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_bucket_empties_and_fills_at_its_rate() -> None:
    clock = Clock()
    bucket = Limiter(Limit(10.0, 3), clock).bucket(b"key")
    assert bucket is not None
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    assert bucket.retry_after() == [(b"retry-after", b"1")]
    clock.now += 0.1
    assert [bucket.take() for _ in range(2)] == [True, False]
    clock.now += 3600
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]  # never more than the burst


def test_headers_say_what_is_left_and_when_all_is_there_again() -> None:
    bucket = Limiter(Limit(0.5, 4), Clock()).bucket(b"key")
    assert bucket is not None
    for _ in range(3):
        assert bucket.take()
    assert dict(bucket.headers()) == {
        b"x-ratelimit-limit": b"4",
        b"x-ratelimit-remaining": b"1",
        b"x-ratelimit-reset": b"6",
    }
    assert bucket.take()
    assert dict(bucket.retry_after()) == {b"retry-after": b"2"}


def test_each_key_has_a_bucket_of_its_own() -> None:
    limiter = Limiter(Limit(1.0, 1), Clock())
    first, again, second = limiter.bucket(b"a"), limiter.bucket(b"a"), limiter.bucket(b"b")
    assert first is not None
    assert first is again
    assert second is not None
    assert [first.take(), first.take(), second.take()] == [True, False, True]


def test_rate_of_0_is_no_limit() -> None:
    assert Limiter(Limit(0.0, 1), Clock()).bucket(b"a") is None


def test_default_lets_the_demo_pass() -> None:
    """100 requests/s for a minute, evenly, and 200 at once before."""
    clock = Clock()
    bucket = Limiter(Limit(), clock).bucket(b"key")
    assert bucket is not None
    assert all(bucket.take() for _ in range(200))
    for _ in range(6000):
        clock.now += 0.0101
        assert bucket.take()
