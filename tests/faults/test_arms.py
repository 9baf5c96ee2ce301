"""Three versions compared on real traffic, while the product and one of the compared servers are killed."""

from __future__ import annotations

import json
from collections import Counter

import httpx
import pytest

from rollouts.bucketing import Lane, bucket, cuts_of, is_held_out, owner
from tests.product import ENVIRONMENT, MODEL, Product, until

pytestmark = pytest.mark.faults

USERS = [f"user-{i}" for i in range(150)]


def names_of(product: Product, rollout: int) -> dict[str, str]:
    """Deployment → arm."""
    seen = product.seen(rollout)
    arms = {arm["deployment"]: arm["name"] for arm in seen["arms"]}
    return {**arms, f"{MODEL}-v{seen['previous_version']}-{ENVIRONMENT}": "stable"}


def met(product: Product, rollout: int, **headers: str) -> list[str]:
    """The arm that answers each user, by the user's own header."""
    names = names_of(product, rollout)
    with httpx.Client(base_url=product.stage.gateway, headers={"authorization": f"Bearer {product.key}"}) as client:
        found = []
        for user in USERS:
            said = {"x-user-id": user, **{name.replace("_", "-"): value for name, value in headers.items()}}
            answer = client.get(f"/{ENVIRONMENT}/{MODEL}/v1/models", headers=said)
            assert answer.status_code == 200, answer.text
            found.append(names[answer.headers["x-deploypipe-version"]])
    return found


def assert_drawn(product: Product, found: list[str]) -> None:
    """As the pure function says, but for those who are held out."""
    table = json.loads((product.stage.folder / "gateway" / "xds" / "routes.json").read_text())
    (routes,) = [host["routes"] for host in table["resources"][0]["virtual_hosts"]]
    facts = [said for route in routes for said in route.get("metadata", {}).get("filter_metadata", {}).values()]
    (salt,) = {said["salt"] for said in facts if (said["environment"], said["model"]) == (ENVIRONMENT, MODEL)}
    cuts = cuts_of(6_000, [Lane("candidate"), Lane("candidate-2"), Lane("candidate-3")])
    for user, arm in zip(USERS, found, strict=True):
        drawn = owner(bucket(user, salt=salt), cuts)
        assert arm == ("stable" if is_held_out(user, model=MODEL, share=1_000) else drawn), user


def groups(product: Product) -> Counter[str | None]:
    lines = (product.stage.folder / "gateway" / "access.log").read_text().splitlines()
    return Counter(json.loads(line)["group"] for line in lines if line.startswith("{") and "group" in line)


def test_arm_that_is_killed_leaves_alone_and_a_killed_product_goes_on_with_the_others(product: Product) -> None:
    versions = [product.approved(kind="trigram") for _ in range(3)]
    own, *others = (version["number"] for version in versions)
    asked = {
        "model": MODEL, "version": own, "environment": ENVIRONMENT, "purpose": "experiment", "arms": others,
        "steps": [{"setWeight": 60}, {"pause": {}}],
        "routing": {"by": "header", "name": "x-user-id"}, "holdout_percent": 10,
    }  # fmt: skip
    rollout = int(product.api.post("rollouts/", "cy", asked)["id"])
    product.reached(rollout, 1)
    before = met(product, rollout)
    assert set(before) == {"candidate", "candidate-2", "candidate-3", "stable"}
    assert set(met(product, rollout, x_deploypipe_arm="candidate-3")) == {"candidate-3"}
    assert_drawn(product, before)

    product.kill_main()
    product.stage.start()
    assert met(product, rollout) == before
    product.server(versions[1]).kill()
    until(lambda: not product.seen(rollout)["arms"][1]["on"], seconds=60, what="the second arm's leaving")
    seen = product.seen(rollout)
    assert (seen["status"], seen["arms"][1]["cause"]) == ("progressing", "health")
    left = ["stable" if arm == "candidate-2" else arm for arm in before]
    until(lambda: met(product, rollout) == left, seconds=15, what="its share going to the stable version")
    until(lambda: groups(product)["forced"] == len(USERS), seconds=5, what="the records of forced requests")
    assert groups(product)["holdout"] > 0

    product.api.post(f"rollouts/{rollout}/promote/", "cy", {"reason": "Enough was seen."})
    assert product.ended(rollout)["status"] == "succeeded"
    assert set(met(product, rollout)) == {"stable"}
