"""Model servers as processes of this machine, found again after our own death.

What should run is one JSON record per server. It is written as an intent before the process is started and completed
after it, so that whoever comes next, in whatever process, adopts the server: by pid and start time, or by the marker in
its environment when we died in between. A lock file per server makes any number of workers safe.
"""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil

from deploypipe.core import processes
from deploypipe.core.errors import TargetError
from deploypipe.core.processes import ProcessIdentity
from registry.qa.base import Hardware

from . import machine
from .base import Observation, Phase, ServerSpec

INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "XDG_*", "PYTHON*",
    "VIRTUAL_ENV", "LD_LIBRARY_PATH", "CUDA_*", "NVIDIA_*", "HIP_*", "ROCR_*", "OMP_*", "HF_*", "SSL_CERT_*",
)  # fmt: skip
"""Variables that model servers get from us. Not the rest: it holds the secrets of the product itself."""

PROBE_SECONDS = 1.0
LOCK_SECONDS = 5.0
FORK_SECONDS = 1.0
LOG_BYTES = 16 * 1024 * 1024
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise TargetError(
            f"{name!r} cannot name a server: lower-case letters, digits and dashes, 63 at most.", permanent=True
        )


@dataclass(frozen=True)
class Record:
    """What is on disk about a server; of its environment no more than a keyed digest."""

    name: str
    command: tuple[str, ...]
    ready_path: str
    ready_timeout: float
    salt: str
    environment_digest: str
    marker: str
    host: str
    port: int
    created_at: float
    identity: ProcessIdentity | None = None
    ready_at: float | None = None
    failed_at: float | None = None
    reason: str = ""
    """Why it failed, or is not ready yet."""
    exit_code: int | None = None
    stopping_at: float | None = None
    kill_at: float | None = None

    @classmethod
    def intended(cls, spec: ServerSpec, *, host: str, port: int) -> Self:
        salt = secrets.token_hex(16)
        return cls(
            name=spec.name,
            command=tuple(spec.command),
            ready_path=spec.ready_path,
            ready_timeout=spec.ready_timeout,
            salt=salt,
            environment_digest=_digest(spec.environment, salt),
            marker=f"{spec.name}/{secrets.token_hex(16)}",
            host=host,
            port=port,
            created_at=time.time(),
        )

    def is_of(self, spec: ServerSpec) -> bool:
        return (
            self.command == tuple(spec.command)
            and self.ready_path == spec.ready_path
            and self.ready_timeout == spec.ready_timeout
            and hmac.compare_digest(self.environment_digest, _digest(spec.environment, self.salt))
        )

    @property
    def phase(self) -> Phase:
        if self.stopping_at is not None:
            return Phase.STOPPING
        if self.failed_at is not None:
            return Phase.FAILED
        return Phase.READY if self.ready_at is not None else Phase.STARTING

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "identity": self.identity.to_json() if self.identity else None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        identity = ProcessIdentity.from_json(data["identity"]) if data["identity"] else None
        return cls(**{**data, "command": tuple(data["command"]), "identity": identity})


