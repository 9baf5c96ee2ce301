"""The weights in the version's files: whole, free of code that runs when they are loaded, and small enough."""

from __future__ import annotations

from typing import Any

from registry.qa.base import Check, Context, Finding, Hardware, Outcome, Severity
from registry.qa.builtin.exchange import listed
from registry.qa.builtin.files import READS_CONFIG
from registry.qa.catalogue import check
from registry.qa.files import memory, pickles, quantization
from registry.qa.files.arguments import EngineArguments
from registry.qa.files.config import ModelConfig
from registry.qa.files.memory import GB, Cache, Room, amount
from registry.qa.files.reading import Unreadable
from registry.qa.files.weights import NO_WEIGHTS, Loaded, files_of, loaded, survey
from registry.qa.parameters import Parameter

CATEGORY = "compatibility"
MOST_FINDINGS = 50


@check
class Weights(Check):
    name = "compatibility.weights"
    label = "The weights are whole"
    category = CATEGORY
    weight = 1.0
    required = True  # no engine can load what its own header contradicts; and this tells before a server is started
    needs_artifact = True
    timeout = 120.0

    def run(self, context: Context) -> Outcome:
        found = survey(context.folder)
        if not found.looked_at:
            return Outcome.not_applicable("There is no safetensors or GGUF file whose header could be read.")
        evidence = {
            "files": found.looked_at,
            "parameters": found.elements,
            "dtypes": found.dtypes,
            "tensor_bytes": sum(head.data_bytes for head in found.headers.values()),
            "problems": found.problems[:20],
            "notes": found.notes[:20],
        }
        findings = tuple(
            Finding(Severity.LOW, f"{note}.", "See whether the file belongs to this version.")
            for note in found.notes[:20]
        )
        if found.problems:
            return Outcome.failed(
                f"{listed(found.problems, 3)}.",
                value=float(len(found.problems)),
                limit=0.0,
                unit="problems",
                evidence=evidence,
                findings=findings,
            )
        files = [*found.headers, *found.heads]
        tensors = sum(found.dtypes.values())
        return Outcome.passed(
            f"{listed(files, 2)}: {tensors:,} tensors with {found.elements:,} numbers "
            f"({listed(list(found.dtypes), 3) or 'none'}), none cut off and none overlapping.",
            evidence=evidence,
            findings=findings,
        )


@check
class Pickles(Check):
    name = "compatibility.pickles"
    label = "No file runs code when it is loaded"
    category = CATEGORY
    weight = 1.0
    required = False
    needs_artifact = True
    timeout = 120.0
    parameters = (
        Parameter(
            "allow_pickles",
            bool,
            True,
            "Whether weights may be pickles at all, as long as they import ordinary things.",
        ),
    )

    def run(self, context: Context) -> Outcome:
        folder = context.folder
        names = {path.relative_to(folder).as_posix(): path for path in files_of(folder)}
        found = [one for name, path in names.items() if (one := pickles.inspect(path, name)) is not None]
        evidence = {
            "files": len(names),
            "pickles": [{"file": one.name, "imports": (one.strange or sorted(one.imports))[:50]} for one in found[:20]],
        }
        if not found:
            count = "The one file is no pickle" if len(names) == 1 else f"None of the {len(names):,} files is a pickle"
            return Outcome.passed(f"{count}.", evidence=evidence)
        dangerous = [one for one in found if one.strange]
        unseen = [one for one in found if one.problem and not one.strange]
        worst_first = [*dangerous, *unseen, *(one for one in found if not (one.strange or one.problem))]
        findings = tuple(finding for one in worst_first for finding in _pickle_findings(one))[:MOST_FINDINGS]
        numbers: dict[str, Any] = {"value": float(len(dangerous)), "limit": 0.0, "unit": "files"}
        if dangerous:
            worst = dangerous[0]
            return Outcome.failed(
                f"{worst.name} imports {listed(worst.strange)} when it is loaded, which no weights need"
                f"{_and_more(len(dangerous) - 1)}.",
                evidence=evidence,
                findings=findings,
                **numbers,
            )
        if unseen:
            return Outcome.failed(
                f"{unseen[0].name} {unseen[0].problem}, so what it runs is not known{_and_more(len(unseen) - 1)}.",
                evidence=evidence,
                findings=findings,
            )
        held = f"{listed([one.name for one in found], 3)} {'is a pickle' if len(found) == 1 else 'are pickles'}"
        if not context.parameter(self, "allow_pickles"):
            return Outcome.failed(f"{held}, and the policy allows none.", evidence=evidence, findings=findings)
        return Outcome.passed(
            f"{held}, and import only what weights are made of.", evidence=evidence, findings=findings, **numbers
        )


def _and_more(count: int) -> str:
    return f" (and so do {count} more)" if count > 1 else " (and so does 1 more)" if count else ""


