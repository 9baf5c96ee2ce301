"""Python code that a model folder asks its engine to run: the `auto_map` of its configuration files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.qa.files.reading import Unreadable, json_object

_FILES = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True, order=True)
class RemoteCode:
    file: str
    """The configuration file that asks for it."""
    reference: str
    """ "modeling_phi3.Phi3ForCausalLM", or "owner/name--module.Class" for one that is fetched from elsewhere."""

    @property
    def elsewhere(self) -> bool:
        return "--" in self.reference

    @property
    def module(self) -> str:
        """The file with the code, in the folder."""
        return f"{self.reference.rpartition('.')[0].replace('.', '/')}.py"


def of_folder(folder: Path) -> list[RemoteCode]:
    """A file that cannot be read asks for nothing: the checks that need it say so."""
    found: set[RemoteCode] = set()
    for name in _FILES:
        try:
            asked = json_object(folder / name).get("auto_map")
        except (Unreadable, FileNotFoundError):
            continue
        found |= {RemoteCode(name, reference) for reference in _references(asked)}
    return sorted(found)


def _references(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [reference for item in value.values() for reference in _references(item)]
    if isinstance(value, list):
        return [item for item in value if isinstance(item, str)]
    return []
