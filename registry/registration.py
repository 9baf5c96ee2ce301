"""What may be registered: the parts of a version that people type. Each check raises Invalid naming its field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deploypipe.core.errors import Invalid
from registry import artifacts
from registry.engines import ENGINES

OURS = ("--api-key", "--host", "--port")
"""Arguments that the product gives: the key by environment variable, the address by the target."""

LONGEST_TAG_KEY, LONGEST_TAG_VALUE = 100, 500


def engine(name: str, arguments: Sequence[str]) -> None:
    if name not in ENGINES:
        raise Invalid("The engine is not known.", fields={"engine": f"{name!r}: use one of {', '.join(ENGINES)}"})
    for index, argument in enumerate(arguments):
        if (word := argument.partition("=")[0]) in OURS:
            right = f"leave {word} out: deploypipe itself says where the server listens and by which key"
            raise Invalid("The engine's arguments are not usable.", fields={f"engine_arguments[{index}]": right})


def tags(given: Mapping[str, str]) -> Mapping[str, str]:
    faults = {}
    for key, value in given.items():
        if not 0 < len(key.strip()) <= LONGEST_TAG_KEY:
            faults[f"tags.{key[:LONGEST_TAG_KEY]}"] = f"give a key of 1 to {LONGEST_TAG_KEY} characters"
        elif len(value) > LONGEST_TAG_VALUE:
            faults[f"tags.{key}"] = f"give a value of at most {LONGEST_TAG_VALUE} characters"
    if faults:
        raise Invalid("The tags are not usable.", fields=faults)
    return given


def manifest(artifact_uri: str, given: Mapping[str, Any] | None) -> artifacts.Manifest:
    """The one that was given, or that of the bytes as they are now."""
    try:
        folder = artifacts.local_path(artifact_uri)
    except artifacts.ArtifactError as error:
        raise Invalid("The artifact's address is not usable.", fields={"artifact_uri": str(error)}) from None
    try:
        return artifacts.parse(given) if given is not None else artifacts.build(folder)
    except artifacts.ArtifactError as error:
        field = "artifact_uri" if given is None else "manifest"
        raise Invalid("The artifact cannot be registered.", fields={field: str(error)}) from None
