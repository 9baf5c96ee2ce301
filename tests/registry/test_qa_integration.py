"""Deep Tree Echo over HTTP, and by import from real packages that the test writes."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from registry.qa.base import Check, Context, RunningServer, Severity
from registry.qa.builtin.integration import AarCore, Dtesn, MembraneTopology, _levels
from registry.qa.builtin.integration_imports import AarCoreImport, DtesnImport, EchoSelf
from registry.qa.imports.look import Place, find, look
from registry.qa.policy import DTE_COMPONENTS, Policy
from registry.qa.rooted_trees import rooted_trees, topology_problem
from registry.qa.runner import Result, examine
from registry.scoring import Status
from tests.registry.faults_integration import FAULTS
from tests.registry.faulty_engine import KEY, Engine, running_engine
from tests.registry.worst_servers import refuses, serving

HTTP = ("integration.dtesn", "integration.membrane_topology", "integration.aar_core")
IMPORTS = ("integration.dtesn_import", "integration.aar_core_import", "integration.echo_self")
CHECKS: list[type[Check]] = [Dtesn, MembraneTopology, AarCore, DtesnImport, AarCoreImport, EchoSelf]


Ask = Callable[..., dict[str, Result]]


@pytest.fixture
def ask(engine: Engine) -> Ask:
    def run(*faults: str, policy: Policy | None = None) -> dict[str, Result]:
        engine.faults = set(faults)
        context = Context(None, None, "aphrodite", policy or Policy(), engine.running)
        return {r.name: r for r in examine(context, [c for c in CHECKS if c.name in HTTP])}

    return run


# -- over HTTP


@pytest.mark.parametrize(("fault", "name", "words"), FAULTS, ids=[fault for fault, _, _ in FAULTS])
def test_each_fault_of_deep_tree_echo_fails_its_own_check(ask: Ask, fault: str, name: str, words: str) -> None:
    results = ask(*fault.split("+"))
    assert [r.name for r in results.values() if r.outcome.status is Status.FAILED] == [name]
    assert words in results[name].outcome.reason


def test_engine_with_all_of_deep_tree_echo_passes(ask: Ask) -> None:
    results = ask("dtesn", "tree", "aar")
    assert {r.outcome.status for r in results.values()} == {Status.PASSED}
    assert results["integration.dtesn"].outcome.reason == (
        "DTESN processed a request: POST /v1/chat/completions/dtesn and POST /deep_tree_echo/process."
    )
    topology = results["integration.membrane_topology"].outcome
    assert topology.reason == "The 5 levels of membranes (1, 1, 2, 4, 9) are as A000081 has them."
    assert (topology.value, topology.unit) == (17, "membranes")
    assert KEY not in json.dumps([r.outcome.evidence for r in results.values()])


def test_dtesn_without_the_engine_passes_with_a_finding(ask: Ask) -> None:
    outcome = ask("tree", "tree without engine")["integration.dtesn"].outcome
    assert outcome.status is Status.PASSED
    assert "GET /deep_tree_echo/status calls it 'unavailable'" in outcome.findings[0].sentence


@pytest.mark.parametrize("faults", [(), ("page for every address",)])
def test_plain_engine_has_nothing_to_look_at(ask: Ask, faults: tuple[str, ...]) -> None:
    assert {r.outcome.status for r in ask(*faults).values()} == {Status.NOT_APPLICABLE}


def test_proxy_that_refuses_what_it_does_not_know_stands_before_a_plain_engine() -> None:
    with serving(refuses) as url:
        context = Context(None, None, "aphrodite", Policy(), RunningServer(url, "words", "a-secret-key"))
        results = examine(context, [c for c in CHECKS if c.name in HTTP])
    assert {r.outcome.status for r in results} == {Status.NOT_APPLICABLE}, [r.outcome.reason for r in results]


def test_route_that_is_refused_where_others_are_unknown_is_there_and_fails(ask: Ask) -> None:
    outcome = ask("dtesn forbidden")["integration.dtesn"].outcome
    assert outcome.status is Status.FAILED
    assert "GET /v1/dtesn/status answered 403" in outcome.reason


def test_name_of_the_sequence_alone_is_no_evidence(ask: Ask) -> None:
    outcome = ask("tree", "membranes uncounted")["integration.membrane_topology"].outcome
    assert outcome.status is Status.NOT_CHECKED
    assert "does not report how many membranes each level has" in outcome.reason
    assert outcome.findings[0].severity is Severity.LOW


def test_server_that_is_gone_leaves_it_open_whether_it_has_deep_tree_echo() -> None:
    with running_engine() as engine:
        gone = engine.running
    context = Context(None, None, "aphrodite", Policy(), gone)
    results = examine(context, [c for c in CHECKS if c.name in HTTP])
    assert {r.outcome.status for r in results} == {Status.NOT_CHECKED}
    assert "It is not known whether the engine has AAR Core: GET /agents gave no answer" in results[2].outcome.reason


@pytest.mark.parametrize("component", DTE_COMPONENTS)
def test_component_that_the_policy_leaves_out_is_not_looked_at(engine: Engine, component: str) -> None:
    engine.faults = {"dtesn", "dtesn unavailable", "tree", "membranes miscounted", "aar", "aar broken"}
    others = tuple(name for name in DTE_COMPONENTS if name != component)
    policy = Policy(deep_tree_echo_components=others)
    checks = [c for c in CHECKS if c.name in (*HTTP, *IMPORTS)]
    results = examine(Context(None, None, "aphrodite", policy, engine.running), checks)
    left_out = {r.name for r in results if r.outcome.reason.startswith("The policy does not ask for ")}
    assert (
        left_out
        == {
            "dtesn": {"integration.dtesn", "integration.membrane_topology", "integration.dtesn_import"},
            "aar_core": {"integration.aar_core", "integration.aar_core_import"},
            "echo_self": {"integration.echo_self"},
        }[component]
    )
    assert {r.outcome.status for r in results if r.name in left_out} == {Status.NOT_APPLICABLE}


def test_deep_tree_echo_is_off_altogether_where_the_policy_says_so(engine: Engine) -> None:
    engine.faults = {"dtesn", "dtesn unavailable"}
    context = Context(None, None, "aphrodite", Policy(deep_tree_echo=False), engine.running)
    results = examine(context, [c for c in CHECKS if c.category == "integration"])
    assert {r.outcome.reason for r in results} == {"The policy does not ask for Deep Tree Echo."}


# -- rooted trees


def test_rooted_trees_are_counted_as_published() -> None:
    # OEIS A000081, b-file: n = 1 … 11, and n = 30.
    assert rooted_trees(11) == [1, 1, 2, 4, 9, 20, 48, 115, 286, 719, 1842]
    assert rooted_trees(30)[-1] == 354426847597


def test_rooted_trees_are_as_many_as_can_be_written_down() -> None:
    def trees(nodes: int) -> set[tuple[object, ...]]:
        """Each as the sorted tuple of its root's subtrees."""
        return {tuple(sorted(some, key=repr)) for some in forests(nodes - 1)}

    def forests(nodes: int) -> list[tuple[object, ...]]:
        if not nodes:
            return [()]
        return [(tree, *rest) for size in range(1, nodes + 1) for tree in trees(size) for rest in forests(nodes - size)]

    assert [len(trees(n)) for n in range(1, 8)] == rooted_trees(7)


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([1, 1, 2, 4, 9, 20], ""),
        ([0, 1, 1, 2, 4], "level 1 of the membranes has 0, A000081 gives 1"),
        ([1, 1, 2, 5], "(reported: 1, 1, 2, 5; computed: 1, 1, 2, 4)"),
        ([], "no level has a membrane"),
        (["1"], "level 1 of the membranes has '1', A000081 gives 1"),
    ],
)
def test_levels_are_held_to_the_computed_sequence(levels: list[object], words: str) -> None:
    assert words in topology_problem(levels)
    assert bool(words) == bool(topology_problem(levels))


