"""What `config.json`, the tokenizer's files and the engine's arguments say about whether the engine can serve."""

from __future__ import annotations

from typing import Any

from registry.qa.base import Check, Context, Finding, Hardware, Outcome, Severity
from registry.qa.builtin.exchange import listed
from registry.qa.catalogue import check
from registry.qa.files import known, quantization, remote_code, tokenizer
from registry.qa.files.arguments import EngineArguments
from registry.qa.files.config import ModelConfig
from registry.qa.files.known import Support
from registry.qa.files.reading import Unreadable, shown
from registry.qa.parameters import Parameter

CATEGORY = "compatibility"
READS_CONFIG = ("aphrodite", "vllm")
"""The engines that load a folder as transformers writes it."""
_ENGINE_LIST = f"Aphrodite {known.VERSION}"


class ConfigCheck(Check):
    """A check that asks the model's configuration something, of an engine that goes by it."""

    category = CATEGORY
    required = False
    needs_artifact = True
    timeout = 30.0

    def run(self, context: Context) -> Outcome:
        if context.engine not in READS_CONFIG:
            return Outcome.not_applicable(
                f"The engine {context.engine} does not go by config.json; Aphrodite and vLLM do."
            )
        try:
            config = ModelConfig.of(context.folder)
        except Unreadable as problem:
            return self.without_config(context, f"config.json {problem}")
        try:
            outcome = self.judge(context, config, EngineArguments(context.engine_arguments))
        except Unreadable as problem:
            return Outcome.failed(f"The engine would refuse to start: {problem}.")
        return outcome

    def without_config(self, context: Context, problem: str) -> Outcome:
        if kind := other_format(context):
            return Outcome.not_applicable(f"There is no config.json: {kind} brings its own description.")
        return Outcome.not_checked(f"{problem}.")

    def judge(self, context: Context, config: ModelConfig, arguments: EngineArguments) -> Outcome:
        raise NotImplementedError


def other_format(context: Context) -> str:
    """What the folder holds instead of config.json and the files that go with it; empty where nothing."""
    if (context.folder / "config.json").exists():
        return ""
    if (context.folder / "params.json").is_file():
        return "params.json"
    return next((path.name for path in sorted(context.folder.glob("*.gguf"))), "")


@check
class Architecture(ConfigCheck):
    name = "compatibility.architecture"
    label = "The engine knows the architecture"
    weight = 1.0

    def without_config(self, context: Context, problem: str) -> Outcome:
        if other_format(context):
            return super().without_config(context, problem)
        return Outcome.failed(f"{problem}, so {context.engine} cannot tell what model this is.")

    def judge(self, context: Context, config: ModelConfig, arguments: EngineArguments) -> Outcome:
        names = config.architectures
        if not names:
            return Outcome.failed(f"config.json names no architecture, so {context.engine} cannot tell what this is.")
        support, name = known.architectures().support(names)
        evidence = {"architectures": names[:5], "support": support.value, "list": _ENGINE_LIST}
        stands_in = "" if context.engine == known.ENGINE else f"; that list stands in for the one of {context.engine}"
        match support:
            case Support.NATIVE | Support.TRANSFORMERS:
                how = "native" if support is Support.NATIVE else "served through Transformers"
                return Outcome.passed(f"{name} is {how} in {_ENGINE_LIST}{stands_in}.", evidence=evidence)
            case Support.REMOVED:
                return _removed(context, name, evidence)
            case Support.PLUGIN:
                sentence = f"{name} is served by {_ENGINE_LIST} with a plugin only{stands_in}."
                action = f"Install the plugin for {name} beside the engine."
            case Support.UNKNOWN:
                like = known.architectures().like(name)
                hint = f"; is {like} meant?" if like else ""
                sentence = f"{name} is not on the list of {_ENGINE_LIST}{stands_in}{hint or '.'}"
                action = "See whether it starts through the Transformers backend (--model-impl transformers)."
        finding = Finding(Severity.MEDIUM, sentence, action)
        return Outcome.passed(f"{sentence} {_MAY_DO[support]}", evidence=evidence, findings=(finding,))


_MAY_DO = {
    Support.PLUGIN: "Whether the plugin is there is seen when the server starts.",
    Support.UNKNOWN: "The Transformers backend may do; the running server shows it.",
}


