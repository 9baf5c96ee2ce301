from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploypipe import env
from deploypipe.env import WrongValue

Set = Callable[..., None]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Set:
    """Sets variables of the product: given(THING="x")."""

    def set_all(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"DEPLOYPIPE_{name}", value)

    return set_all


READERS: list[tuple[str, Callable[[], Any], Any, str, Any]] = [
    ("text", lambda: env.text("THING", "x"), "x", " y ", " y "),
    ("words", lambda: env.words("THING", "a,b"), ["a", "b"], " c , ,d,", ["c", "d"]),
    ("flag", lambda: env.flag("THING", True), True, "off", False),
    ("flag on", lambda: env.flag("THING", False), False, "YES", True),
    ("number", lambda: env.number("THING", 5), 5, "17", 17),
    ("seconds", lambda: env.seconds("THING", 0.5), 0.5, "2.5", 2.5),
    ("port", lambda: env.port("THING", 80), 80, "8080", 8080),
    ("one of", lambda: env.one_of("THING", "INFO", ["INFO", "DEBUG"]), "INFO", "debug", "DEBUG"),
    ("secret", lambda: env.secret("THING", "none"), "none", "abc", "abc"),
]


@pytest.mark.parametrize(("read", "default"), [(r[1], r[2]) for r in READERS], ids=[r[0] for r in READERS])
def test_default_is_taken_where_nothing_or_an_empty_value_is_set(
    read: Callable[[], Any], default: Any, given: Set
) -> None:
    assert read() == default
    given(THING="")
    assert read() == default


@pytest.mark.parametrize(("read", "value", "right"), [(r[1], r[3], r[4]) for r in READERS], ids=[r[0] for r in READERS])
def test_value_is_read(read: Callable[[], Any], value: str, right: Any, given: Set) -> None:
    given(THING=value)
    assert read() == right


@pytest.mark.parametrize(
    ("read", "value", "right"),
    [
        (lambda: env.flag("THING", True), "maybe", "say true or false"),
        (lambda: env.number("THING", 5), "five", "a whole number from 0 to 2147483648"),
        (lambda: env.number("THING", 5, most=9), "10", "a whole number from 0 to 9"),
        (lambda: env.number("THING", 5), "-1", "a whole number from 0 to 2147483648"),
        (lambda: env.number("THING", 5), "9" * 5000, "a whole number from 0 to 2147483648"),
        (lambda: env.seconds("THING", 5, least=1), "0.5", "seconds from 1 to 2.592e+06"),
        (lambda: env.seconds("THING", 5), "nan", "seconds from 0 to 2.592e+06"),
        (lambda: env.seconds("THING", 5), "inf", "seconds from 0 to 2.592e+06"),
        (lambda: env.seconds("THING", 5), "1h", "seconds from 0 to 2.592e+06"),
        (lambda: env.port("THING", 5), "0", "a whole number from 1 to 65535"),
        (lambda: env.port("THING", 5), "65536", "a whole number from 1 to 65535"),
        (lambda: env.one_of("THING", "INFO", ["INFO", "DEBUG"]), "loud", "say INFO, DEBUG"),
    ],
)
def test_wrong_value_names_the_variable_and_what_would_be_right(
    read: Callable[[], Any], value: str, right: str, given: Set
) -> None:
    given(THING=value)
    with pytest.raises(WrongValue) as wrong:
        read()
    assert str(wrong.value) == f"DEPLOYPIPE_THING={value!r} is not usable: {right}"