@pytest.mark.parametrize(
    ("said", "levels"),
    [
        ({"membranes_per_level": [1, 1, 2]}, [1, 1, 2]),
        ({"membranes_per_level": {"0": 1, "1": 1, "2": 2}}, [1, 1, 2]),
        ({"a": {"b": {"membranes_per_level": [1, 1, 2]}}}, [1, 1, 2]),
        ({"hierarchy": {"children": [{"children": [{}, {}]}]}}, [1, 1, 2]),
        ({"membranes_per_level": "1, 1, 2"}, []),
        ({"membranes_per_level": [True, True, 2]}, []),
        ({"oeis_sequence": "A000081", "max_depth": 4}, []),
    ],
)
def test_levels_are_found_wherever_the_answer_has_them(said: dict[str, object], levels: list[int]) -> None:
    assert _levels(said) == levels


# -- by import

DTESN = """
    import numpy as np
    print("hello from DTESN")
    {top}
    class Membrane:
        def __init__(self, parent): self.parent_id = parent

    class PSystem:
        def __init__(self, levels):
            self.membranes, self.levels, above = {{}}, [], None
            for number, count in enumerate(levels):
                names = [f"{{number}}.{{i}}" for i in range(count)]
                self.membranes |= {{name: Membrane(above) for name in names}}
                self.levels.append(names)
                above = names[0]

    class System:
        def __init__(self):
            self.psystem = PSystem({levels})
            self.membrane_hierarchy = self.psystem.levels
            self.states = {{name: np.zeros(4) for name in self.psystem.membranes}}
        def update_system(self, given):
            {update}
            for state in self.states.values():
                state[:] = np.tanh(0.5 * state + {gain} * given[:4])
            return {{"reservoir_states": self.states, "active_reservoirs": len(self.states)}}
        def get_system_summary(self):
            return {{"psystem_summary": {{"membranes_per_level": {levels}}},
                    "architecture_compliance": {{"oeis_a000081_compliant": True}}}}
        def validate_integration(self):
            return {issues} == [], {issues}

    def create_standard_dtesn(): return System()
"""