def _removed(context: Context, name: str, evidence: dict[str, Any]) -> Outcome:
    last = known.architectures().last_version[name]
    evidence = {**evidence, "last_version": last}
    if context.engine == known.ENGINE:
        return Outcome.failed(
            f"{name} is no longer served: {_ENGINE_LIST} says that {last} was the last version with it.",
            evidence=evidence,
            findings=(
                Finding(
                    Severity.HIGH,
                    f"{name} was removed from the engine after {last}.",
                    "Serve it with an older engine, or see whether --model-impl transformers does.",
                ),
            ),
        )
    # vLLM removes at other times than the list that is at hand; its own server will tell.
    sentence = f"{name} was removed from {_ENGINE_LIST} after {last}, and may be gone from {context.engine}, too."
    return Outcome.passed(
        f"{sentence} The running server shows it.",
        evidence=evidence,
        findings=(Finding(Severity.MEDIUM, sentence, "See that the engine's version still has it."),),
    )


@check
class RemoteCode(ConfigCheck):
    name = "compatibility.remote_code"
    label = "The model needs no code of its own"
    weight = 0.5
    parameters = (
        Parameter(
            "allow_remote_code", bool, False, "Whether a model may bring Python code that the engine runs at start-up."
        ),
    )

    def judge(self, context: Context, config: ModelConfig, arguments: EngineArguments) -> Outcome:
        asked = remote_code.of_folder(context.folder)
        trusted = arguments.on("--trust-remote-code")
        evidence = {
            "auto_map": [f"{one.file}: {one.reference}" for one in asked[:20]],
            "trust_remote_code": trusted,
        }
        if not asked:
            return _without_code(trusted, evidence)
        findings = tuple(_code_findings(context, asked, trusted))
        names = listed(sorted({one.reference for one in asked}), 3)
        if context.parameter(self, "allow_remote_code"):
            return Outcome.passed(
                f"The policy allows the model's own code: {names}.", evidence=evidence, findings=findings
            )
        support, name = known.architectures().support(config.architectures)
        if support is Support.NATIVE and not trusted:
            return Outcome.passed(
                f"auto_map names {names}, but the engine has its own code for {name} and is started without "
                "--trust-remote-code, so none of that runs.",
                evidence=evidence,
                findings=findings,
            )
        how = "is started with" if trusted else "needs"
        return Outcome.failed(
            f"The engine {how} --trust-remote-code, to run the model's own code ({names}); the policy does not "
            "allow it.",
            evidence=evidence,
            findings=findings,
        )


def _without_code(trusted: bool, evidence: dict[str, Any]) -> Outcome:
    if not trusted:
        return Outcome.passed("No auto_map: the model brings no code of its own.", evidence=evidence)
    sentence = "The engine is started with --trust-remote-code, and this model has no code of its own."
    finding = Finding(Severity.LOW, sentence, "Leave --trust-remote-code out of the engine's arguments.")
    return Outcome.passed(sentence, evidence=evidence, findings=(finding,))


def _code_findings(context: Context, asked: list[remote_code.RemoteCode], trusted: bool) -> list[Finding]:
    found = [
        Finding(
            Severity.HIGH if trusted else Severity.LOW,
            f"{asked[0].file} asks the engine to run {asked[0].reference}.",
            "Read that code before the version is approved, or use weights for an architecture that the engine knows.",
        )
    ]
    if away := [one for one in asked if one.elsewhere]:
        found.append(
            Finding(
                Severity.HIGH,
                f"{away[0].reference} is fetched from elsewhere when the engine starts: no digest covers it.",
                "Put a copy of the code into the folder and name it there.",
            )
        )
    if gone := [one for one in asked if not one.elsewhere and not (context.folder / one.module).is_file()]:
        found.append(
            Finding(
                Severity.MEDIUM,
                f"{gone[0].file} names {gone[0].reference}, and {gone[0].module} is not in the folder.",
                "Add the file, or take the entry out of auto_map.",
            )
        )
    return found


