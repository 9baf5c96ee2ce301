"""`deploypipe qa`: examine a running model server, with no deploypipe server and no database."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Never

import psutil

from deploypipe import env
from deploypipe.client import endpoint
from deploypipe.client.output import STDOUT, Output
from deploypipe.client.problems import CannotExamine, Exit, Problem
from deploypipe.client.process import interrupted, readable_streams, silenced
from deploypipe.client.reading import read_file
from deploypipe.client.screen import Screen, screen
from deploypipe.plugins import named_apps
from registry import artifacts, report
from registry.engines import ENGINES
from registry.qa import catalogue
from registry.qa.base import Check, Context, Hardware, Outcome, RunningServer
from registry.qa.pipeline_config import ConfigError, load_policy
from registry.qa.places import LARGEST
from registry.qa.policy import Policy
from registry.qa.runner import Result, examine
from registry.qa.warming import warm_up
from registry.report_markdown import markdown
from rollouts.targets import machine

KEY_VARIABLE = "DEPLOYPIPE_API_KEY"
MOST_GPUS = 1024
LARGEST_MANIFEST = 64 * 2**20
DESCRIPTION = """\
Examine a running model server with the checks of the quality gate, and write a report.
Nothing is stored elsewhere; no deploypipe server and no database is needed.
"""
EPILOG = f"""\
The server's API key is read from the environment variable {KEY_VARIABLE} (or {KEY_VARIABLE}_FILE,
or the one that --api-key-env names); it is never given on the command line.
Checks of your own: DEPLOYPIPE_APPS=my_package reads my_package/qa_checks.py.

exit codes:
  0    approved: nothing blocks, and the score reaches 80 and the policy's minimum_score
  1    not approved; the report says why
  2    could not examine: wrong arguments, no server, no model, a wrong policy file
  130  interrupted; no report is written

example:
  {KEY_VARIABLE}=sk-… deploypipe qa --endpoint http://127.0.0.1:8000 --artifact ./model \\
      --policy pipeline-config.yaml --out qa_report.json --markdown qa_report.md
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "qa",
        help="examine a running model server and write a report",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --api-key would mean --api-key-env, and its value be shown in an error
    )
    what = parser.add_argument_group("what is examined")
    what.add_argument("--endpoint", required=True, metavar="URL", help="address of the running server")
    what.add_argument("--model", default="", metavar="NAME", help="name it is served by (default: the only one)")
    what.add_argument("--engine", choices=sorted({*ENGINES, endpoint.PLAIN}), help="default: recognised by its answers")
    what.add_argument("--artifact", metavar="DIR", help="the model's files; without them, checks of files are left")
    what.add_argument("--manifest", metavar="FILE", help="JSON that lists the files with size and SHA-256")
    what.add_argument("--baseline", metavar="URL", help="a server of the live version, to compare with under load")
    what.add_argument("--baseline-model", default="", metavar="NAME", help="name it is served by there")
    started = "what the engine was started with, as in --engine-arguments=--max-model-len=4096"
    what.add_argument("--engine-arguments", default="", metavar="WORDS", help=started)
    place = parser.add_argument_group(
        "where it shall run", "Default: as measured, where the server is on this machine."
    )
    place.add_argument(
        "--memory-gb", type=_positive, metavar="GB", help="memory of the machine or container, 10^9 bytes"
    )
    place.add_argument("--gpus", type=_count, metavar="N", help="how many of them")
    place.add_argument("--gpu-memory-gb", type=_positive, metavar="GB", help="memory of one of them, 10^9 bytes")
    place.add_argument("--compute-capability", type=_positive, metavar="X.Y", help="CUDA's, as 8.9")
    by = parser.add_argument_group("what it is judged by")
    by.add_argument("--policy", metavar="FILE", help="a pipeline-config.yaml (default: the product's own limits)")
    by.add_argument("--files", metavar="DIR", help="where the policy's prompt files lie (default: beside the policy)")
    by.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="only this check or category; repeatable"
    )
    by.add_argument("--skip", action="append", default=[], metavar="NAME", help="leave out this check or category; a "
                    "required check that is left out means not approved")  # fmt: skip
    key = parser.add_argument_group("keys")
    key.add_argument("--api-key-env", metavar="VARIABLE", help=f"variable with the key (default: {KEY_VARIABLE})")
    key.add_argument("--baseline-api-key-env", metavar="VARIABLE", help="the same for the baseline (default: as above)")
    key.add_argument("--api-key", action=_KeyOnTheCommandLine, help=argparse.SUPPRESS)
    told = parser.add_argument_group("what is told")
    told.add_argument(
        "--out", default="qa_report.json", metavar="FILE", help="the report (default: %(default)s; -: stdout)"
    )
    told.add_argument("--markdown", metavar="FILE", help="the report for a pull request, too")
    told.add_argument("--json", action="store_true", help="progress as JSON, one object a line, on stdout")
    told.add_argument("--quiet", "-q", action="store_true", help="say nothing but errors")
    parser.set_defaults(run=run)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(text)
    return value