def test_path_is_made_absolute(given: Set, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given(THING="below/../here")
    assert env.path("THING", Path("/x")) == tmp_path / "here"


def test_empty_path_is_the_default_and_not_the_current_folder(given: Set) -> None:
    given(THING="")
    assert env.path("THING", Path("/x")) == Path("/x")


def test_folder_is_made(given: Set, tmp_path: Path) -> None:
    given(THING=str(tmp_path / "a" / "b"))
    assert env.folder("THING", Path("/x")).is_dir()


def test_folder_that_cannot_be_written_to_is_a_wrong_value(given: Set, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    given(THING=str(tmp_path / "file" / "below"))
    with pytest.raises(WrongValue, match=r"DEPLOYPIPE_THING=.* must be a folder that can be written to"):
        env.folder("THING", Path("/x"))


# --- Secrets ----------------------------------------------------------------------------------------------------------


def test_secret_comes_from_the_file_that_is_named(given: Set, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("  abc\n")
    given(KEY_FILE=str(tmp_path / "secret"))
    assert env.secret("KEY") == "abc"


def test_secret_given_twice_is_refused_without_showing_it(given: Set, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("abc")
    given(KEY="hush", KEY_FILE=str(tmp_path / "secret"))
    with pytest.raises(WrongValue, match="DEPLOYPIPE_KEY is set too") as wrong:
        env.secret("KEY")
    assert "hush" not in str(wrong.value)
    assert "abc" not in str(wrong.value)


@pytest.mark.parametrize(
    ("content", "right"), [(None, "cannot be read"), (b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", "text")]
)
def test_secret_file_that_holds_none_is_a_wrong_value(
    content: bytes | None, right: str, given: Set, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    given(KEY_FILE=str(tmp_path / "secret"))
    with pytest.raises(WrongValue, match=f"DEPLOYPIPE_KEY_FILE=.*{right}"):
        env.secret("KEY")


def test_kept_secret_is_made_once_and_is_for_us_only(tmp_path: Path) -> None:
    file = tmp_path / "secrets" / "key"
    assert env.kept_secret("KEY", file, "first") == "first"
    assert env.kept_secret("KEY", file, "second") == "first"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in file.parent.iterdir()] == ["key"]


def test_given_secret_is_used_and_not_kept(given: Set, tmp_path: Path) -> None:
    given(KEY="given")
    assert env.kept_secret("KEY", tmp_path / "key", "made") == "given"
    assert not (tmp_path / "key").exists()


def test_kept_secret_that_was_emptied_is_a_wrong_value(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    with pytest.raises(WrongValue, match="delete that file"):
        env.kept_secret("KEY", tmp_path / "key", "made")


def test_processes_that_start_at_once_keep_the_same_secret(tmp_path: Path) -> None:
    """Each waits for the file `go`, then asks, and prints what it got."""
    script = (
        "import pathlib, sys; from deploypipe import env; print('ready', flush=True);"
        "go = pathlib.Path(sys.argv[1]) / 'go'\n"
        "while not go.exists(): pass\n"
        "print(env.kept_secret('KEY', pathlib.Path(sys.argv[1]) / 'key', sys.argv[2]))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), f"made by {n}"], stdout=subprocess.PIPE, text=True
        )
        for n in range(4)
    ]
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    said = {process.communicate(timeout=20)[0].strip() for process in started}
    assert len(said) == 1
    assert said == {(tmp_path / "key").read_text()}


# --- PostgreSQL's address ---------------------------------------------------------------------------------------------


def test_no_address_is_no_database() -> None:
    assert env.postgresql("NO_DATABASE_URL") is None


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("postgresql://ana:pw@db:5433/pipe", ("pipe", "ana", "pw", "db", 5433, {})),
        ("postgres://ana@db/pipe", ("pipe", "ana", "", "db", "", {})),
        ("postgresql://a%40b:p%2Fw%3A%25@db/my%20pipe", ("my pipe", "a@b", "p/w:%", "db", "", {})),
        ("postgresql://u:p@[::1]:5432/pipe", ("pipe", "u", "p", "::1", 5432, {})),
        ("postgresql:///pipe", ("pipe", "", "", "", "", {})),
        ("postgresql:///pipe?host=/run/postgresql", ("pipe", "", "", "/run/postgresql", "", {})),
        (
            "postgresql://u:p@db/pipe?sslmode=verify-full&sslrootcert=/etc/ca.pem",
            ("pipe", "u", "p", "db", "", {"sslmode": "verify-full", "sslrootcert": "/etc/ca.pem"}),
        ),
    ],
)
def test_address_is_taken_apart(url: str, parts: tuple[Any, ...], given: Set) -> None:
    given(DATABASE_URL=url)
    found = env.postgresql("DATABASE_URL")
    assert found
    assert tuple(found[key] for key in ("NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")) == parts


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("mysql://u:hush@db/pipe", "give postgresql://"),
        ("pipe.sqlite3", "give postgresql://"),
        ("postgresql://u:hush@db", "names no database"),
        ("postgresql://u:hush@db/", "names no database"),
        ("postgresql://u:hush@db/a/b", "names no database"),
        ("postgresql://u:hu/sh@db/pipe", "port"),
        ("postgresql://u:hu#sh@db/pipe", "port"),
        ("postgresql://u:hush@db:port/pipe", "port"),
        ("postgresql://u:hush@db:99999/pipe", "port"),
    ],
)
def test_wrong_address_is_refused_without_showing_the_password(url: str, right: str, given: Set) -> None:
    given(DATABASE_URL=url)
    with pytest.raises(WrongValue, match=right) as wrong:
        env.postgresql("DATABASE_URL")
    assert "DEPLOYPIPE_DATABASE_URL" in str(wrong.value)
    assert "hu" not in str(wrong.value)