@check
class Quantization(ConfigCheck):
    name = "compatibility.quantization"
    label = "The engine and the GPU know the quantization"
    weight = 0.5

    def without_config(self, context: Context, problem: str) -> Outcome:
        if other_format(context).endswith(".gguf"):
            return _judged(context, "gguf", other_format(context))
        return super().without_config(context, problem)

    def judge(self, context: Context, config: ModelConfig, arguments: EngineArguments) -> Outcome:
        found = quantization.of_folder(context.folder, config)
        asked = arguments.text("--quantization")
        if found is None and asked is None:
            return Outcome.not_applicable("The weights are not quantized, and the engine is not asked to do it.")
        if found is not None and not found.method:
            return Outcome.failed(f"{found.file} has a quantization without a quant_method, so no engine can load it.")
        if found is None or (asked is not None and asked not in known.methods(context.engine)):
            return _judged(context, str(asked).lower(), "--quantization")
        outcome = _judged(context, found.method, found.file)
        if asked is None or _same_family(asked, found.method):
            return outcome
        return Outcome.failed(
            f"{found.file} says {found.method} and --quantization says {asked}: the engine refuses to start.",
            evidence={**outcome.evidence, "asked": asked},
        )


def _same_family(one: str, other: str) -> bool:
    """gptq_marlin loads what gptq made, and moe_wna16 what either did."""
    roots = {name.removeprefix("auto_").partition("_")[0].partition("-")[0] for name in (one.lower(), other.lower())}
    return len(roots) == 1 or "moe" in roots or "inc" in roots or "auto" in roots or "marlin" in roots


def _judged(context: Context, method: str, source: str) -> Outcome:
    methods = known.methods(context.engine)
    minimum = known.minimum_capability().get(method)
    evidence: dict[str, Any] = {"method": method, "source": source, "minimum_capability": minimum, "list": _ENGINE_LIST}
    if method not in methods:
        near = known.nearest(method, methods)
        hint = f"; {near} is the nearest that is known" if near else ""
        whose = _ENGINE_LIST if context.engine == known.ENGINE else f"neither {_ENGINE_LIST} nor vLLM"
        does = "does not know it" if context.engine == known.ENGINE else "knows it"
        return Outcome.failed(
            f"{source} says that the weights are quantized with {shown(method)}: {whose} {does}{hint}.",
            evidence=evidence,
        )
    if minimum is None:
        return Outcome.passed(f"The quantization {method} ({source}) is known to {context.engine}.", evidence=evidence)
    return _on_gpu(context.hardware, method, minimum, evidence)


def _on_gpu(hardware: Hardware | None, method: str, minimum: int, evidence: dict[str, Any]) -> Outcome:
    needs = f"a GPU of compute capability {minimum / 10:g}"
    has = hardware.compute_capability if hardware else None
    if has is None:
        sentence = f"{method} needs {needs}; what the GPU can is not declared."
        finding = Finding(Severity.LOW, sentence, "Declare compute_capability in the target's hardware.")
        return Outcome.passed(
            f"The quantization {method} is known. It needs {needs}, and what the GPU can is not declared.",
            evidence=evidence,
            findings=(finding,),
        )
    numbers: dict[str, Any] = {"value": has / 10, "limit": minimum / 10, "unit": "compute capability"}
    if has < minimum:
        return Outcome.failed(
            f"{method} needs {needs} at least; this one has {has / 10:g}.", evidence=evidence, **numbers
        )
    return Outcome.passed(f"{method} needs {needs}; this one has {has / 10:g}.", evidence=evidence, **numbers)


@check
class ContextLength(ConfigCheck):
    name = "compatibility.context_length"
    label = "The context length is the model's own"
    weight = 0.5

    def judge(self, context: Context, config: ModelConfig, arguments: EngineArguments) -> Outcome:
        asked, own = arguments.whole("--max-model-len"), config.context_length
        if own is None:
            return Outcome.not_applicable("config.json does not say how many tokens the model can look at.")
        most, how = own
        evidence = {"max_model_len": asked, "model": most, "from": how}
        if asked is None:
            beside = " (--config may set another)" if arguments.from_file else ""
            return Outcome.passed(
                f"The engine takes the model's own {most:,} tokens ({how}){beside}.", evidence=evidence
            )
        numbers: dict[str, Any] = {"value": float(asked), "limit": float(most), "unit": "tokens"}
        if asked > most:
            return Outcome.failed(
                f"--max-model-len {asked:,} is more than the {most:,} tokens that the model can look at ({how}): the "
                "engine refuses to start.",
                evidence=evidence,
                **numbers,
            )
        return Outcome.passed(
            f"--max-model-len {asked:,} is within the {most:,} tokens of the model ({how}).",
            evidence=evidence,
            **numbers,
        )