_positive.__name__ = "number above 0"  # argparse says "invalid … value"


def _count(text: str) -> int:
    if not 0 <= int(text) <= MOST_GPUS:
        raise ValueError(text)
    return int(text)


_count.__name__ = f"number from 0 to {MOST_GPUS}"


class _KeyOnTheCommandLine(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: Any, **more: Any) -> Never:
        parser.error(f"everybody on the machine could read a key given here: put it into {KEY_VARIABLE}")


def run(options: argparse.Namespace) -> Exit:
    readable_streams()
    told = screen(
        as_json=options.json, quiet=options.quiet, summary=sys.stderr if STDOUT in _places(options) else sys.stdout
    )
    others, before = _children(), signal.signal(signal.SIGTERM, interrupted)
    try:
        return _examined(options, told)
    except Problem as error:
        told.gave_up(str(error))
        return Exit.COULD_NOT_EXAMINE
    except KeyboardInterrupt:
        told.gave_up("Interrupted; no report was written.")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        silenced(sys.stdout)
        return Exit.COULD_NOT_EXAMINE
    except Exception:  # Python would leave with 1, which says "not approved"
        traceback.print_exc()
        told.gave_up("This is a fault of deploypipe itself; it says nothing of the server.")
        return Exit.COULD_NOT_EXAMINE
    finally:
        signal.signal(signal.SIGTERM, before)
        _end(_children() - others)


def _examined(options: argparse.Namespace, told: Screen) -> Exit:
    places = _places(options)
    if len(places) > len(set(places)) or (options.json and STDOUT in places):
        raise CannotExamine("Two outputs go to the same place: name different files.")
    checks = _checks()
    order = _order(options, checks)
    with ExitStack() as stack:
        out = stack.enter_context(Output(options.out))
        beside = stack.enter_context(Output(options.markdown)) if options.markdown else None
        order = _with_servers(order, options)
        examination = _carry_out(order, told)
        out.write(json.dumps(report.to_json(examination), indent=2, ensure_ascii=False) + "\n")
        if beside:
            beside.write(markdown(examination))
    told.ended(examination, [place for place in places if place != STDOUT])
    return Exit.APPROVED if examination.approved else Exit.NOT_APPROVED


def _places(options: argparse.Namespace) -> list[str]:
    return [place for place in (options.out, options.markdown) if place]


# --- What is asked for ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    context: Context
    checks: Sequence[type[Check]]
    left_out: Mapping[str, str]
    """Name of a check → the option that leaves it out."""
    policy_file: str


def _checks() -> list[type[Check]]:
    try:
        catalogue.discover(named_apps())
    except catalogue.CheckFileError as error:
        raise CannotExamine(f"DEPLOYPIPE_APPS: {error}") from error
    return catalogue.all_checks()


def _order(options: argparse.Namespace, checks: Sequence[type[Check]]) -> Order:
    left_out = _left_out(options, checks)
    context = Context(
        artifact=_folder("--artifact", options.artifact),
        manifest=_manifest(options),
        engine=options.engine or endpoint.PLAIN,
        policy=_policy(options.policy, checks),
        files=_files(options),
        engine_arguments=_words(options.engine_arguments),
    )
    return Order(context, checks, left_out, options.policy or "")


def _left_out(options: argparse.Namespace, checks: Sequence[type[Check]]) -> dict[str, str]:
    only, skip = _names(options.only, "--only", checks), _names(options.skip, "--skip", checks)
    left_out = {}
    for check in checks:
        mine = {check.name, check.category}
        if only and not mine & only:
            left_out[check.name] = f"--only {' '.join(sorted(only))}"
        elif said := mine & skip:
            left_out[check.name] = f"--skip {min(said)}"
    if len(left_out) == len(checks):
        raise CannotExamine("With these --only and --skip no check is left.")
    return left_out


def _names(given: Sequence[str], option: str, checks: Sequence[type[Check]]) -> set[str]:
    known = {name for check in checks for name in (check.name, check.category)}
    names = {name.strip() for words in given for name in words.split(",") if name.strip()}
    for name in sorted(names - known):
        near = difflib.get_close_matches(name, known, 1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"the categories are {', '.join(sorted(known & _categories(checks)))}."
        )
        raise CannotExamine(f"{option} {name}: there is no such check or category; {hint}")
    return names


def _categories(checks: Sequence[type[Check]]) -> set[str]:
    return {check.category for check in checks}


def _folder(option: str, given: str | None) -> Path | None:
    if given is None:
        return None
    path = Path(given).resolve()
    if not path.is_dir():
        raise CannotExamine(f"{option} {given}: there is no such folder.")
    return path


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise CannotExamine(f"--engine-arguments cannot be read: {error}.") from error


def _files(options: argparse.Namespace) -> Path | None:
    if options.files:
        return _folder("--files", options.files)
    return Path(options.policy).resolve().parent if options.policy else None