AAR = """
    __version__ = "0.1.0"
    {top}
    class AARConfig: pass

    class AARCoreOrchestrator:
        def __init__(self, config): self.stats = {{"total_requests": 0}}
        async def orchestrate_inference(self, request):
            {work}
            self.stats["total_requests"] += {counted}
            return {answer}
        async def get_orchestration_stats(self):
            return {{"performance_stats": self.stats,
                    "integration_status": {{"aphrodite_engine": {connected}}},
                    "system_health": {{"overall_score": {score}, "status": "healthy",
                                      "components_healthy": {{"agents": {healthy}}}}}}}
"""

ECHO_SELF = """
    from .engine import EchoSelfEvolutionEngine
    __version__ = "0.2.0"
    def get_integration_status(): return {{"aphrodite_engine": True}}
"""

ENGINE = """
    from dataclasses import dataclass

    @dataclass
    class EvolutionConfig:
        population_size: int = 100

    class EchoSelfEvolutionEngine:
        def __init__(self, config): self.config, self.population, self.generation = config, [], 0
        def get_statistics(self):
            return {{"generation": self.generation, "population_size": len(self.population)}}
        async def initialize_population(self, factory):
            self.population = [factory() for _ in range(self.config.population_size)]
        async def {evolve}(self):
            fitness = [await one.evaluate_fitness({{}}) for one in self.population[:{evaluated}]]
            self.population = [one.mutate(0.1) for one in self.population][:{kept}]
            self.generation += {step}
            return {{"best_fitness": max(fitness) + {lie}}}
"""

GOOD_DTESN = {"top": "", "levels": "[1, 1, 2, 4, 9]", "update": "pass", "gain": "1.0", "issues": "[]"}
GOOD_AAR = {
    "top": "",
    "work": "pass",
    "counted": "1",
    "answer": '{"agent_id": "agent_1"}',
    "connected": "True",
    "score": "0.95",
    "healthy": "True",
}
GOOD_ECHO = {"evolve": "evolve_step", "evaluated": "100", "kept": "100", "step": "1", "lie": "0.0"}


def write_dtesn(root: Path, **parts: str) -> None:
    (root / "echo.kern").mkdir(exist_ok=True)
    source = textwrap.dedent(DTESN).format(**{**GOOD_DTESN, **parts})
    (root / "echo.kern" / "dtesn_integration.py").write_text(source)


def write_aar(root: Path, **parts: str) -> None:
    (root / "aar_core").mkdir(exist_ok=True)
    (root / "aar_core" / "__init__.py").write_text(textwrap.dedent(AAR).format(**{**GOOD_AAR, **parts}))


def write_echo(root: Path, **parts: str) -> None:
    (root / "echo_self").mkdir(exist_ok=True)
    (root / "echo_self" / "__init__.py").write_text(textwrap.dedent(ECHO_SELF).format())
    (root / "echo_self" / "engine.py").write_text(textwrap.dedent(ENGINE).format(**{**GOOD_ECHO, **parts}))


