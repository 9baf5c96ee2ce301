"""Whether what goes to the server and back can be read or changed on its way."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from registry.qa.base import Context, Finding, Outcome, Severity
from registry.qa.builtin.exchange import VisitingCheck, Visitor
from registry.qa.builtin.security_asking import BLAMED, CATEGORY, judged
from registry.qa.builtin.security_raw import ANSWER_WITHIN
from registry.qa.catalogue import check
from registry.qa.parameters import Parameter

DAY = 86_400.0
_RENEW = "Renew the certificate, and let that happen by itself."
_UNTRUSTED = (
    "Serve the whole chain, of an authority that this machine trusts; one of your own goes into the file that "
    "SSL_CERT_FILE names."
)


@check
class Transport(VisitingCheck):
    name = "security.transport"
    label = "The transport is encrypted"
    category = CATEGORY
    weight = 1.0
    required = False
    timeout = 20.0
    parameters = (
        Parameter(
            "least_days",
            int,
            14,
            "Days for which the certificate must still be valid.",
            unit="days",
            lowest=0,
            highest=365,
        ),
    )

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        address = urlsplit(visitor.server.base_url)
        host = address.hostname or ""
        if address.scheme == "https":
            return _encrypted(host, address.port or 443, int(context.parameter(self, "least_days")))
        return _plain(host, address.port or 80)


def _plain(host: str, port: int) -> Outcome:
    try:
        places = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        return Outcome.error(f"The name {host} cannot be resolved: {error}.")
    evidence = {"scheme": "http", "host": host, "addresses": sorted(places)}
    if all(ipaddress.ip_address(place.partition("%")[0]).is_loopback for place in places):
        return Outcome.passed(
            f"The server is spoken to over plain HTTP, on loopback only ({', '.join(sorted(places))}): nothing leaves "
            "the machine.",
            evidence=evidence,
        )
    finding = Finding(
        Severity.HIGH,
        f"{host} is spoken to over plain HTTP and is not on loopback: keys and texts can be read on their way.",
        "Start the engine with --ssl-certfile and --ssl-keyfile, or put a proxy that ends TLS before it.",
    )
    return judged([finding], "", evidence)


@dataclass(frozen=True)
class _Seen:
    """What a connection with the certificate verified has shown."""

    protocol: str
    cipher: str
    days: float
    issuer: str
    names: list[str]

    def evidence(self) -> dict[str, Any]:
        return {**vars(self), "days": round(self.days, 1)}


def _encrypted(host: str, port: int, least_days: int) -> Outcome:
    where = {"scheme": "https", "host": host, "port": port}
    try:
        seen = _look(host, port)
    except ssl.SSLCertVerificationError as error:
        finding = _unverified(host, error)
        return judged([finding], "", {**where, "verification": error.verify_message})
    except ssl.SSLError as error:
        finding = Finding(
            Severity.HIGH,
            f"No TLS connection to {host} comes about: {error.reason or error}.",
            "Let the server offer TLS 1.2 or 1.3.",
        )
        return judged([finding], "", where)
    except OSError as error:
        return Outcome.not_checked(f"{host}:{port} takes no connection: {error}.", evidence=where)
    findings: list[Finding] = []
    if seen.days < least_days:
        left = f"The certificate of {host} is valid for {seen.days:.1f} more days; at least {least_days} are demanded."
        findings.append(Finding(Severity.HIGH, left, _RENEW))
    if old := accepts_old_tls(host, port):
        sentence = f"{host} also accepts {old}, which is withdrawn (RFC 8996)."
        findings.append(Finding(Severity.HIGH, sentence, "Let the server offer TLS 1.2 and 1.3 only."))
    outcome = judged(
        findings,
        f"{host} is spoken to over {seen.protocol}; its certificate, by {seen.issuer}, is trusted, is for that "
        f"name and is valid for {seen.days:.0f} more days.",
        {**where, **seen.evidence(), "old_protocol": old},
    )
    if any(found.severity in BLAMED for found in findings):
        return outcome
    return Outcome.passed(
        outcome.reason, value=round(seen.days, 1), limit=least_days, unit="days", evidence=outcome.evidence
    )


def _look(host: str, port: int) -> _Seen:
    context = ssl.create_default_context()
    with (
        socket.create_connection((host, port), ANSWER_WITHIN) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        certificate: dict[str, Any] = dict(connection.getpeercert() or {})
        cipher = connection.cipher()
        issuer = {name: value for part in certificate.get("issuer", ()) for name, value in part}
        return _Seen(
            protocol=connection.version() or "an unknown version",
            cipher=cipher[0] if cipher else "",
            days=(ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / DAY,
            issuer=str(issuer.get("organizationName") or issuer.get("commonName") or "an unnamed authority"),
            names=[str(value) for _, value in certificate.get("subjectAltName", ())][:10],
        )


# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_EXPIRED, _NOT_YET, _WRONG_NAME, _WRONG_ADDRESS = 10, 9, 62, 64
_CHAIN = (2, 18, 19, 20, 21)


def _unverified(host: str, error: ssl.SSLCertVerificationError) -> Finding:
    code, said = error.verify_code, error.verify_message.removesuffix(".")
    if code == _EXPIRED:
        return Finding(Severity.HIGH, f"The certificate of {host} has expired.", _RENEW)
    if code == _NOT_YET:
        return Finding(Severity.HIGH, f"The certificate of {host} is not valid yet.", "Compare the clocks.")
    if code in (_WRONG_NAME, _WRONG_ADDRESS):
        action = "Have a certificate issued for the name that clients use."
        return Finding(Severity.HIGH, f"The certificate is not for {host}: {said}.", action)
    chain = "its chain does not lead to a trusted authority" if code in _CHAIN else "it cannot be verified"
    return Finding(Severity.HIGH, f"The certificate of {host} is not trusted, {chain}: {said}.", _UNTRUSTED)


# -- old protocols -----------------------------------------------------------------------------------------------------
# This machine's own TLS library may refuse to speak them, so the greeting is written by hand (RFC 4346, section 7.4.1).

_OLD = {b"\x03\x01": "TLS 1.0", b"\x03\x02": "TLS 1.1"}
_OLD_CIPHERS = bytes.fromhex("c014 c013 c00a c009 0039 0033 0035 002f 000a 0016")


def accepts_old_tls(host: str, port: int) -> str:
    """The newest protocol below 1.2 that the server agrees to; empty where it agrees to none."""
    for version in (b"\x03\x02", b"\x03\x01"):
        try:
            answer = _greet(host, port, version)
        except OSError:
            continue
        # A handshake record with a ServerHello in the version that was offered; a refusal is an alert (21).
        if answer[:1] == b"\x16" and answer[5:6] == b"\x02" and answer[9:11] in _OLD:
            return _OLD[answer[9:11]]
    return ""


def _greet(host: str, port: int, version: bytes) -> bytes:
    with socket.create_connection((host, port), ANSWER_WITHIN) as connection:
        connection.settimeout(ANSWER_WITHIN)
        connection.sendall(_client_hello(host, version))
        ends, answer = time.monotonic() + ANSWER_WITHIN, b""
        while len(answer) < 11 and time.monotonic() < ends and (piece := connection.recv(4096)):
            answer += piece
        return answer


def _client_hello(host: str, version: bytes) -> bytes:
    def sized(content: bytes, length: int) -> bytes:
        return len(content).to_bytes(length, "big") + content

    name = sized(b"\x00" + sized(host.encode("idna"), 2), 2)
    extensions = b"\x00\x00" + sized(name, 2)
    extensions += b"\x00\x0a" + sized(sized(b"\x00\x17\x00\x18\x00\x19", 2), 2)  # curves: P-256, P-384, P-521
    extensions += b"\x00\x0b" + sized(b"\x01\x00", 2)  # points: uncompressed
    body = version + os.urandom(32) + b"\x00" + sized(_OLD_CIPHERS, 2) + b"\x01\x00" + sized(extensions, 2)
    handshake = b"\x01" + sized(body, 3)
    return b"\x16\x03\x01" + sized(handshake, 2)
