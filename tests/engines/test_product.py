"""A real model on a real engine through the whole product: registered, examined, and the answer read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.story.client import Json
from tests.engines.serving import Launch
from tests.engines.test_llamacpp import EXPECTED, POLICY
from tests.product import Product, until

pytestmark = [pytest.mark.engine, pytest.mark.faults]

SET = {
    "max_latency_ms": POLICY.max_latency_ms,
    "min_throughput_tokens_sec": POLICY.min_throughput_tokens_sec,
    "max_memory_gb": POLICY.max_memory_gb,
    "load": {"requests_per_second": 2.0, "seconds": 5.0, "warm_up_requests": 2, "max_tokens": 16},
}
ELSEWHERE = ("quality.held_out",)  # its file lies in the folder of the product, and there is none here


@pytest.fixture(scope="module")
def product(llama_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    path = f"{llama_programs}{os.pathsep}{os.environ['PATH']}"
    product = Product(tmp_path_factory.mktemp("product"), PATH=path)
    try:
        yield product
    finally:
        product.api.close()
        product.stage.stop()
        for process in product.stage.tree():
            process.kill()


@pytest.fixture(scope="module")
def version(product: Product, smollm2: Launch) -> Json:
    """As it is after its examination."""
    product.api.post("models/", "ana", {"name": "smollm2"})
    product.api.post("policies/", "bo", {"model": "smollm2", "values": SET, "note": "what two cores can do"})
    body: dict[str, Any] = {"artifact_uri": smollm2.artifact.as_uri(), "engine": "llamacpp"}
    body["engine_arguments"] = list(smollm2.arguments)
    registered = product.api.post("models/smollm2/versions/", "ana", body)
    return product.examined(registered)


@pytest.fixture(scope="module")
def results(product: Product, version: Json) -> dict[str, Json]:
    report = product.api.get(f"versions/{version['id']}/report/")
    return {result["name"]: result for result in report["results"]}


def test_examination_ends_as_at_the_command_line(results: dict[str, Json]) -> None:
    expected = {name: status.value for name, status, _ in EXPECTED if name not in ELSEWHERE}
    found = {name: result["status"] for name, result in results.items() if name not in ELSEWHERE}
    assert found == expected, {name: results[name]["reason"] for name in results if found[name] != expected[name]}


def test_version_says_what_it_was_blocked_for(version: Json) -> None:
    assert version["stage"] == "blocked"
    assert version["qa_sentence"].startswith("Blocked: ")
    assert "an unknown model: answered 200" in version["qa_sentence"]


def test_the_server_of_the_examination_is_gone(product: Product, version: Json) -> None:
    until(
        lambda: not any("llama_server.py" in " ".join(process.cmdline()) for process in product.stage.tree()),
        seconds=20,
        what="the end of the examination's server",
    )
