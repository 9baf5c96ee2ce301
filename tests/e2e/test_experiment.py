"""Experiments on real traffic, as people start, watch and steer them in the browser."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.test_journey import WAIT_MS, SignedIn, confirm, points_on_charts
from tests.product import ENVIRONMENT, MODEL, Product, until

pytestmark = pytest.mark.e2e

SETTINGS = {
    "goals": [{"metric": "error_rate", "aim": "non_inferiority", "margin_points": 5.0}],
    "guardrails": [{"metric": "error_rate", "limit": 20.0}],
    "min_requests": 100,
}
ENDLESS = {**SETTINGS, "min_requests": 1_000_000}


def choose(page: Page, label: str, words: str) -> None:
    """The option of a list whose text contains the words."""
    field = page.get_by_label(label, exact=True)
    options = field.locator("option").all_text_contents()
    field.select_option(label=next(option for option in options if words in option))


def test_ana_forecasts_and_starts_it_and_dee_watches_it_end(product: Product, signed_in: SignedIn) -> None:
    version = product.approved(kind="trigram")
    name = f"{MODEL} v{version['number']}"
    ana, dee = signed_in("ana"), signed_in("dee")
    with product.traffic() as report:
        until(lambda: _measured(product) > 20, seconds=60, what="requests of which the forecast knows")
        ana.goto("/experiments/")
        ana.get_by_role("link", name="New experiment").click()
        forecast = ana.locator("#forecast")
        expect(forecast).to_contain_text("Choose a version.")
        choose(ana, "Candidate", f"{name} ")
        choose(ana, "Environment", ENVIRONMENT)
        expect(forecast).to_contain_text("An identical version is promoted after about", timeout=WAIT_MS)

        ana.get_by_label("Preset").select_option(label="The mission’s criteria")
        expect(ana.get_by_label("Success rate is below, %")).to_have_value("95")
        expect(forecast).to_contain_text("the rating is at least 4 stars")
        ana.get_by_label("Preset").select_option(label="Errors")
        expect(ana.get_by_label("Success rate is below, %")).to_have_value("")
        ana.get_by_label("Error rate rises by less than", exact=True).fill("5")
        expect(forecast).to_contain_text("The error rate rises by less than 5 points")

        ana.get_by_label("Minutes at least").fill("soon")
        expect(forecast).to_contain_text("“soon” cannot be used")
        ana.get_by_role("button", name="Start the experiment").click()
        expect(ana.get_by_role("form")).to_contain_text("The experiment was not started.")
        expect(ana.get_by_label("Minutes at least")).to_have_value("soon")
        expect(ana.get_by_label("Minutes at least")).to_have_attribute("aria-invalid", "true")
        ana.get_by_label("Minutes at least").fill("0")
        ana.get_by_label("Requests at least").fill("300")
        ana.get_by_role("button", name="Start the experiment").click()
        ana.wait_for_url(re.compile(r"/experiments/\d+/$"))

        dee.goto(ana.url)
        dee.evaluate("window.sameDocument = true")
        expect(dee.locator(".js-plotly-plot").first).to_be_visible(timeout=WAIT_MS)
        expect(dee.get_by_text("more sessions to a decision").first).to_be_visible(timeout=WAIT_MS)
        before = points_on_charts(dee)
        expect(dee.get_by_role("heading", level=1)).to_contain_text("Promote", timeout=90_000)
        assert points_on_charts(dee) > before, "the charts went on while one looked"
        ended = until(
            lambda: product.api.get(f"rollouts/{_rollout(product, dee)}/")["status"] == "succeeded",
            seconds=60,
            what="that the live version has all traffic again",
        )
    assert ended
    assert dee.evaluate("window.sameDocument") is True, "the page changed without being loaded again"
    expect(dee.get_by_role("main")).to_contain_text("rises by less than 5 points")
    expect(dee.get_by_role("link", name="New rollout")).to_be_visible()
    assert report["answered_ok"] == report["sent"]


def _measured(product: Product) -> int:
    design = product.api.post("experiments/design/", "dee", {"model": MODEL, "environment": ENVIRONMENT})
    return int(design["traffic"]["requests"]) if design["traffic"] else 0


def _rollout(product: Product, page: Page) -> int:
    experiment = re.findall(r"/experiments/(\d+)/", page.url)[0]
    return int(product.api.get(f"experiments/{experiment}/")["rollout"])


def test_cy_takes_one_of_two_candidates_off_and_stops_the_rest(product: Product, signed_in: SignedIn) -> None:
    one, other = product.approved(kind="trigram"), product.approved(kind="bigram")
    cy = signed_in("cy")
    with product.traffic():
        body = {"model": MODEL, "version": one["number"], "arms": [other["number"]], "environment": ENVIRONMENT}
        experiment = product.api.post("experiments/", "ana", {**body, "traffic_percent": 60, "settings": ENDLESS})
        cy.goto(f"/experiments/{experiment['id']}/")
        candidates = cy.locator("section", has=cy.get_by_role("heading", name="Candidates"))
        row = candidates.get_by_role("row").filter(has=cy.get_by_role("rowheader", name=f"v{other['number']} "))
        expect(row).to_contain_text("Open", timeout=WAIT_MS)
        expect(cy.locator(".js-plotly-plot .legendtext").first).to_contain_text(f"{MODEL} v", timeout=WAIT_MS)

        row.locator("summary.btn", has_text="Take off").click()
        form = cy.locator("dialog[open] form")
        form.get_by_role("textbox").fill("It repeats itself.")
        cy.wait_for_timeout(1500)  # the panel behind the dialog is replaced meanwhile, and the reason must survive it
        expect(form.get_by_role("textbox")).to_have_value("It repeats itself.")
        form.get_by_role("button", name="Take off", exact=True).click()
        expect(row).to_contain_text("Taken off", timeout=WAIT_MS)
        expect(cy.get_by_role("main")).to_contain_text("It repeats itself.")

        confirm(cy, "Stop", "Enough was seen.")
        expect(cy.get_by_role("heading", level=1)).to_contain_text("Stopped", timeout=WAIT_MS)
        product.ended(experiment["rollout"])


def test_evidence_that_dee_downloads_can_be_replayed(product: Product, signed_in: SignedIn) -> None:
    version = product.approved(kind="trigram")
    with product.traffic():
        body = {"model": MODEL, "version": version["number"], "environment": ENVIRONMENT, "settings": SETTINGS}
        experiment = product.api.post("experiments/", "ana", body)
        product.ended(experiment["rollout"])
    dee = signed_in("dee")
    dee.goto(f"/experiments/{experiment['id']}/")
    with dee.expect_download() as download:
        dee.get_by_role("link", name="download the evidence").click()
    assert download.value.suggested_filename == f"experiment-{experiment['id']}-evidence.json"
    evidence = json.loads(download.value.path().read_text())
    assert evidence["looks"][-1]["verdict"] == "promote"
    assert evidence["looks"][-1]["sentence"] == product.api.get(f"experiments/{experiment['id']}/")["sentence"]
