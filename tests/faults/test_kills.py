"""SIGKILL and SIGSTOP, at the worst moment, of each part of the running product."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from registry.qa.catalogue import all_checks
from tests.product import MODEL, Product, until

pytestmark = pytest.mark.faults


def failed(report: dict[str, object]) -> object:
    return {k: report[k] for k in ("stream_errors", "http_errors", "transport_errors", "empty")}


NOTHING = {"stream_errors": 0, "http_errors": {}, "transport_errors": {}, "empty": 0}


def test_killing_web_and_worker_in_a_canary_costs_no_request_and_the_restart_completes_it(product: Product) -> None:
    version = product.approved(kind="trigram")
    with product.traffic() as report:
        rollout = product.rollout(version)
        product.reached(rollout, 1)
        candidate, envoy = product.server(version), product.envoy
        product.kill_main()
        product.stage.start()
        ended = product.ended(rollout)
    assert ended["status"] == "succeeded", ended["reason"]
    assert product.server(version) == candidate, "the model server was adopted, not started anew"
    assert product.envoy == envoy, "the gateway was adopted, not started anew"
    assert failed(report) == NOTHING
    assert report["answered_ok"] == report["sent"]


def test_killing_the_whole_tree_in_a_canary_the_restart_completes_it_with_every_request_answered(
    product: Product,
) -> None:
    version = product.approved(kind="trigram")
    with product.traffic("--retry-cut") as report:
        rollout = product.rollout(version)
        product.reached(rollout, 1)
        product.kill_tree()
        product.stage.start()
        ended = product.ended(rollout)
    assert ended["status"] == "succeeded", ended["reason"]
    assert report["retries"] > 0, "the gateway was gone for a while"
    assert failed(report) == NOTHING
    assert report["answered_ok"] == report["sent"]


def test_a_kill_during_an_examination_the_restart_examines_again(product: Product) -> None:
    version = product.registered()
    product.api.post(f"versions/{version['id']}/examine/", "ana")
    report = f"versions/{version['id']}/report/"
    until(lambda: (product.api.get(report) or {}).get("results"), seconds=30, what="a first result")
    product.kill_main()
    product.stage.start()
    seen = product.examined(version)
    assert seen["stage"] == "awaiting_approval", seen["qa_sentence"]
    names = [result["name"] for result in product.api.get(report)["results"]]
    assert len(names) == len(set(names)) == len(all_checks())


def test_a_candidate_that_hangs_while_its_health_route_would_answer_is_rolled_back_by_health(product: Product) -> None:
    version = product.approved(kind="trigram")
    with product.traffic():
        rollout = product.rollout(version, [{"setWeight": 10}, {"pause": {}}])
        product.reached(rollout, 1)
        server = product.server(version)
        server.send_signal(signal.SIGSTOP)
        try:
            ended = product.ended(rollout, seconds=30)
        finally:
            server.send_signal(signal.SIGCONT)
    assert (ended["status"], ended["cause"]) == ("rolled_back", "health")
    assert "not healthy" in ended["reason"]


def test_a_killed_candidate_is_rolled_back_by_health(product: Product) -> None:
    version = product.approved(kind="trigram")
    with product.traffic():
        rollout = product.rollout(version, [{"setWeight": 10}, {"pause": {}}])
        product.reached(rollout, 1)
        product.server(version).kill()
        ended = product.ended(rollout, seconds=15)
    assert (ended["status"], ended["cause"]) == ("rolled_back", "health")
    assert "KILL" in ended["reason"]


def test_a_killed_live_server_is_started_again(product: Product) -> None:
    live = product.live
    before = product.record(live)["identity"]
    product.server(live).kill()
    until(lambda: product.record(live)["identity"] != before, seconds=30, what="a new process of the live version")
    until(lambda: answers(product), seconds=30, what="an answer of the live version")


def test_a_killed_gateway_is_started_again_with_its_routes(product: Product) -> None:
    before = product.envoy
    assert before is not None
    before.kill()
    until(lambda: (new := product.envoy) and new != before, seconds=30, what="a new gateway")
    until(lambda: answers(product), seconds=30, what="an answer through the gateway")


def test_lines_that_are_no_record_are_counted_and_stop_nothing(product: Product) -> None:
    log = product.stage.folder / "gateway" / "access.log"
    before = metric(product, "deploypipe_gateway_records")
    with log.open("ab") as file:
        file.write(b"not json\n\xff\xfe\n{}\n")
    until(lambda: metric(product, "deploypipe_gateway_garbage_lines") >= 3, seconds=15, what="counting the garbage")
    assert answers(product)
    until(lambda: metric(product, "deploypipe_gateway_records") > before, seconds=15, what="counting the request after")


def test_somebody_edits_the_route_behind_our_back_and_it_is_put_right(product: Product) -> None:
    routes = product.stage.folder / "gateway" / "xds" / "routes.json"
    whole = routes.read_text()
    replacement = Path(f"{routes}.edited")
    replacement.write_text(whole.replace(f"/production/{MODEL}/", f"/production/{MODEL}-gone/"))
    replacement.rename(routes)
    until(lambda: routes.read_text() == whole, seconds=15, what="writing the routes again")
    until(lambda: answers(product), seconds=15, what="an answer of the live version")


def test_stopping_and_starting_again_serves_the_same_version_and_leaves_nothing_running(product: Product) -> None:
    live = product.live
    assert product.stage.stop() == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(product.stage.gateway, timeout=2)
    product.stage.start()
    until(lambda: answers(product), seconds=30, what="an answer of the live version")
    assert product.live == live


def answers(product: Product) -> bool:
    body = {"model": MODEL, "prompt": "The value of", "max_tokens": 4}
    headers = {"authorization": f"Bearer {product.key}"}
    try:
        answer = httpx.post(
            f"{product.stage.gateway}/production/{MODEL}/v1/completions", json=body, headers=headers, timeout=5
        )
    except httpx.TransportError:
        return False
    return answer.status_code == 200


def metric(product: Product, name: str) -> float:
    lines = httpx.get(f"{product.stage.url}/metrics", timeout=5).text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name))