class LocalTarget:
    def __init__(
        self,
        directory: Path | str,
        host: str = "127.0.0.1",
        inherit: Sequence[str] = INHERITED,
        hardware: Mapping[str, int] | None = None,
    ) -> None:
        """`hardware` declares what is measured wrongly or not at all, by the names of `Hardware`."""
        self._directory = Path(directory)
        self._hardware = dict(hardware or {})
        Hardware(**self._hardware)  # a wrong name is told when the target is set up
        self._host = host
        self._inherit = tuple(inherit)

    def apply(self, spec: ServerSpec) -> None:
        self._require_startable(spec)
        with self._locked(spec.name):
            record = self._settled(spec.name)
            if record is None:
                self._start(spec)
            elif record.phase is Phase.STOPPING:
                raise TargetError(f"{spec.name} is still stopping; it can be started once it has ended.")
            elif not record.is_of(spec):
                raise TargetError(
                    f"{spec.name} exists with another command, environment or readiness; a changed server needs a "
                    "new name.",
                    permanent=True,
                )

    def restart(self, spec: ServerSpec) -> None:
        """A server that is starting or ready is left alone: somebody else has restarted it already."""
        self._require_startable(spec)
        with self._locked(spec.name):
            record = self._settled(spec.name)
            if record is not None and record.phase is Phase.FAILED:
                self._forget(record)
        self.apply(spec)

    def observe(self, name: str) -> Observation:
        with self._locked(name):
            record = self._settled(name)
        if record is not None and record.phase is Phase.STARTING:
            record = self._probed(record)
        return self._observation(name, record)

    def stop(self, name: str, *, grace: float = 10.0) -> None:
        with self._locked(name):
            record = self._settled(name)
            if record is None or record.identity is None:
                return
            if record.phase is Phase.FAILED:
                self._forget(record)
                return
            now = time.time()
            if record.kill_at is not None:  # asked before: only an earlier end is news, and a second SIGTERM is rude
                if now + grace < record.kill_at:
                    processes.kill_later(record.identity, grace)
                    self._save(replace(record, kill_at=now + grace))
                return
            try:
                self._save(replace(record, stopping_at=now, kill_at=now + grace))
            finally:  # even when the disk is full
                processes.terminate(record.identity, grace)

    def stop_all(self, *, grace: float = 10.0) -> None:
        """End every server and wait for it; for shutting the whole product down."""
        for name in self._recorded():
            with suppress(TargetError):  # one that cannot be stopped keeps no other alive, and is named below
                self.stop(name, grace=grace)
        deadline = time.monotonic() + grace + 1
        while left := self.names():
            if time.monotonic() > deadline:
                raise TargetError(f"Some servers could not be ended: {', '.join(sorted(left))}.")
            time.sleep(0.02)

    def names(self) -> set[str]:
        return {name for name in self._recorded() if self._may_be_there(name)}

    def hardware(self) -> Hardware | None:
        found = machine.measured()
        return replace(found, **self._hardware)

    def log_tail(self, name: str, *, lines: int = 50) -> str:
        require_name(name)
        try:
            return processes.tail(self._log(name), lines)
        except OSError as error:
            raise TargetError(f"The log of {name} cannot be read: {_reason(error)}.") from error

    def _may_be_there(self, name: str) -> bool:
        try:
            with self._locked(name):
                return self._settled(name) is not None
        except TargetError:  # a damaged record hides no other server
            return True

    # -- starting ------------------------------------------------------------------------------------------------------

    def _require_startable(self, spec: ServerSpec) -> None:
        require_name(spec.name)
        program = spec.command[0] if spec.command else ""
        if shutil.which(program, path=self._environment(spec).get("PATH", os.defpath)) is None:
            raise TargetError(f"{spec.name} cannot start: there is no program {program!r}.", permanent=True)

    def _environment(self, spec: ServerSpec) -> dict[str, str]:
        inherited = {
            key: value
            for key, value in os.environ.items()
            if any(fnmatch.fnmatchcase(key, pattern) for pattern in self._inherit)
        }
        return {"PYTHONUNBUFFERED": "1", **inherited, **spec.environment}

    def _start(self, spec: ServerSpec) -> None:
        with self._locked(".ports"):
            record = Record.intended(spec, host=self._host, port=self._free_port())
            self._save(record)
        argv = [word.replace("{host}", record.host).replace("{port}", str(record.port)) for word in record.command]
        environment = self._environment(spec)
        # Found here and not by the child: it would look in our PATH, not in that of the spec.
        argv[0] = shutil.which(argv[0], path=environment.get("PATH", os.defpath)) or argv[0]
        try:
            self._rotate_log(spec.name)
            identity = processes.spawn(argv, env=environment, log=self._log(spec.name), marker=record.marker)
        except (OSError, ValueError) as error:  # ValueError: a null byte in a word
            self._forget(record)
            transient = isinstance(error, OSError) and error.errno in _PASSING
            raise TargetError(f"{spec.name} cannot start: {_reason(error)}.", permanent=not transient) from error
        try:
            self._save(replace(record, identity=identity))
        except TargetError:
            processes.kill_now(identity)
            self._forget(record)
            raise

    def _free_port(self) -> int:
        """A port that is free now and that no other server of ours was given: it may not be listening yet."""
        taken = {record.port for name in self._recorded() if (record := self._load(name))}
        while True:
            with socket.socket() as probe:
                try:
                    probe.bind((self._host, 0))
                except OSError as error:
                    raise TargetError(f"No port is free on {self._host}: {_reason(error)}.") from error
                port: int = probe.getsockname()[1]
            if port not in taken:
                return port

    # -- what became of it ---------------------------------------------------------------------------------------------

    def _settled(self, name: str) -> Record | None:
        """The record after what happened since it was written; None when the server is absent. Needs the lock."""
        record = self._load(name)
        if record is None:
            return None
        if record.identity is None:
            record = self._adopted(record)
        if record is None or record.identity is None:
            return None
        if record.phase is Phase.FAILED:
            processes.alive(record.identity)  # leaves no zombie when it was our child and another worker saw it end
            return record
        if record.phase is Phase.STOPPING:
            if not processes.group_alive(record.identity):
                self._forget(record)
                return None
            if record.kill_at is not None and time.time() >= record.kill_at:
                processes.kill_now(record.identity)
            return record
        if processes.alive(record.identity):
            return record
        return self._fail(record, self._ending(record), exit_code=processes.exit_code(record.identity))

    def _adopted(self, record: Record) -> Record | None:
        """Somebody died between intending and noting: the server runs, or it was never started."""
        while True:
            identity = processes.find_by_marker(record.marker)
            if identity is not None:
                adopted = replace(record, identity=identity)
                self._note(adopted)
                return adopted
            if not 0 <= time.time() - record.created_at < FORK_SECONDS:
                self._forget(record)
                return None
            time.sleep(0.02)  # a child between fork and exec does not show its marker yet

    def _fail(self, record: Record, sentence: str, *, exit_code: int | None) -> Record:
        if record.identity is not None:
            processes.kill_now(record.identity)  # also what it left behind in its process group
        end = processes.tail(self._log(record.name), 8).strip()
        message = f"{sentence}. Its log ends:\n{end}" if end else f"{sentence}. Its log is empty."
        failed = replace(record, failed_at=time.time(), reason=message, exit_code=exit_code)
        self._note(failed)
        return failed

    def _ending(self, record: Record) -> str:
        now = time.time()
        if record.ready_at is not None:
            when = f"{_seconds(now - record.ready_at)} after it became ready"
        else:
            when = f"{_seconds(now - record.created_at)} after it was started"
        assert record.identity is not None  # noqa: S101
        code = processes.exit_code(record.identity)
        if not record.identity.of_this_boot:
            return f"{record.name} ended when the machine was restarted"
        if code is None:
            return f"{record.name} was found ended {when}; how it ended is not known, since it was another's child"
        if code < 0:
            return f"{record.name} exited by signal {_signal_name(-code)} {when}"
        return f"{record.name} exited with code {code} {when}"

    def _probed(self, record: Record) -> Record | None:
        """Ask the server whether it is ready: without the lock, since it may take its time to answer."""
        answer = _probe(record.host, record.port, record.ready_path)
        with self._locked(record.name):
            current = self._settled(record.name)
            if current is None or current.marker != record.marker or current.phase is not Phase.STARTING:
                return current  # it ended, or somebody stopped or restarted it meanwhile
            assert current.identity is not None  # noqa: S101
            if answer == "answered 200":
                stranger = _stranger_on(current.identity, current.port)
                if stranger is None:
                    ready = replace(current, ready_at=time.time())
                    self._note(ready)
                    return ready
                answer = f"is answered by process {stranger}, which took port {current.port}"
            if processes.age(current.identity) >= current.ready_timeout:
                limit = _seconds(current.ready_timeout)
                sentence = f"{record.name} did not become ready within {limit}: {record.ready_path} {answer}"
                return self._fail(current, sentence, exit_code=None)
            return replace(current, reason=f"{record.ready_path} {answer}")

    def _observation(self, name: str, record: Record | None) -> Observation:
        if record is None:
            return Observation(Phase.ABSENT, f"{name} is not there.")
        match record.phase:
            case Phase.STARTING:
                return Observation(
                    Phase.STARTING,
                    f"{name} is starting: {record.reason or 'it was not asked yet'}.",
                    address=record.address,
                    since=_moment(record.created_at),
                )
            case Phase.READY:
                return Observation(
                    Phase.READY,
                    f"{name} is ready on {record.address}.",
                    address=record.address,
                    since=_moment(record.ready_at),
                    pid=record.identity.pid if record.identity else None,
                )
            case Phase.STOPPING:
                left = max(0.0, (record.kill_at or 0.0) - time.time())
                return Observation(
                    Phase.STOPPING,
                    f"{name} was asked to end and is ended by force in {_seconds(left)}.",
                    since=_moment(record.stopping_at),
                )
            case _:
                return Observation(
                    Phase.FAILED, record.reason, since=_moment(record.failed_at), exit_code=record.exit_code
                )

    # -- the directory -------------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """The lock goes with the process that holds it, and no server inherits it. Its file stays for ever."""
        if name != ".ports":
            require_name(name)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._directory / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            deadline = time.monotonic() + LOCK_SECONDS
            while not _try_lock(lock):
                if time.monotonic() > deadline:
                    raise TargetError(f"{name} is being changed by another worker, for {LOCK_SECONDS:.0f} s already.")
                time.sleep(0.01)
            yield
        finally:
            os.close(lock)

    def _recorded(self) -> set[str]:
        try:
            return {path.stem for path in self._directory.glob("*.json") if _NAME.fullmatch(path.stem)}
        except OSError as error:
            raise self._unusable(error) from error

    def _load(self, name: str) -> Record | None:
        path = self._directory / f"{name}.json"
        try:
            return Record.from_json(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise TargetError(f"The record {path} is damaged; remove it after ending its server.") from error

    def _save(self, record: Record) -> None:
        path = self._directory / f"{record.name}.json"
        temporary = path.with_suffix(".json.new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(record.to_json(), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise self._unusable(error) from error

    def _note(self, record: Record) -> None:
        """Save what was seen. What cannot be saved is seen again next time, so a full disk does not hide a server."""
        with suppress(TargetError):
            self._save(record)

    def _forget(self, record: Record) -> None:
        try:
            (self._directory / f"{record.name}.json").unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def _rotate_log(self, name: str) -> None:
        log = self._log(name)
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))

    def _unusable(self, error: OSError) -> TargetError:
        return TargetError(f"The directory of the model servers, {self._directory}, cannot be used: {_reason(error)}.")