def imported(root: Path | str, name: str, **parameters: object) -> Result:
    given = {check: {"path": ".", **parameters} for check in IMPORTS}
    context = Context(None, None, "openai", Policy(parameters=given), files=Path(root))
    return examine(context, [c for c in CHECKS if c.name == name])[0]


def test_components_that_work_pass_when_they_are_imported(tmp_path: Path) -> None:
    write_dtesn(tmp_path)
    write_aar(tmp_path)
    write_echo(tmp_path)
    found = {name: imported(tmp_path, name).outcome for name in IMPORTS}
    assert {name: o.reason for name, o in found.items() if o.status is not Status.PASSED} == {}
    assert "DTESN moved all 17 reservoirs with two inputs" in found["integration.dtesn_import"].reason
    assert "membranes (1, 1, 2, 4, 9) are as A000081 has them" in found["integration.dtesn_import"].reason
    assert found["integration.dtesn_import"].evidence["facts"]["levels"] == [1, 1, 2, 4, 9]
    assert "AAR Core 0.1.0 orchestrated and counted one request" in found["integration.aar_core_import"].reason
    assert found["integration.aar_core_import"].value == 0.95
    assert "Echo-Self 0.2.0 evolved one generation of 8" in found["integration.echo_self"].reason
    assert all(o.findings == () for o in found.values())
    assert json.dumps([dict(o.evidence) for o in found.values()])
    assert not list(tmp_path.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"levels": "[1, 1, 2, 5]"}, "level 4 of the membranes has 5, A000081 gives 4"),
        ({"levels": "[1, 1]"}, "its membranes have only 2 levels"),
        ({"levels": "[]"}, "it has no membranes"),
        (
            {"update": "self.states = dict(list(self.states.items())[:16 + int(given[0])])"},
            "update_system() showed 4.7, 4.8 with only one of two inputs",
        ),
        ({"gain": "0.0"}, "17 of 17 reservoirs have the same state after opposite inputs"),
        ({"gain": "float('nan')"}, "brought states that are no finite numbers"),
        ({"issues": "['B-Series classifier not available']"}, "says: B-Series classifier not available"),
        ({"update": "raise ValueError('no input')"}, "update_system() with ones raised ValueError: no input"),
        ({"update": "return None"}, "raised TypeError: 'NoneType' object is not subscriptable"),
        (
            {"top": "def f(:"},
            "import dtesn_integration raised SyntaxError: invalid syntax (dtesn_integration.py, line 4",
        ),
        ({"top": "import sys; sys.exit(4)"}, "import dtesn_integration called sys.exit(4)"),
        ({"top": "import os; os._exit(7)"}, "import dtesn_integration ended the process with exit code 7"),
        (
            {"top": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"},
            "import dtesn_integration ended the process by SIGSEGV",
        ),
        ({"top": "while True: pass"}, "import dtesn_integration did not end within 3 s"),
    ],
)
def test_dtesn_that_does_not_work_fails_with_what_it_did(tmp_path: Path, parts: dict[str, str], words: str) -> None:
    write_dtesn(tmp_path, **parts)
    outcome = imported(tmp_path, "integration.dtesn_import", seconds=3.0 if "did not end" in words else 30.0)
    assert outcome.outcome.status is Status.FAILED
    assert words in outcome.outcome.reason


def test_complaint_about_the_topology_that_counting_disproves_is_a_finding(tmp_path: Path) -> None:
    write_dtesn(tmp_path, issues="['Membrane hierarchy not OEIS A000081 compliant']")
    outcome = imported(tmp_path, "integration.dtesn_import").outcome
    assert outcome.status is Status.PASSED
    assert [f.severity for f in outcome.findings] == [Severity.LOW]
    assert "but the membranes counted here are as A000081 has them" in outcome.findings[0].sentence


def test_claim_of_compliance_that_counting_disproves_is_a_finding(tmp_path: Path) -> None:
    write_dtesn(tmp_path, levels="[1, 2, 3]")
    outcome = imported(tmp_path, "integration.dtesn_import").outcome
    assert outcome.status is Status.FAILED
    assert "calls the membranes compliant with A000081, but level 2" in outcome.findings[0].sentence


