"""What is done with each component. Only facts are written down here; `builtin/integration_imports.py` judges them.

Nothing of the components is typed: they are found at run time, so each is `Any`.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from registry.qa.imports.journal import Journal

POPULATION = 8
REQUEST = {"request_id": "deploypipe", "prompt": "The statement is used to", "context": {}, "features": []}


def dtesn(journal: Journal) -> None:
    import numpy

    with journal.step("import dtesn_integration"):
        module: Any = import_module("dtesn_integration")
    journal.fact("version", getattr(module, "__version__", None))
    with journal.step("create_standard_dtesn()"):
        system = module.create_standard_dtesn()
    with journal.step("update_system() with ones"):
        states = _states(system.update_system(numpy.ones(10)))
    with journal.step("update_system() with minus ones"):
        answer = system.update_system(-numpy.ones(10))
    later = _states(answer)
    journal.fact("active_reservoirs", answer.get("active_reservoirs"))
    journal.fact("reservoirs", len(states))
    journal.fact("finite", all(bool(numpy.isfinite(state).all()) for state in [*states.values(), *later.values()]))
    journal.fact("lost", sorted(states.keys() ^ later.keys()))
    journal.fact(
        "still", sorted(name for name in states if name in later and numpy.array_equal(states[name], later[name]))
    )
    for name, value in _membranes(system).items():
        journal.fact(name, value)
    with journal.step("get_system_summary()"):
        summary = system.get_system_summary()
    journal.fact("declared_levels", _inside(summary, "psystem_summary", "membranes_per_level"))
    journal.fact("compliance", _inside(summary, "architecture_compliance"))
    with journal.step("validate_integration()"):
        valid, issues = system.validate_integration()
    journal.fact("valid", bool(valid))
    journal.fact("issues", [str(issue) for issue in issues])


def _states(answer: Any) -> dict[str, Any]:
    """Copies: an engine may go on in the same arrays."""
    import numpy

    return {str(name): numpy.array(state, copy=True) for name, state in answer["reservoir_states"].items()}


def _membranes(system: Any) -> dict[str, Any]:
    """How many membranes there are on each level: counted, where the system keeps them, not what it declares."""
    membranes = getattr(getattr(system, "psystem", None), "membranes", None) or {}
    hierarchy = getattr(system, "membrane_hierarchy", None)
    found: dict[str, Any] = {"membranes": len(membranes)}
    if hierarchy:
        found["levels"] = [len({name for name in level if name in membranes}) for level in hierarchy]
    else:
        depths = Counter(getattr(membrane, "depth", 0) for membrane in membranes.values())
        found["levels"] = [depths[depth] for depth in range(max(depths, default=-1) + 1)]
    found["without_parent"] = sum(getattr(one, "parent_id", None) is None for one in membranes.values())
    return found


def aar_core(journal: Journal) -> None:
    with journal.step("import aar_core"):
        module: Any = import_module("aar_core")
    journal.fact("version", getattr(module, "__version__", None))
    kind = module.AARCoreOrchestrator
    with journal.step("AARCoreOrchestrator(AARConfig())"):
        orchestrator = kind(_beside(kind, "AARConfig")())
    asyncio.run(_orchestrate(journal, orchestrator))


async def _orchestrate(journal: Journal, orchestrator: Any) -> None:
    with journal.step("get_orchestration_stats()"):
        before = _requests(await orchestrator.get_orchestration_stats())  # now: it may go on in the same dict
    with journal.step("orchestrate_inference()"):
        answer = await orchestrator.orchestrate_inference(dict(REQUEST))
    journal.fact("answer", answer)
    journal.fact("answer_error", answer.get("error") if isinstance(answer, Mapping) else "it is no mapping")
    with journal.step("get_orchestration_stats() again"):
        after = await orchestrator.get_orchestration_stats()
    journal.fact("requests", [before, _requests(after)])
    for name in ("overall_score", "components_healthy", "error_rate"):
        journal.fact(name, _inside(after, "system_health", name))
    journal.fact("integration_status", _inside(after, "integration_status"))


def _requests(stats: Any) -> Any:
    """Some versions keep their counters one level deeper."""
    nested = _inside(stats, "performance_stats", "total_requests")
    return _inside(stats, "total_requests") if nested is None else nested


class _Guess:
    """An individual whose fitness is known here, so that what the engine says of it can be held to it."""

    given: list[float] = []

    def __init__(self, genome: dict[str, float]) -> None:
        self.genome = genome
        self.fitness = 0.0
        self.age = 0
        self.performance_history: list[float] = []

    async def evaluate_fitness(self, environment: object) -> float:
        fitness = 1.0 - abs(self.genome["hidden_size"] - 0.5)
        self.given.append(fitness)
        return fitness

    def mutate(self, mutation_rate: float) -> _Guess:
        return _Guess({"hidden_size": self.genome["hidden_size"] + random.uniform(-0.1, 0.1)})  # noqa: S311

    def crossover(self, other: _Guess) -> tuple[_Guess, _Guess]:
        middle = (self.genome["hidden_size"] + other.genome["hidden_size"]) / 2
        return _Guess({"hidden_size": middle}), _Guess({"hidden_size": middle})


def echo_self(journal: Journal) -> None:
    with journal.step("import echo_self"):
        module: Any = import_module("echo_self")
    journal.fact("version", getattr(module, "__version__", None))
    kind = module.EchoSelfEvolutionEngine
    with journal.step("EchoSelfEvolutionEngine(EvolutionConfig())"):
        engine = kind(_beside(kind, "EvolutionConfig")(population_size=POPULATION))
    with journal.step("get_statistics()"):
        before = _inside(engine.get_statistics(), "generation")
    status = getattr(module, "get_integration_status", None)
    journal.fact("integration_status", status() if callable(status) else None)
    can_evolve = hasattr(engine, "evolve_step") and hasattr(engine, "initialize_population")
    journal.fact("can_evolve", can_evolve)
    if can_evolve:
        asyncio.run(_evolve(journal, engine, before))


async def _evolve(journal: Journal, engine: Any, generation: Any) -> None:
    source = random.Random(1)  # noqa: S311
    with journal.step("initialize_population()"):
        await engine.initialize_population(lambda: _Guess({"hidden_size": source.random()}))
    _Guess.given.clear()
    with journal.step("evolve_step()"):
        stats = await engine.evolve_step()
    journal.fact("evaluated", len(_Guess.given))
    journal.fact("best_given", max(_Guess.given, default=None))
    journal.fact("best_reported", _inside(stats, "best_fitness"))
    with journal.step("get_statistics() again"):
        after = engine.get_statistics()
    journal.fact("generation", [generation, _inside(after, "generation")])
    journal.fact("population", _inside(after, "population_size"))


def _beside(kind: Any, name: str) -> Any:
    """The settings' class stands in the module of the class that wants them; the packages do not export it."""
    return getattr(sys.modules[kind.__module__], name)


def _inside(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


LOOK: dict[str, Callable[[Journal], None]] = {"dtesn": dtesn, "aar_core": aar_core, "echo_self": echo_self}