_PASSING = {errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ETXTBSY}


def _digest(environment: Mapping[str, str], salt: str) -> str:
    content = json.dumps(sorted(environment.items())).encode()
    return hmac.new(salt.encode(), content, hashlib.sha256).hexdigest()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _probe(host: str, port: int, path: str) -> str:
    """What a GET of the path says, as the end of a sentence; the whole takes at most PROBE_SECONDS."""
    deadline = time.monotonic() + PROBE_SECONDS
    answer = b""
    try:
        with socket.create_connection((host, port), timeout=PROBE_SECONDS) as connection:
            request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode())
            while b"\r\n" not in answer and len(answer) < 1024:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                connection.settimeout(left)
                piece = connection.recv(1024)
                if not piece:
                    return "closed the connection without an answer"
                answer += piece
    except ConnectionRefusedError:
        return "does not listen yet"
    except TimeoutError:
        return f"did not answer within {_seconds(PROBE_SECONDS)}"
    except OSError as error:
        return f"could not be asked ({_reason(error)})"
    status = re.match(rb"HTTP/1\.[01] (\d{3})\b", answer)
    return f"answered {status[1].decode()}" if status else "answered something that is not HTTP"


def _stranger_on(identity: ProcessIdentity, port: int) -> int | None:
    """The process that listens on the port, when it is seen to be another's and none of the server's is."""
    try:
        listening = {
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        }
    except (psutil.Error, OSError):
        return None
    for pid in listening:
        with suppress(OSError):
            if pid is None or identity.pid in (pid, os.getpgid(pid), os.getsid(pid)):
                return None
    return min((pid for pid in listening if pid is not None), default=None)


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 or value == int(value) else f"{value:.1f} s"


def _moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, tz=UTC)