def test_membranes_without_parents_are_a_finding(tmp_path: Path) -> None:
    write_dtesn(tmp_path, top="")
    source = tmp_path / "echo.kern" / "dtesn_integration.py"
    source.write_text(source.read_text().replace("Membrane(above)", "Membrane(None)"))
    outcome = imported(tmp_path, "integration.dtesn_import").outcome
    assert outcome.status is Status.PASSED
    assert outcome.findings[0].sentence.startswith("17 of 17 membranes have no parent")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"answer": "{'error': 'No agents available'}"}, "answered with an error: No agents available"),
        ({"answer": "{}"}, "orchestrate_inference() answered nothing"),
        ({"answer": "'fine'"}, "answered with an error: it is no mapping"),
        ({"counted": "0"}, "its own count of requests went from 0 to 0 with one request"),
        ({"score": "0.3"}, "its health score is 0.3, at least 0.8 is demanded"),
        ({"score": "'healthy'"}, "its health score is 'healthy', a number from 0 to 1 is expected"),
        ({"healthy": "False"}, "it reports as not healthy: agents"),
        ({"work": "raise RuntimeError('no arena')"}, "orchestrate_inference() raised RuntimeError: no arena"),
    ],
)
def test_aar_core_that_does_not_work_fails_with_what_it_did(tmp_path: Path, parts: dict[str, str], words: str) -> None:
    write_aar(tmp_path, **parts)
    result = imported(tmp_path, "integration.aar_core_import")
    assert result.outcome.status is Status.FAILED
    assert words in result.outcome.reason


def test_least_health_is_the_policys(tmp_path: Path) -> None:
    write_aar(tmp_path, score="0.3")
    assert imported(tmp_path, "integration.aar_core_import", least_health=0.2).outcome.status is Status.PASSED


def test_aar_core_without_the_engine_passes_with_a_finding(tmp_path: Path) -> None:
    write_aar(tmp_path, connected="False")
    outcome = imported(tmp_path, "integration.aar_core_import").outcome
    assert outcome.status is Status.PASSED
    assert "is not connected to the engine" in outcome.findings[0].sentence


@pytest.mark.parametrize(
    ("parts", "status", "words"),
    [
        ({"step": "0"}, Status.FAILED, "evolve_step() took the generation from 0 to 0"),
        ({"evaluated": "3"}, Status.FAILED, "3 of 8 individuals were evaluated"),
        ({"kept": "5"}, Status.FAILED, "8 individuals became 5"),
        ({"lie": "0.1"}, Status.FAILED, "was the best that it was given"),
        ({"evolve": "other"}, Status.NOT_CHECKED, "has no evolve_step(), so it could not be seen to evolve"),
    ],
)
def test_echo_self_is_held_to_the_fitness_that_it_was_given(
    tmp_path: Path, parts: dict[str, str], status: Status, words: str
) -> None:
    write_echo(tmp_path, **parts)
    outcome = imported(tmp_path, "integration.echo_self").outcome
    assert outcome.status is status
    assert words in outcome.reason


def test_component_that_is_not_installed_is_not_applicable() -> None:
    context = Context(None, None, "openai", Policy())
    results = examine(context, [c for c in CHECKS if c.name in IMPORTS])
    assert {r.outcome.status for r in results} == {Status.NOT_APPLICABLE}
    assert results[1].outcome.reason == (
        "AAR Core is not installed here (no module aar_core), and the policy names no folder with it."
    )


