"""What people do in the browser, from the report to the end of a rollout, on the real product."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.product import Product

pytestmark = pytest.mark.e2e

SignedIn = Callable[[str], Page]
WAIT_MS = 60_000


def confirm(page: Page, verb: str, reason: str) -> None:
    """Open the verb's dialog, say why, confirm."""
    page.locator("summary.btn", has_text=verb).click()
    form = page.locator("details[open] form, dialog[open] form").filter(visible=True)
    form.get_by_role("textbox").fill(reason)
    form.get_by_role("button", name=verb, exact=True).click()


def points_on_charts(page: Page) -> int:
    count: int = page.evaluate(
        "() => [...document.querySelectorAll('.js-plotly-plot')]"
        ".flatMap(p => p.data).reduce((n, t) => n + (t.x || []).length, 0)"
    )
    return count


def test_bo_approves_cy_rolls_out_and_aborts_and_dee_watches_it_live(product: Product, signed_in: SignedIn) -> None:
    version = product.examined(product.registered(kind="trigram"))

    bo = signed_in("bo")
    bo.goto(f"/versions/{version['id']}/")
    bo.locator("summary").filter(has=bo.get_by_role("heading", name="Security")).click()
    expect(bo.get_by_role("rowheader").filter(has_text="A key is required")).to_be_visible()
    confirm(bo, "Approve", "Better on held-out text, as fast.")
    expect(bo.get_by_role("heading", level=1)).to_contain_text("Approved", timeout=WAIT_MS)

    cy = signed_in("cy")
    cy.goto(f"/rollouts/new/?version={version['id']}")
    cy.get_by_label("Environment").select_option(label="production")
    cy.get_by_label("canary", exact=True).check()
    cy.get_by_role("button", name="Request the rollout").click()
    cy.wait_for_url(re.compile(r"/rollouts/\d+/$"))
    dee = signed_in("dee")
    dee.goto(cy.url)
    dee.evaluate("window.sameDocument = true")
    with product.traffic():
        expect(dee.get_by_text("10 % is in force at the gateway.").first).to_be_visible(timeout=WAIT_MS)
        expect(dee.locator(".js-plotly-plot").first).to_be_visible(timeout=WAIT_MS)
        before = points_on_charts(dee)
        dee.wait_for_function(
            "before => [...document.querySelectorAll('.js-plotly-plot')]"
            ".flatMap(p => p.data).reduce((n, t) => n + (t.x || []).length, 0) > before + 4",
            arg=before,
            timeout=10_000,
        )
        confirm(cy, "Abort", "Only a test of the browser.")
        expect(dee.get_by_role("heading", level=1)).to_contain_text("Rolled back", timeout=WAIT_MS)
    expect(dee.get_by_text("Only a test of the browser.").first).to_be_visible()
    assert dee.evaluate("window.sameDocument") is True, "the page changed without being loaded again"


def test_ana_cannot_approve_her_own_version_and_reads_why(product: Product, signed_in: SignedIn) -> None:
    version = product.examined(product.registered())
    ana = signed_in("ana")
    ana.goto(f"/versions/{version['id']}/")
    expect(ana.get_by_role("button", name="Approve")).to_be_disabled()


def test_eve_who_has_no_role_sees_nothing(product: Product, signed_in: SignedIn) -> None:
    eve = signed_in("eve")
    answer = eve.goto("/models/")
    assert answer is not None
    assert answer.status == 403
    expect(eve.get_by_text("you do not have it")).to_be_visible()


def test_the_audit_page_says_that_the_chain_is_whole(product: Product, signed_in: SignedIn) -> None:
    dee = signed_in("dee")
    dee.goto("/audit/")
    expect(dee.get_by_role("table")).to_contain_text("registered")
