from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
from django.conf import settings
from playwright.sync_api import Browser, Page, sync_playwright

from tests.product import Product


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("These tests drive a real browser: apt-get install chromium")
    with sync_playwright() as playwright:
        # Tests may run as root in a container, where Chromium's own sandbox does not start.
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture
def signed_in(browser: Browser, product: Product) -> Iterator[Callable[[str], Page]]:
    """A page of its own for each person, signed in; fails when a page reports an error of its script or policy."""
    contexts = []
    faults: list[str] = []

    def sign_in(name: str) -> Page:
        context = browser.new_context(base_url=product.stage.url, viewport={"width": 1280, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None)
        page.goto("/sign-in/")
        page.get_by_label("User name").fill(name)
        page.get_by_label("Password").fill(settings.DEMO_PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        return page

    yield sign_in
    for context in contexts:
        context.close()
    assert not faults