def _manifest(options: argparse.Namespace) -> artifacts.Manifest | None:
    if not options.manifest:
        return None
    if not options.artifact:
        raise CannotExamine("--manifest lists files that --artifact must name, too.")
    try:
        return artifacts.parse(json.loads(read_file("--manifest", options.manifest, LARGEST_MANIFEST)))
    except (ValueError, RecursionError) as error:
        raise CannotExamine(f"--manifest {options.manifest}: {error}.") from error


def _policy(file: str | None, checks: Sequence[type[Check]]) -> Policy:
    if not file:
        return Policy()
    try:
        return load_policy(read_file("--policy", file, LARGEST), checks)
    except ConfigError as error:
        problems = "\n".join(f"  {line}" for line in str(error).splitlines())
        raise CannotExamine(f"--policy {file} cannot be used:\n{problems}") from error


# --- Servers ----------------------------------------------------------------------------------------------------------


def _with_servers(order: Order, options: argparse.Namespace) -> Order:
    key, key_from = _key(options.api_key_env)
    server, engine = endpoint.found(endpoint.address(options.endpoint), key, options.model, key_from=key_from)
    hardware = _hardware(options, machine.measured() if endpoint.is_here(server.base_url) else None)
    context = replace(order.context, server=server, engine=options.engine or engine, hardware=hardware)
    if options.baseline:
        context = replace(context, live=_baseline(options, server, key, key_from))
    return replace(order, context=context)


def _hardware(options: argparse.Namespace, measured: Hardware | None) -> Hardware | None:
    capability = options.compute_capability
    declared = {
        "memory_bytes": options.memory_gb and int(options.memory_gb * 1e9),
        "gpus": options.gpus,
        "gpu_memory_bytes": options.gpu_memory_gb and int(options.gpu_memory_gb * 1e9),
        "compute_capability": capability and round(10 * capability),
    }
    said = {name: value for name, value in declared.items() if value is not None}
    return replace(measured or Hardware(), **said) if said else measured


def _baseline(options: argparse.Namespace, server: RunningServer, key: str, key_from: str) -> RunningServer:
    url = endpoint.address(options.baseline)
    if url == server.base_url:
        raise CannotExamine("--baseline is the server that is examined: name another one.")
    if options.baseline_api_key_env:
        key, key_from = _key(options.baseline_api_key_env)
    live, _ = endpoint.found(url, key, options.baseline_model, option="--baseline-model", key_from=key_from)
    return live


def _key(variable: str | None) -> tuple[str, str]:
    """The key, and where it came from. Empty where the server is to be asked without one."""
    if variable:
        key = os.environ.get(variable, "").strip()
        if not key:
            raise CannotExamine(f"The environment variable {variable} is not set; it should hold the API key.")
    else:
        try:
            key = env.secret("API_KEY").strip()
        except env.WrongValue as error:
            raise CannotExamine(str(error)) from error
    if not (key.isascii() and key.isprintable()):
        raise CannotExamine(f"The key from {variable or KEY_VARIABLE} holds a character that no HTTP header may hold.")
    return key, variable or KEY_VARIABLE


# --- The examination --------------------------------------------------------------------------------------------------


def _carry_out(order: Order, told: Screen) -> report.Examination:
    context, server = order.context, order.context.server
    if server is None:
        raise CannotExamine("There is no server.")
    making = [check for check in order.checks if check.name not in order.left_out]
    told.begins(f"{server.model} at {server.base_url} ({context.engine})", making)
    began = time.monotonic()
    made = examine(context, making, on_result=told.came, on_start=told.started, warm_up=warm_up)
    seconds = time.monotonic() - began
    results = {result.name: result for result in made}
    for check in order.checks:
        if option := order.left_out.get(check.name):
            results[check.name] = _skipped(check, option, context)
    found = [results[check.name] for check in order.checks]
    return report.Examination(
        model_name=server.model,
        engine=context.engine,
        results=found,
        score=report.scored(found, context.policy),
        policy=context.policy.to_json(),
        seconds=seconds,
        at=datetime.now(UTC),
        digest=context.manifest.digest if context.manifest else report.digest_found(found),
        endpoint=server.base_url,
        policy_sources=[order.policy_file] if order.policy_file else [],
        left_out=list(order.left_out),
    )


def _skipped(check: type[Check], option: str, context: Context) -> Result:
    required = check.required and check.category not in context.policy.advisory
    outcome = Outcome.not_checked(f"“{check.label}” was left out by {option}.")
    if (check.needs_artifact and context.artifact is None) or (check.needs_live and context.live is None):
        outcome = Outcome.not_applicable(f"{outcome.reason} There is nothing that it could look at, either.")
    return Result(check.name, check.label, check.category, check.weight, required, outcome, 0.0)


# --- The process ------------------------------------------------------------------------------------------------------


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _end(processes: set[psutil.Process]) -> None:
    """A check that was interrupted may have left its load probe behind."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
