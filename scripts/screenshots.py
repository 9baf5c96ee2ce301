"""Pictures of the running product for the documents: `make run` in one terminal, `make screenshots` in another."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "screenshots"
SIZES = {"": (1280, 860), "-phone": (390, 844)}
PASSWORD = "deploypipe-demo"  # noqa: S105 -- of the demo accounts, shown on their sign-in page


def pages(page: Page) -> dict[str, str]:
    """Name of the picture → address. The rollouts of the demo story are found by the version that they carry."""
    page.goto("/models/textgen/")
    versions = page.locator("a[href^='/versions/']").evaluate_all(
        "links => Object.fromEntries(links.map(a => [a.textContent.trim(), a.getAttribute('href')]))"
    )
    page.goto("/experiments/")
    experiments = page.locator("th a[href^='/experiments/']").evaluate_all(
        "links => links.map(a => a.getAttribute('href'))"
    )
    page.goto("/rollouts/")
    rollouts = page.locator("a[href^='/rollouts/']").evaluate_all(
        "links => Object.fromEntries(links.map(a => [a.textContent.trim(), a.getAttribute('href')]))"
    )
    named = {"overview": "/", "models": "/models/textgen/", "audit": "/audit/", "policies": "/policies/"}
    named |= {"experiments": "/experiments/", "experiment-new": _filled_form(page)}
    if experiments:
        named["experiment"] = experiments[-1]  # of the story's version 2
    for name, text, found in (
        ("version", "v2", versions),
        ("version-blocked", "v4", versions),
        ("rollout", "textgen v2", rollouts),
        ("rollout-turned-back", "textgen v5", rollouts),
    ):
        address = next((href for label, href in found.items() if label.startswith(text)), None)
        if address:
            named[name] = address
    return named


def _filled_form(page: Page) -> str:
    """The form, with what its forecast needs."""
    page.goto("/experiments/new/")
    version, environment = (
        page.locator(f"[name={name}] option", has_text=words).first.get_attribute("value")
        for name, words in (("version", "textgen v"), ("environment", "production"))
    )
    return f"/experiments/new/?version={version}&environment={environment}"


def shoot(browser: Browser, url: str, theme: str, suffix: str, whole: bool) -> None:
    width, height = SIZES[suffix]
    context = browser.new_context(
        base_url=url, viewport={"width": width, "height": height}, color_scheme="dark" if theme == "dark" else "light"
    )
    page = context.new_page()
    page.goto("/sign-in/")
    page.get_by_label("User name").fill("cy")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    for name, address in pages(page).items():
        page.goto(address)
        page.wait_for_load_state("load")
        page.wait_for_timeout(1500)  # charts and panels that come after the page
        page.screenshot(path=FOLDER / f"{name}-{theme}{suffix}.png", full_page=whole)
    context.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--whole", action="store_true", help="the whole page instead of what a screen shows")
    given = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        print("Chromium is needed: apt-get install chromium", file=sys.stderr)
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for theme in ("light", "dark"):
            for suffix in SIZES:
                shoot(browser, given.url, theme, suffix, given.whole)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
