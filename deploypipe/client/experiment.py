"""`deploypipe experiment`: check the verdicts of an experiment, judge it anew, and simulate some before any is run."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, Never

from deploypipe.client import experiment_judge, experiment_replay, experiment_simulate
from deploypipe.client.experiment_files import TOKEN_VARIABLE
from deploypipe.client.problems import CannotRead, Ended, Problem
from deploypipe.client.process import interrupted, readable_streams, silenced
from deploypipe.metrics import catalogue
from deploypipe.plugins import named_apps

DESCRIPTION = "Check the verdicts of an experiment, judge it anew, and simulate some before any is run."
SOURCE_EPILOG = f"""\
The evidence comes from a server (its API token is read from the environment variable {TOKEN_VARIABLE},
or {TOKEN_VARIABLE}_FILE, or the one that --token-env names), or from a file that it gave:
GET /api/v1/experiments/ID/evidence/.
"""
REPLAY_EPILOG = f"""\
{SOURCE_EPILOG}
exit codes:
  0    every verdict comes out as it was stored, to the last bit
  1    one differs; which, and in what, is said
  2    nothing can be said: wrong arguments, no server, no such experiment, a file that is no evidence
  130  interrupted

examples:
  {TOKEN_VARIABLE}=dp_… deploypipe experiment replay 7 --url http://127.0.0.1:8000
  deploypipe experiment replay --file experiment-7-evidence.json
"""
JUDGE_EPILOG = f"""\
{SOURCE_EPILOG}
Settings are those of an experiment, as YAML or JSON, or a pipeline-config.yaml with a part ab_testing.
What the other policy says is said of the traffic as it was: an experiment that it had let run on longer has no end.

exit codes: 0 judged; 2 wrong arguments or unreadable evidence; 130 interrupted

examples:
  deploypipe experiment judge --file evidence.json --settings stricter.yaml
  deploypipe experiment judge 7 --url http://127.0.0.1:8000 --set alpha=0.01 --set min_requests=5000
  deploypipe experiment judge --file evidence.json --judge thresholds
"""
SIMULATE_EPILOG = """\
Settings (--policy) are those of an experiment, as YAML or JSON, or a pipeline-config.yaml with a part ab_testing;
without them the mission's criteria. A scenario's file has any of the names that --list-scenario shows; options
overrule it. The environment variables TRAFFIC_SPLIT and AB_TEST_DURATION_MINUTES overrule the policy's split and
duration, and are overruled by --split and --minutes.

All figures are simulated, and labelled so. They hold for traffic like the scenario's, and say how often this policy
would be wrong and how long it would take; of your model they say nothing.

exit codes: 0 simulated; 2 wrong arguments; 130 interrupted

examples:
  deploypipe experiment simulate --policy pipeline-config.yaml --requests-per-minute 1200
  deploypipe experiment simulate --base-error 1 --candidate-error 3 --split 50 --runs 1000
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "experiment",
        help="check, judge anew and simulate experiments",
        description=DESCRIPTION,
        epilog="“deploypipe experiment COMMAND --help” says what a command takes.",
        allow_abbrev=False,
    )
    below = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    replay = _command(below, "replay", "compute every stored verdict again, and compare", REPLAY_EPILOG)
    _source(replay)
    replay.add_argument("--every", action="store_true", help="a line for each look, also where many are alike")
    _run(replay, experiment_replay.run)
    judge = _command(
        below, "judge", "ask another policy, or another judge, about an experiment's traffic", JUDGE_EPILOG
    )
    _source(judge)
    experiment_judge.add(judge)
    _run(judge, experiment_judge.run)
    simulate = _command(below, "simulate", "how often a policy is wrong, and how long it takes", SIMULATE_EPILOG)
    experiment_simulate.add(simulate)
    _run(simulate, experiment_simulate.run)


def _command(
    below: argparse._SubParsersAction[argparse.ArgumentParser], name: str, what: str, epilog: str
) -> argparse.ArgumentParser:
    parser = below.add_parser(
        name,
        help=what,
        description=f"{what[:1].upper()}{what[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --to would mean --token-env, and a token given there be shown in an error
    )
    parser.add_argument("--json", action="store_true", help="the answer as one JSON object on stdout")
    return parser


def _source(parser: argparse.ArgumentParser) -> None:
    source = parser.add_argument_group("what is read")
    source.add_argument("id", nargs="?", type=int, metavar="ID", help="number of the experiment at the server")
    source.add_argument("--url", metavar="URL", help="address of the deploypipe server")
    source.add_argument("--token-env", metavar="VARIABLE", help=f"variable with the token (default: {TOKEN_VARIABLE})")
    source.add_argument("--token", action=_TokenOnTheCommandLine, help=argparse.SUPPRESS)
    source.add_argument("--file", metavar="FILE", help="evidence that was kept as a file (-: stdin)")


class _TokenOnTheCommandLine(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: Any, **more: Any) -> Never:
        parser.error(f"everybody on the machine could read a token given here: put it into {TOKEN_VARIABLE}")


def _run(parser: argparse.ArgumentParser, act: Callable[[argparse.Namespace], Ended]) -> None:
    parser.set_defaults(run=lambda options: _guarded(parser.prog, act, options))


def _guarded(name: str, act: Callable[[argparse.Namespace], Ended], options: argparse.Namespace) -> Ended:
    readable_streams()
    before = signal.signal(signal.SIGTERM, interrupted)
    try:
        _own_metrics()
        ended = act(options)
        sys.stdout.flush()  # here, where it is known what to do when nobody reads any more
        return ended
    except Problem as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201
        return Ended.NOT_AT_ALL
    except KeyboardInterrupt:
        print(f"{name}: interrupted.", file=sys.stderr)  # noqa: T201
        return Ended.INTERRUPTED
    except BrokenPipeError:
        silenced(sys.stdout)
        return Ended.NOT_AT_ALL
    except Exception:  # Python would leave with 1, which says "a verdict differs"
        traceback.print_exc()
        print(f"{name}: this is a fault of deploypipe itself.", file=sys.stderr)  # noqa: T201
        return Ended.NOT_AT_ALL
    finally:
        signal.signal(signal.SIGTERM, before)


def _own_metrics() -> None:
    """Those of the apps that the environment names: evidence may ask for them."""
    try:
        catalogue.discover(named_apps())
    except catalogue.MetricFileError as error:
        raise CannotRead(f"DEPLOYPIPE_APPS: {error}") from error
