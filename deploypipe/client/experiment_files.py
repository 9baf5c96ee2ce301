"""What the commands of experiments read: evidence from a server or a file, settings and scenarios from files."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from abtests.evidence import Evidence, EvidenceError, from_file
from abtests.pipeline_config import SECTION, from_pipeline_config
from abtests.settings import ExperimentSettings, parse_settings
from deploypipe import env
from deploypipe.client.problems import CannotRead
from deploypipe.client.reading import read_file
from registry.qa import places
from rollouts.analysis_settings import SettingsError

TOKEN_VARIABLE = "DEPLOYPIPE_TOKEN"  # noqa: S105
STDIN = "-"
LARGEST_EVIDENCE = 1024 * 2**20
SECONDS = httpx.Timeout(30.0, read=300.0)


@dataclass(frozen=True)
class Policy:
    settings: ExperimentSettings
    traffic_percent: float | None = None
    """Where the file says one."""


def evidence(options: argparse.Namespace) -> Evidence:
    if options.file is not None:
        if options.id is not None or options.url is not None:
            raise CannotRead("Give either --file, or the experiment's number with --url.")
        said, where = _from_disk(options.file), options.file
    elif options.id is None or options.url is None:
        raise CannotRead("Which experiment? Give its number and --url, or --file with its evidence.")
    else:
        where = f"{options.url} experiment {options.id}"
        said = _from_server(options.url, options.id, _token(options.token_env))
    try:
        return from_file(json.loads(said))
    except EvidenceError as error:
        raise CannotRead(f"{where}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise CannotRead(f"{where} is no JSON: {error}.") from error


def _from_disk(place: str) -> bytes:
    if place != STDIN:
        return read_file("--file", place, LARGEST_EVIDENCE)
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise CannotRead(f"--file {place} cannot be read: {error.strerror}.") from error


def _from_server(url: str, experiment: int, token: str) -> bytes:
    base = (url if "://" in url else f"http://{url}").rstrip("/").removesuffix("/api/v1")
    try:
        address = httpx.URL(f"{base}/api/v1/experiments/{experiment}/evidence/")
        if address.scheme not in ("http", "https") or not address.host or address.userinfo:
            raise httpx.InvalidURL("give http://host:port or https://host")
        answer = httpx.get(address, headers={"Authorization": f"Bearer {token}"}, timeout=SECONDS)
    except httpx.InvalidURL as error:
        raise CannotRead(f"--url {url} is not an address: {error}.") from error
    except (httpx.HTTPError, OSError) as error:
        said = str(error) or type(error).__name__
        raise CannotRead(f"{base} gives no answer: {said}. Is the server running, and the address right?") from error
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise CannotRead(f"{base} does not know the token. “manage.py issue_token USER” makes one.")
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise CannotRead(f"{base} has no experiment {experiment}, or is no deploypipe server.")
    if not answer.is_success:
        raise CannotRead(f"{base} answered {answer.status_code}: {_message(answer)}")
    return answer.content


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, LookupError, TypeError):
        return answer.text[:200] or "nothing more."


def _token(variable: str | None) -> str:
    if variable:
        token = os.environ.get(variable, "").strip()
        missing = f"The environment variable {variable} is not set; it should hold the API token."
    else:
        try:
            token = env.secret("TOKEN").strip()
        except env.WrongValue as error:
            raise CannotRead(str(error)) from error
        missing = f"There is no token: put it into the environment variable {TOKEN_VARIABLE}."
    if not token:
        raise CannotRead(missing)
    if not (token.isascii() and token.isprintable()):
        raise CannotRead(f"The token from {variable or TOKEN_VARIABLE} holds a character that no header may hold.")
    return token


def policy(option: str, file: str) -> Policy:
    """Settings of an experiment, or a pipeline-config.yaml."""
    said = mapping(option, file)
    try:
        if SECTION in said:
            configured = from_pipeline_config(said)
            return Policy(configured.settings, configured.traffic_percent)
        given = dict(said)
        percent = given.pop("traffic_percent", None)
        return Policy(parse_settings(given), percent)
    except SettingsError as error:
        raise CannotRead(listed(f"{option} {file} cannot be used", error.fields)) from error


def mapping(option: str, file: str) -> dict[str, Any]:
    """A YAML or JSON file that holds names with values."""
    found = places.read(read_file(option, file, places.LARGEST))
    if found.problems:
        problems = "\n".join(f"  {problem}" for problem in found.problems)
        raise CannotRead(f"{option} {file} cannot be used:\n{problems}")
    if not isinstance(found.value, Mapping):
        raise CannotRead(f"{option} {file} holds no names with values, as “alpha: 0.05”.")
    return {str(name): value for name, value in found.value.items()}


def listed(head: str, problems: Mapping[str, str]) -> str:
    lines = "\n".join(f"  {name}: {said}" for name, said in problems.items())
    return f"{head}:\n{lines}"