def _pickle_findings(one: pickles.Pickle) -> list[Finding]:
    """Not all of a folder's pickles are read by the engine, but somebody may load any of them."""
    if one.strange:
        remove = "Remove it: no engine reads it." if one.name in NO_WEIGHTS else "Do not load it; find out who made it."
        return [
            Finding(Severity.CRITICAL, f"{one.name} imports {name} when it is loaded.", remove)
            for name in one.strange[:10]
        ]
    if one.problem:
        return [Finding(Severity.HIGH, f"{one.name} {one.problem}.", "Do not load it; get the file anew.")]
    return [
        Finding(
            Severity.MEDIUM,
            f"{one.name} is a pickle: loading it can run code.",
            "Convert the weights to safetensors.",
        )
    ]


@check
class Memory(Check):
    name = "compatibility.memory"
    label = "The model fits into the memory"
    category = CATEGORY
    weight = 1.0
    required = False
    needs_artifact = True
    timeout = 30.0

    def run(self, context: Context) -> Outcome:
        weights = loaded(context.folder)
        if weights is None:
            return Outcome.not_applicable("There is no weight file of a known kind whose size could be compared.")
        arguments = EngineArguments(context.engine_arguments)
        try:
            room = _room(context, arguments)
            cache: Cache | str = "the engine keeps them in its own way"
            if context.engine in READS_CONFIG:
                cache = _cache(context, arguments)
        except Unreadable as problem:
            return Outcome.not_checked(f"The engine's arguments cannot be used: {problem}.")
        if room is None:
            return _without_room(context, weights)
        return _compared(context, weights, cache, room, arguments)


def _cache(context: Context, arguments: EngineArguments) -> Cache | str:
    try:
        config = ModelConfig.of(context.folder)
    except Unreadable as problem:
        return f"config.json {problem}"
    return memory.cache(config, arguments)


def _room(context: Context, arguments: EngineArguments) -> Room | None:
    """None where nothing is known of the place."""
    hardware = context.hardware or Hardware()
    on_gpus = hardware.gpus > 0 and context.engine in READS_CONFIG
    if on_gpus:
        if hardware.gpu_memory_bytes is None:
            return None
        return memory.room_on_gpus(context.engine, arguments, hardware.gpu_memory_bytes, hardware.gpus)
    if hardware.memory_bytes is None:
        return None
    gpus = hardware.gpus * (hardware.gpu_memory_bytes or 0)  # engines that put a part of the layers there
    beside = f" and {amount(gpus)} of GPUs" if gpus else ""
    no_gpu = ", no GPU being declared" if context.engine in READS_CONFIG else ""
    return Room(hardware.memory_bytes + gpus, f"the machine's {amount(hardware.memory_bytes)}{beside}{no_gpu}")


def _without_room(context: Context, weights: Loaded) -> Outcome:
    needed = f"the weights alone ({weights.what}) take {amount(weights.size)}"
    if context.server is not None:
        return Outcome.not_applicable(f"The server runs already, so the model fits where it is; {needed}.")
    return Outcome.not_checked(
        f"The target declares no memory, so whether the model fits is not known: {needed}. Declare its hardware."
    )


def _compared(context: Context, weights: Loaded, cache: Cache | str, room: Room, arguments: EngineArguments) -> Outcome:
    evidence: dict[str, Any] = {"weight_bytes": weights.size, "weights": weights.what, "room_bytes": int(room.size)}
    keys = f"keys and values are not counted, because {cache}"
    needed = weights.size
    if isinstance(cache, Cache):
        evidence |= {"tokens": cache.tokens, "kv_bytes_per_token": cache.per_token}
        most = f"{amount(cache.size)} for keys and values of one sequence of {cache.tokens:,} tokens"
        keys = most
        if not cache.doubt:
            needed += cache.size
        elif weights.size + cache.size <= room.size:  # they take no more than that
            needed, keys = weights.size + cache.size, f"at most {most}, for {cache.doubt}"
        else:
            keys = f"keys and values are not counted, because {cache.doubt}"
    numbers: dict[str, Any] = {"value": needed / GB, "limit": room.size / GB, "unit": "GB", "evidence": evidence}
    sentence = f"{amount(weights.size)} of weights ({weights.what}) and {keys}"
    if arguments.from_file:
        numbers["findings"] = (
            Finding(
                Severity.LOW,
                "The engine's --config file was not looked at, and may change what it needs.",
                "Give the arguments one by one with the version.",
            ),
        )
    if needed <= room.size:
        return Outcome.passed(f"{sentence}: within {room.words}.", **numbers)
    if _quantized_at_start(context, arguments):
        return Outcome.not_checked(
            f"{sentence}: more than {room.words}, but --quantization makes them smaller, by how much is not known.",
            **numbers,
        )
    return Outcome.failed(f"{sentence}: more than {room.words} ({amount(room.size)}).", **numbers)


def _quantized_at_start(context: Context, arguments: EngineArguments) -> bool:
    if context.engine not in READS_CONFIG or arguments.text("--quantization") is None:
        return False
    try:
        return quantization.of_folder(context.folder, ModelConfig.of(context.folder)) is None
    except Unreadable:
        return False