@check
class Parallelism(ConfigCheck):
    name = "compatibility.parallelism"
    label = "The model can be divided among the GPUs"
    weight = 0.5

    def judge(self, context: Context, config: ModelConfig, arguments: EngineArguments) -> Outcome:
        sizes = {name: arguments.size(f"--{name}-parallel-size") for name in ("tensor", "pipeline", "data")}
        tensor, gpus = sizes["tensor"], sizes["tensor"] * sizes["pipeline"] * sizes["data"]
        evidence = {**sizes, "heads": config.heads, "kv_heads": config.kv_heads, "layers": config.layers}
        if gpus == 1:
            return Outcome.not_applicable("The engine runs on one device, so nothing is divided.", evidence=evidence)
        if problems := _division_problems(config, sizes) + _too_few(context.hardware, gpus):
            return Outcome.failed(f"The engine cannot start: {'; '.join(problems)}.", evidence=evidence)
        if config.heads is None and tensor > 1:
            return Outcome.not_checked(
                f"config.json does not count the attention heads, so whether {tensor} devices can share them is open.",
                evidence=evidence,
            )
        heads = f"{config.heads} attention heads are divided among {tensor}, and " if tensor > 1 else ""
        return Outcome.passed(f"{heads}{gpus} devices are used.", evidence=evidence)


def _division_problems(config: ModelConfig, sizes: dict[str, int]) -> list[str]:
    tensor, pipeline = sizes["tensor"], sizes["pipeline"]
    found: list[str] = []
    if config.heads and config.heads % tensor:
        found.append(f"{config.heads} attention heads cannot be divided among {tensor} (--tensor-parallel-size)")
    elif config.kv_heads and config.kv_heads % tensor and tensor % config.kv_heads:
        found.append(
            f"{config.kv_heads} heads of keys and values cannot be divided among {tensor}, nor repeated evenly"
        )
    if config.layers and config.layers < pipeline:
        found.append(f"{config.layers} layers cannot be divided among {pipeline} (--pipeline-parallel-size)")
    return found


def _too_few(hardware: Hardware | None, wanted: int) -> list[str]:
    there = hardware.gpus if hardware else 0
    return [f"{wanted} GPUs are asked for and {there} are there"] if 0 < there < wanted else []


@check
class Tokenizer(ConfigCheck):
    name = "compatibility.tokenizer"
    label = "Tokenizer and chat template are there"
    weight = 1.0

    def judge(self, context: Context, config: ModelConfig, arguments: EngineArguments) -> Outcome:
        if arguments.on("--skip-tokenizer-init"):
            return Outcome.not_applicable("The engine is started with --skip-tokenizer-init and takes tokens only.")
        found = tokenizer.of_folder(context.folder)
        elsewhere = arguments.text("--tokenizer")
        template = "--chat-template" if arguments.text("--chat-template") else found.template
        size = config.whole("vocab_size")
        evidence = {"vocabulary": found.vocabulary, "template": template, "tokens": found.tokens, "vocab_size": size}
        if found.problems:
            return Outcome.failed(f"{'; '.join(found.problems[:5])}.", evidence=evidence)
        if elsewhere is None and not found.vocabulary:
            return Outcome.failed(
                "There is no tokenizer: no tokenizer.json, tokenizer.model, vocab.json with merges.txt or the like.",
                evidence=evidence,
            )
        findings = tuple(_tokenizer_findings(elsewhere, template, found.tokens, size))
        where = f"The tokenizer is taken from {elsewhere}" if elsewhere else f"{found.vocabulary} holds the tokenizer"
        and_template = f"{template} the chat template" if template else "there is no chat template, so chat is refused"
        return Outcome.passed(f"{where}; {and_template}.", evidence=evidence, findings=findings)


def _tokenizer_findings(elsewhere: str | None, template: str, tokens: int | None, size: int | None) -> list[Finding]:
    found: list[Finding] = []
    if elsewhere:
        found.append(
            Finding(
                Severity.MEDIUM,
                f"The tokenizer comes from {elsewhere}, which no digest covers.",
                "Put the tokenizer's files into the folder.",
            )
        )
    if not template:
        found.append(
            Finding(
                Severity.MEDIUM,
                "There is no chat template: /v1/chat/completions answers 400.",
                "Add chat_template.jinja, or start the engine with --chat-template; a base model may do without.",
            )
        )
    if tokens and size and tokens > size:
        found.append(
            Finding(
                Severity.HIGH,
                f"tokenizer.json has tokens up to number {tokens - 1:,} and the model only {size:,} (vocab_size).",
                "Use the tokenizer that the model was trained with.",
            )
        )
    return found