def test_component_that_is_installed_is_found_and_not_imported_by_finding_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_aar(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    context = Context(None, None, "openai", Policy())
    result = examine(context, [c for c in CHECKS if c.name == "integration.aar_core_import"])[0]
    assert result.outcome.status is Status.PASSED
    assert "aar_core" not in sys.modules


@pytest.mark.parametrize("name", IMPORTS)
def test_named_folder_without_the_component_fails(tmp_path: Path, name: str) -> None:
    outcome = imported(tmp_path, name).outcome
    assert outcome.status is Status.FAILED
    assert "cannot be imported: there is no " in outcome.reason


@pytest.mark.parametrize("named", ["/usr/lib", "../elsewhere", "a/../../b"])
def test_nothing_is_imported_from_outside_of_the_folder_for_the_policys_files(tmp_path: Path, named: str) -> None:
    policy = Policy(parameters={"integration.aar_core_import": {"path": named}})
    context = Context(None, None, "openai", policy, files=tmp_path)
    result = examine(context, [c for c in CHECKS if c.name == "integration.aar_core_import"])[0]
    assert result.outcome.status is Status.FAILED
    assert f"is not imported from {named!r}: put the checkout, or a link to it, into" in result.outcome.reason


def test_folder_is_named_relative_to_the_policys_files(tmp_path: Path) -> None:
    write_aar(tmp_path)
    policy = Policy(parameters={"integration.aar_core_import": {"path": "."}})
    context = Context(None, None, "openai", policy, files=tmp_path)
    result = examine(context, [c for c in CHECKS if c.name == "integration.aar_core_import"])[0]
    assert result.outcome.status is Status.PASSED


def test_package_that_is_missing_here_says_nothing_of_the_component(tmp_path: Path) -> None:
    write_aar(tmp_path, top="import no_such_package_anywhere.deep")
    outcome = imported(tmp_path, "integration.aar_core_import").outcome
    assert outcome.status is Status.NOT_CHECKED
    assert "it needs the module no_such_package_anywhere, which is not installed here" in outcome.reason


def test_missing_part_of_its_own_is_the_components_fault(tmp_path: Path) -> None:
    write_aar(tmp_path, top="import aar_core.orchestration")
    outcome = imported(tmp_path, "integration.aar_core_import").outcome
    assert outcome.status is Status.FAILED
    assert "No module named 'aar_core.orchestration'" in outcome.reason


# -- the process


def test_process_gets_nothing_of_the_products_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYPIPE_API_KEY", "a-secret-key")
    write_aar(tmp_path, answer="{'seen': sorted(__import__('os').environ)}")
    place = find("aar_core", tmp_path)
    assert place is not None
    seen = look(place, 30).facts["answer"]["seen"]
    assert "PATH" in seen
    assert not [name for name in seen if "DEPLOYPIPE" in name or "DJANGO" in name]


def test_children_of_a_component_that_hangs_are_ended_with_it(tmp_path: Path) -> None:
    told = tmp_path / "child"
    write_aar(
        tmp_path,
        top=(
            "import subprocess, time; "
            "child = subprocess.Popen(['sleep', '300']); "
            f"open({str(told)!r}, 'w').write(str(child.pid)); time.sleep(300)"
        ),
    )
    seen = look(Place("aar_core", (str(tmp_path),)), 5)
    assert seen.problem == "import aar_core did not end within 5 s"
    assert has_ended(int(told.read_text()))


def test_children_of_a_component_that_ended_are_ended_too(tmp_path: Path) -> None:
    told = tmp_path / "child"
    work = f"open({str(told)!r}, 'w').write(str(__import__('subprocess').Popen(['sleep', '300']).pid))"
    write_aar(tmp_path, work=work)
    assert look(Place("aar_core", (str(tmp_path),)), 30).problem == ""
    assert has_ended(int(told.read_text()))


def has_ended(pid: int) -> bool:
    """Within a while: the kernel ends a process some time after it was told to."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


def test_prints_and_answers_without_end_are_cut(tmp_path: Path) -> None:
    write_aar(
        tmp_path,
        top="print('x' * 10_000_000)",
        answer="{str(i): ['long' * 1000] * 1000 for i in range(1000)}",
    )
    place = find("aar_core", tmp_path)
    assert place is not None
    seen = look(place, 30)
    assert seen.problem == ""
    assert len(json.dumps(seen.facts)) < 1_000_000


def test_values_that_json_does_not_have_are_written_as_text(tmp_path: Path) -> None:
    write_aar(tmp_path, answer="{'a': float('nan'), 'b': object, 'c': {1: b'x'}, 'd': '\\ud800'}")
    outcome = imported(tmp_path, "integration.aar_core_import").outcome
    assert outcome.status is Status.PASSED
    assert outcome.evidence["facts"]["answer"]["a"] == "nan"
    assert json.dumps(outcome.evidence, allow_nan=False).encode()


def test_answer_of_another_shape_is_a_failure_and_no_error_of_the_check(tmp_path: Path) -> None:
    write_echo(tmp_path)
    engine = tmp_path / "echo_self" / "engine.py"
    engine.write_text(engine.read_text().replace("self.generation = config, [], 0", "self.generation = config, [], ''"))
    engine.write_text(engine.read_text().replace("self.generation += 1", "self.generation += 'x'"))
    outcome = imported(tmp_path, "integration.echo_self").outcome
    assert outcome.status is Status.FAILED
    assert "answers in a way that is not known (TypeError" in outcome.reason
