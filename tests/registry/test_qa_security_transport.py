"""Transport encryption against real TLS servers with certificates made on the spot."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from registry.qa.base import Context, RunningServer, Severity
from registry.qa.builtin.security_raw import RawRequest, send
from registry.qa.builtin.security_transport import accepts_old_tls
from registry.qa.catalogue import all_checks
from registry.qa.policy import Policy
from registry.qa.runner import Result, examine
from registry.scoring import Status
from tests.registry.test_qa_security import alone

NAME = "security.transport"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(organization_name="Test authority")


@pytest.fixture(autouse=True)
def _trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


@contextmanager
def tls_server(certificate: trustme.LeafCert | Path, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Its port. It greets, answers one request, and closes."""
    context = context or ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if isinstance(certificate, Path):
        context.load_cert_chain(certificate)
    else:
        certificate.configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def attend(plain: socket.socket) -> None:
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    if connection.recv(65_536):
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            except OSError:
                plain.close()  # a client that does not trust it, or only greets

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=attend, args=(plain,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)


def certificate(authority: trustme.CA, *names: str, days: float = 90, since: float = -10) -> trustme.LeafCert:
    now = dt.datetime.now(dt.UTC)
    begins, ends = now + dt.timedelta(days=since), now + dt.timedelta(days=days)
    return authority.issue_cert(*(names or ("localhost",)), not_before=begins, not_after=ends)


def judged(address: str, **parameters: Any) -> Result:
    server = RunningServer(address, "words", "a-secret-key-0123456789")
    context = Context(None, None, "vllm", Policy(parameters={NAME: parameters}), server)
    return examine(context, [c for c in all_checks() if c.name == NAME])[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.8.9.10"])
def test_plain_http_is_enough_on_loopback(host: str) -> None:
    outcome = judged(f"http://{host}:9").outcome
    assert outcome.status is Status.PASSED
    assert "on loopback only" in outcome.reason


@pytest.mark.parametrize("host", ["10.1.2.3", "0.0.0.0", "[2001:db8::1]", "192.168.0.7"])  # noqa: S104
def test_plain_http_to_another_machine_fails(host: str) -> None:
    outcome = judged(f"http://{host}:9").outcome
    assert outcome.status is Status.FAILED
    assert "plain HTTP and is not on loopback: keys and texts can be read" in outcome.reason
    assert [found.severity for found in outcome.findings] == [Severity.HIGH]


def test_name_that_does_not_resolve_is_an_error_of_the_check() -> None:
    outcome = judged("http://deploypipe.invalid:9").outcome
    assert outcome.status is Status.ERROR
    assert "deploypipe.invalid cannot be resolved" in outcome.reason


def test_sound_certificate_passes_with_the_days_that_are_left(authority: trustme.CA) -> None:
    with tls_server(certificate(authority, days=89.96)) as port:
        outcome = judged(f"https://localhost:{port}").outcome
    assert outcome.status is Status.PASSED, outcome.reason
    assert "localhost is spoken to over TLSv1.3; its certificate, by Test authority, is trusted" in outcome.reason
    assert outcome.value == pytest.approx(89.9, abs=0.2)
    assert (outcome.limit, outcome.unit) == (14, "days")
    assert outcome.evidence["names"] == ["localhost"]


def test_certificate_that_ends_soon_fails_by_the_limit_of_the_policy(authority: trustme.CA) -> None:
    with tls_server(certificate(authority, days=9.96)) as port:
        soon = judged(f"https://localhost:{port}").outcome
        enough = judged(f"https://localhost:{port}", least_days=5).outcome
    assert soon.status is Status.FAILED
    assert "valid for 10.0 more days; at least 14 are demanded" in soon.reason
    assert enough.status is Status.PASSED


@pytest.mark.parametrize(
    ("names", "days", "since", "words"),
    [
        (("localhost",), -1, -10, "The certificate of localhost has expired."),
        (("localhost",), 90, 5, "The certificate of localhost is not valid yet."),
        (("example.org",), 90, -10, "The certificate is not for localhost"),
    ],
)
def test_certificate_that_does_not_hold_fails_with_the_reason(
    authority: trustme.CA, names: tuple[str, ...], days: float, since: float, words: str
) -> None:
    with tls_server(certificate(authority, *names, days=days, since=since)) as port:
        outcome = judged(f"https://localhost:{port}").outcome
    assert outcome.status is Status.FAILED
    assert words in outcome.reason


def test_certificate_of_an_unknown_authority_fails() -> None:
    with tls_server(certificate(trustme.CA(organization_name="Somebody else"))) as port:
        outcome = judged(f"https://localhost:{port}").outcome
    assert outcome.status is Status.FAILED
    assert "is not trusted, its chain does not lead to a trusted authority" in outcome.reason
    assert "SSL_CERT_FILE" in outcome.findings[0].action


def test_chain_that_lacks_its_middle_fails(authority: trustme.CA, tmp_path: Path) -> None:
    leaf = certificate(authority.create_child_ca())
    with tls_server(leaf) as port:
        assert judged(f"https://localhost:{port}").outcome.status is Status.PASSED
    leaf.private_key_pem.write_to_path(tmp_path / "leaf.pem")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "leaf.pem", append=True)
    with tls_server(tmp_path / "leaf.pem") as port:
        outcome = judged(f"https://localhost:{port}").outcome
    assert outcome.status is Status.FAILED
    assert "its chain does not lead to a trusted authority" in outcome.reason


def test_server_that_still_speaks_an_old_protocol_fails(authority: trustme.CA) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with tls_server(certificate(authority), old) as port:
        outcome = judged(f"https://localhost:{port}").outcome
    assert outcome.status is Status.FAILED
    assert "localhost also accepts TLS 1.1, which is withdrawn (RFC 8996)." in outcome.reason


def test_server_of_today_refuses_the_old_protocols(authority: trustme.CA) -> None:
    with tls_server(certificate(authority)) as port:
        assert accepts_old_tls("localhost", port) == ""


def test_server_that_speaks_no_tls_fails_and_one_that_is_gone_is_not_checked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def babble() -> None:
            connection, _ = listener.accept()
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=babble, daemon=True)
        thread.start()
        outcome = alone(NAME, RunningServer(f"https://localhost:{port}", "words", "key"))
        thread.join(20)
    assert outcome.status is Status.FAILED
    assert "No TLS connection to localhost comes about" in outcome.reason
    gone = judged(f"https://localhost:{port}").outcome
    assert gone.status is Status.NOT_CHECKED
    assert "takes no connection" in gone.reason


def test_raw_requests_go_over_tls_too(authority: trustme.CA) -> None:
    with tls_server(certificate(authority)) as port:
        found = send(RunningServer(f"https://localhost:{port}", "words", ""), RawRequest("GET", "/"))
    assert (found.status, found.body) == (200, b"{}")
