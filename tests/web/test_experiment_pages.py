from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from abtests.lifecycle import Status
from abtests.models import Experiment, Snapshot
from deploypipe.metrics.models import Window
from registry import actions as registry_actions
from rollouts.models import Deployment, Environment, Rollout, RolloutArm, Route
from tests.metrics.test_records import line
from tests.web.conftest import SignedIn, World, deployed, examined

HTMX = {"HX-Request": "true"}
NBSP = "\N{NO-BREAK SPACE}"


def page_of(experiment: Experiment, client: Client) -> str:
    """With ordinary spaces, as people read it."""
    html = client.get(reverse("experiment-detail", args=[experiment.pk])).content.decode()
    return html.replace(NBSP, " ").replace("&#x27;", "'")


def look(experiment: Experiment, **changes: Any) -> Snapshot:
    """One more look, like the newest one but for what is given."""
    newest = experiment.snapshots.latest("pk")
    detail = {**newest.detail, **changes}
    return Snapshot.objects.create(
        experiment=experiment,
        last_window=newest.last_window + 1,
        verdict=changes.get("verdict", newest.verdict),
        sentence=changes.get("sentence", newest.sentence),
        detail=detail,
    )


def row_of(experiment: Experiment, number: int = 0, **changes: Any) -> list[dict[str, Any]]:
    """The rows of the newest look, one of them changed."""
    rows: list[dict[str, Any]] = experiment.snapshots.latest("pk").detail["rows"]
    return [{**row, **changes} if n == number else row for n, row in enumerate(rows)]


# --- The page of an experiment ----------------------------------------------------------------------------------------


def test_page_shows_decision_and_results(world: World, signed_in: SignedIn) -> None:
    html = page_of(world.experiment, signed_in("dee"))
    assert world.experiment.sentence in html
    assert "The error rate rises by less than 0.5 points" in html
    assert re.search(r"needed <span[^>]*>20 : 1<", html)
    assert "candidate 240, stable 240 whole sessions" in html
    assert "Look 1," in html
    assert "Nothing to do: it ends by itself" in html


def test_interval_is_drawn_with_its_margin_and_said_in_words(world: World, signed_in: SignedIn) -> None:
    rows = row_of(world.experiment, estimate=-0.42, low=-1.5, high=0.7)
    look(world.experiment, rows=rows)
    html = page_of(world.experiment, signed_in("dee"))
    drawn = re.search(r'<svg class="interval-svg"[^>]*aria-label="([^"]+)"', html)
    assert drawn is not None
    assert drawn[1] == "Seen −0.42 points, −1.50 to +0.70 points, 90 % sure; the line is at +0.50 points"
    assert html.count("interval-margin") == 2
    assert "−1.50 to +0.70 points, 90 % sure</small>" in html


def test_end_of_an_interval_that_says_nothing_is_left_out(world: World, signed_in: SignedIn) -> None:
    look(world.experiment, rows=row_of(world.experiment, estimate=0.0, low=-100.0, high=2.0))
    html = page_of(world.experiment, signed_in("dee"))
    assert "at most +2.00 points, 90 % sure" in html
    assert "−100" not in html


def test_exact_test_at_the_end_is_announced_and_then_told(world: World, signed_in: SignedIn) -> None:
    look(world.experiment, rows=row_of(world.experiment, closing_p=None, closing_alpha=0.04))
    assert "One exact test more at the end" in page_of(world.experiment, signed_in("dee"))
    rows = row_of(world.experiment, closing_p=0.0123, closing_alpha=0.04, state="broken")
    look(world.experiment, rows=rows, verdict="abort")
    assert "Exact test at the end: p = 0.012, harm at 0.04 or less" in page_of(world.experiment, signed_in("dee"))


def test_row_that_decided_is_marked(world: World, signed_in: SignedIn) -> None:
    rows = row_of(world.experiment, state="broken")
    arms = {"candidate": {"standing": "broken", "sentence": "", "decided_by": rows[0]["name"]}}
    look(world.experiment, rows=rows, arms=arms, verdict="abort")
    html = page_of(world.experiment, signed_in("dee"))
    marked = re.findall(r'<tr class="is-marked">(.*?)</tr>', html, re.DOTALL)
    assert len(marked) == 1
    assert "The error rate rises by less than 0.5 points" in marked[0]
    assert "This decided" in marked[0]


def test_sample_ratio_is_shown_as_expected_against_seen(world: World, signed_in: SignedIn) -> None:
    Experiment.objects.filter(pk=world.experiment.pk).update(
        progress={"mismatch": {"shares": [["candidate", 0.5], ["stable", 0.5]], "units": [300, 100]}}
    )
    html = page_of(world.experiment, signed_in("dee"))
    assert "Each arm gets the share of sessions that it was promised" in html
    assert ">75 %</td>" in html
    assert ">25 %</td>" in html
    assert html.count('data-label="Split in force">50 %</td>') == 2
    look(world.experiment, log_srm_evidence=12.0)
    html = page_of(world.experiment, signed_in("dee"))
    assert "The split is not what was promised" in html
    assert re.search(r"162,754 : 1</span> <strong class=\"tone-bad\">reached", html)


def test_few_sessions_and_stale_records_are_told(world: World, signed_in: SignedIn) -> None:
    totals = {
        "stable": {"requests": 900, "errors": 2, "sessions": 400},
        "candidate": {"requests": 90, "errors": 0, "sessions": 8},
    }
    look(world.experiment, totals=totals)
    assert "90 requests come from only 8 sessions" in page_of(world.experiment, signed_in("dee"))
    Experiment.objects.filter(pk=world.experiment.pk).update(
        progress={"mismatch": {"shares": [["candidate", 0.5], ["stable", 0.5]], "units": [4, 4]}}
    )
    look(world.experiment, provider_problem="the gateway's records were last read 40 s ago.")
    html = page_of(world.experiment, signed_in("dee"))
    assert "The measurements cannot be read at the moment" in html
    assert "Nothing is decided until the gateway's records are read again" in html
    assert "callout-warn" in html


def test_before_the_first_look_it_says_what_it_waits_for(world: World, signed_in: SignedIn) -> None:
    world.experiment.snapshots.all().delete()
    Experiment.objects.filter(pk=world.experiment.pk).update(sentence="")
    html = page_of(world.experiment, signed_in("dee"))
    assert "The first look comes with the first requests that both versions answer." in html
    assert "Nothing measured yet" in html
    assert "<td" not in html


def test_ratings_are_counted_from_the_windows(world: World, signed_in: SignedIn) -> None:
    assert "What users said" not in page_of(world.experiment, signed_in("dee"))
    rated(world, {"5": 3, "4": 1}, backend="staging-textgen-2")
    rated(world, {"1": 2}, backend="staging-textgen-1")
    rated(world, {"1": 50}, backend="staging-textgen-1", group="holdout")
    html = page_of(world.experiment, signed_in("dee"))
    said = html.partition('aria-labelledby="ratings-h"')[2].partition("</section>")[0]
    assert [cell.strip() for cell in re.findall(r'data-label="Mean">([^<]*)<', said)] == ["1.00", "4.75"]
    assert [cell.strip() for cell in re.findall(r'data-label="Ratings">([^<]*)<', said)] == ["2", "4"]
    assert 'data-label="5 stars">75 %</td>' in said


def rated(world: World, stars: dict[str, int], *, backend: str, group: str = "") -> None:
    at = timezone.now()
    Window.objects.create(
        batch=Window.objects.count() + 100, environment="staging", model="textgen", backend=backend, group=group,
        first_at=at, last_at=at, taken_at=at, requests=1, errors=0, fresh={"feedback": {"ratings": stars}},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (Status.PROMOTE, "Roll textgen v2 out where you agree"),
        (Status.ABORT, "All traffic goes back to textgen v1"),
        (Status.INCONCLUSIVE, "Neither proven nor broken in the time allowed"),
        (Status.STOPPED, "It ended without an answer"),
    ],
)
def test_reader_is_told_what_to_do_at_its_end(world: World, signed_in: SignedIn, status: Status, words: str) -> None:
    ended = world.experiment.started_at + timedelta(minutes=12) if world.experiment.started_at else None
    Experiment.objects.filter(pk=world.experiment.pk).update(status=status, ended_at=ended)
    html = page_of(world.experiment, signed_in("dee"))
    assert words in html
    assert "Ran for 12 minutes of at most 30 minutes" in html


def test_time_until_a_decision_is_said_and_whether_it_is_there(world: World, signed_in: SignedIn) -> None:
    look(world.experiment, further_units=1200, further_seconds=240)
    html = page_of(world.experiment, signed_in("dee"))
    assert "Ends at the latest in 30 minutes; about 1,200 more sessions to a decision, 4 minutes." in html
    look(world.experiment, further_units=90_000, further_seconds=9000)
    assert "3 hours: longer than the time that is left" in page_of(world.experiment, signed_in("dee"))


def test_evidence_can_be_downloaded_and_replayed_by_the_command_that_is_shown(
    world: World, signed_in: SignedIn
) -> None:
    html, pk = page_of(world.experiment, signed_in("dee")), world.experiment.pk
    assert f'href="/api/v1/experiments/{pk}/evidence/"' in html
    assert f"deploypipe experiment replay --file experiment-{pk}-evidence.json" in html
    assert f"DEPLOYPIPE_TOKEN=dp_… deploypipe experiment replay {pk} --url http://testserver" in html


def test_history_tells_where_the_verdict_changed(world: World, signed_in: SignedIn) -> None:
    for verdict in ("continue", "continue", "abort", "abort"):
        look(world.experiment, verdict=verdict, sentence=f"Said {verdict}.")
    html = page_of(world.experiment, signed_in("dee"))
    turns = html.partition("Where the verdict changed")[2].partition("<details")[0]
    assert re.findall(r"Look (\d+),", turns) == ["4", "1"]
    assert "5 so far" in html


# --- Charts -----------------------------------------------------------------------------------------------------------


def chart_of(world: World, client: Client, name: str) -> Any:
    return client.get(reverse("experiment-chart", args=[world.experiment.pk, name])).json()


def test_charts_hold_evidence_in_percent_of_what_is_needed(world: World, signed_in: SignedIn) -> None:
    client = signed_in("dee")
    row = world.experiment.snapshots.get().detail["rows"][0]
    proof = chart_of(world, client, "proof")
    assert proof["data"][0]["y"] == [pytest.approx(100 * row["log_evidence"] / row["log_threshold"], abs=0.01)]
    assert proof["data"][0]["name"] == "Error rate rises by less than 0.5 points"
    assert proof["layout"]["yaxis"]["title"]["text"] == "% of the evidence needed"
    needed = proof["layout"]["shapes"][0]
    assert (needed["y0"], needed["label"]["text"]) == (100, "Proven: 20 : 1")
    assert client.get(reverse("experiment-chart", args=[world.experiment.pk, "other"])).status_code == 404


def test_long_experiment_is_drawn_with_few_points(world: World, signed_in: SignedIn) -> None:
    newest = world.experiment.snapshots.get()
    Snapshot.objects.bulk_create(
        Snapshot(
            experiment=world.experiment, last_window=100 + n, verdict="continue", sentence="", detail=newest.detail
        )
        for n in range(700)
    )
    figure = chart_of(world, signed_in("dee"), "proof")
    assert 100 <= len(figure["data"][0]["x"]) <= 150
    last = world.experiment.snapshots.order_by("pk").last()
    assert last is not None
    assert figure["data"][0]["x"][-1] == last.at.isoformat()


# --- Several candidates -----------------------------------------------------------------------------------------------


@pytest.fixture
def several(world: World, tmp_path: Path, cast: Any) -> World:
    """The experiment compares two candidates, and the second one has broken something."""
    rollout, environment = world.experiment.rollout, Environment.objects.get(name="staging")
    third = examined(world.model, cast.ana, tmp_path / "v5")
    own = Deployment.objects.get(environment=environment, version=world.canary)
    for position, version, deployment in ((1, world.canary, own), (2, third, deployed(third, environment))):
        RolloutArm.objects.create(
            rollout=rollout, position=position, version=version, digest=version.digest, deployment=deployment
        )
    Route.objects.filter(environment=environment).update(candidate=own, rollout=rollout, weight=6000)
    newest = world.experiment.snapshots.get()
    rows = [{**row, "arm": arm} for arm in ("candidate", "candidate-2") for row in newest.detail["rows"]]
    rows[0] |= {"log_evidence": 1.5, "log_threshold": 3.0}
    rows[2] |= {"log_evidence_against": 9.0, "log_threshold_against": 4.5, "state": "broken"}
    arms = {
        "candidate": {"standing": "open", "sentence": "candidate 3 of 240 sessions failed (1.3 %)"},
        "candidate-2": {
            "standing": "broken", "sentence": "Candidate-2 40 of 240 sessions failed: worse.",
            "decided_by": rows[2]["name"],
        },
    }  # fmt: skip
    look(world.experiment, rows=rows, arms=arms)
    return world


def test_each_candidate_has_its_standing_and_its_table(several: World, signed_in: SignedIn) -> None:
    html = page_of(several.experiment, signed_in("dee"))
    assert html.count('<caption class="hidden-visually">Goals and guardrails of') == 2
    table = html.partition('aria-labelledby="candidates-h"')[2].partition("</section>")[0]
    first, second = table.split("<tr>")[2:]
    assert "textgen v2" in first
    assert "Open" in first
    assert re.search(r"needed <span[^>]*>20 : 1<", first)
    assert "textgen v5" in second
    assert "Broken" in second
    assert "reached" in second
    assert "<li>textgen v5 40 of 240 sessions failed: worse.</li>" in html, "versions are called by their names"


def test_each_candidate_has_a_line_of_its_own(several: World, signed_in: SignedIn) -> None:
    figure = chart_of(several, signed_in("dee"), "proof")
    drawn = {trace["name"]: (trace["meta"]["role"], trace["y"][-1]) for trace in figure["data"] if trace["x"]}
    assert drawn["textgen v2"] == ("candidate", 50.0)
    harm = chart_of(several, signed_in("dee"), "harm")
    assert {trace["name"]: trace["y"][-1] for trace in harm["data"]}["textgen v5"] == 200.0


def test_operator_takes_one_candidate_off(several: World, signed_in: SignedIn) -> None:
    html = page_of(several.experiment, signed_in("cy"))
    assert html.count("Take off…") == 1, "who has broken something is off already"
    drop = reverse("experiment-drop", args=[several.experiment.pk, "candidate"])
    assert drop in html
    response = signed_in("cy").post(drop, {"reason": "It answers in French."})
    assert response.headers["Location"] == reverse("experiment-detail", args=[several.experiment.pk])
    row = RolloutArm.objects.get(rollout=several.experiment.rollout, position=1)
    assert (row.is_on, row.reason) == (False, "It answers in French.")


def test_who_may_not_take_a_candidate_off_reads_why(several: World, signed_in: SignedIn) -> None:
    assert "This needs the role operator" in page_of(several.experiment, signed_in("ana"))
    drop = reverse("experiment-drop", args=[several.experiment.pk, "candidate-2"])
    assert signed_in("ana").post(drop, {"reason": "x"}).status_code == 403
    assert signed_in("cy").post(drop, {"reason": ""}, headers={"Accept": "application/json"}).status_code in (302, 422)
    assert all(row.is_on for row in RolloutArm.objects.all())


def test_rollout_of_several_shows_every_candidate(several: World, signed_in: SignedIn) -> None:
    rollout, at = several.experiment.rollout, timezone.now()
    Rollout.objects.filter(pk=rollout.pk).update(traffic_from=at - timedelta(minutes=1))
    Route.objects.filter(environment__name="staging").update(changed_at=at - timedelta(minutes=1))
    for number, backend, group in ((30, "2", ""), (20, "5", ""), (50, "1", ""), (900, "1", "forced")):
        Window.objects.create(
            batch=77, environment="staging", model="textgen", backend=f"staging-textgen-{backend}", group=group,
            first_at=at, last_at=at, taken_at=at, requests=number, errors=0,
        )  # fmt: skip
    html = signed_in("dee").get(reverse("rollout-detail", args=[rollout.pk])).content.decode().replace(NBSP, " ")
    traffic = html.partition('aria-labelledby="traffic-h"')[2].partition("</section>")[0]
    assert re.search(r"textgen v2</th><td class=\"num\">30 %</td><td class=\"num\">30 %", traffic)
    assert re.search(r"textgen v5</th><td class=\"num\">30 %</td><td class=\"num\">20 %", traffic)
    assert "Candidate 2" in html, "its server is there, too"
    share = signed_in("dee").get(reverse("rollout-chart", args=[rollout.pk, "share"])).json()["data"]
    assert [(trace["name"], trace["meta"]["role"]) for trace in share] == [
        ("textgen v2 measured", "candidate"), ("textgen v5 measured", "third"), ("Set, each", "set"),
    ]  # fmt: skip
    assert [trace["y"][-1] for trace in share] == [30.0, 20.0, 0.0]
    errors = signed_in("dee").get(reverse("rollout-chart", args=[rollout.pk, "errors"])).json()["data"]
    assert [trace["name"] for trace in errors] == ["textgen v2", "textgen v5", "textgen v1"]


# --- Verbs ------------------------------------------------------------------------------------------------------------


def test_engineer_stops_it_with_a_reason(world: World, signed_in: SignedIn) -> None:
    client = signed_in("ana")
    stop = reverse("experiment-stop", args=[world.experiment.pk])
    page = f"http://testserver{reverse('experiment-detail', args=[world.experiment.pk])}"
    refused = client.post(stop, {}, headers={"Referer": page}, follow=True).content.decode()
    assert "Stopping needs a reason." in refused
    client.post(stop, {"reason": "Enough."})
    world.experiment.refresh_from_db()
    assert world.experiment.status == Status.STOPPED


def test_viewer_may_not_stop_it(world: World, signed_in: SignedIn) -> None:
    assert "This needs the role" in page_of(world.experiment, signed_in("dee"))
    assert signed_in("dee").post(reverse("experiment-stop", args=[world.experiment.pk])).status_code == 403


@pytest.mark.parametrize(("verdict", "label", "status"), [
    ("promote", "Promote…", Status.PROMOTE), ("abort", "Abort…", Status.ABORT),
])  # fmt: skip
def test_verdict_that_waits_for_a_person_is_agreed_with(
    world: World, signed_in: SignedIn, verdict: str, label: str, status: Status
) -> None:
    assert label not in page_of(world.experiment, signed_in("ana"))
    look(world.experiment, verdict=verdict, automatic=False, winner="candidate")
    html = page_of(world.experiment, signed_in("ana"))
    assert "It does not end by itself on this verdict" in html
    assert "Waits for a person" in html
    assert label in html
    agree = reverse("experiment-agree", args=[world.experiment.pk, verdict])
    assert signed_in("dee").post(agree, {}).status_code == 403
    signed_in("ana").post(agree, {"reason": "So do I."})
    world.experiment.refresh_from_db()
    assert world.experiment.status == status


def test_verdict_that_changed_meanwhile_is_not_carried_out(world: World, signed_in: SignedIn) -> None:
    agree = reverse("experiment-agree", args=[world.experiment.pk, "promote"])
    page = f"http://testserver{reverse('experiment-detail', args=[world.experiment.pk])}"
    html = signed_in("ana").post(agree, {}, headers={"Referer": page}, follow=True).content.decode()
    assert "The newest look says continue, not promote" in html
    world.experiment.refresh_from_db()
    assert world.experiment.status == Status.RUNNING


def test_api_agrees_with_a_verdict(world: World, signed_in: SignedIn) -> None:
    address = f"/api/v1/experiments/{world.experiment.pk}/agree/"

    def post(body: dict[str, str]) -> Any:
        return signed_in("ana").post(address, json.dumps(body), content_type="application/json")

    assert post({"verdict": "abort"}).status_code == 409
    assert set(post({"verdict": "perhaps"}).json()["fields"]) == {"verdict"}
    look(world.experiment, verdict="abort", automatic=False)
    assert post({"verdict": "abort", "reason": "Errors."}).json()["status"] == "abort"


def test_experiment_that_waits_for_a_person_is_on_the_overview(world: World, signed_in: SignedIn) -> None:
    assert "Trigram against bigram waits for a person" not in signed_in("cy").get("/").content.decode()
    look(world.experiment, verdict="promote", automatic=False)
    assert "Trigram against bigram waits for a person" in signed_in("cy").get("/").content.decode()
    look(world.experiment, verdict="invalid")
    assert "Trigram against bigram cannot be trusted" in signed_in("cy").get("/").content.decode()


def test_rollout_page_fetches_its_experiment(world: World, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(reverse("rollout-experiments", args=[world.experiment.rollout_id])).content.decode()
    assert "Trigram against bigram" in html


# --- The list ---------------------------------------------------------------------------------------------------------


def row_in_list(client: Client) -> str:
    html = client.get(reverse("experiment-list")).content.decode().replace(NBSP, " ").replace("&#x27;", "'")
    return html.partition("<tbody>")[2].partition("</tr>")[0]


def test_list_says_state_verdict_and_time_left(world: World, signed_in: SignedIn) -> None:
    look(world.experiment, further_units=1200, further_seconds=240)
    row = row_in_list(signed_in("dee"))
    assert "textgen v2 against textgen v1 in staging" in row
    assert "Running" in row
    assert "Keep running" in row
    assert "Ends at the latest in 30 minutes; about 1,200 more sessions to a decision, 4 minutes" in row


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verdict": "abort"}, ["Waits for a person", "Abort"]),
        ({"verdict": "invalid"}, ["Running", "Invalid"]),
        ({"provider_problem": "the records are old."}, ["Running", "On hold"]),
    ],
)
def test_list_says_what_the_newest_look_says(
    world: World, signed_in: SignedIn, changes: dict[str, Any], words: list[str]
) -> None:
    look(world.experiment, **changes)
    row = row_in_list(signed_in("dee"))
    assert all(word in row for word in words)
    assert "more sessions to a decision" not in row


def test_list_says_how_an_experiment_ended(world: World, signed_in: SignedIn) -> None:
    Experiment.objects.filter(pk=world.experiment.pk).update(
        status=Status.INCONCLUSIVE, ended_at=timezone.now() + timedelta(minutes=5)
    )
    row = row_in_list(signed_in("dee"))
    assert "Ended" in row
    assert "Inconclusive" in row
    assert re.search(r"Ran for [56] minutes of at most 30 minutes", row)


# --- The form ---------------------------------------------------------------------------------------------------------

NEW = "experiment-new"


def _form(world: World, **changes: object) -> dict[str, object]:
    canary = Environment.objects.get(name="canary")
    return {
        "version": world.waiting.pk, "environment": canary.pk, "traffic_percent": 20, "min_requests": 500,
        "minutes": 5, "least_minutes": 0, "alpha": 5, "error_increase": 0.5, "error_limit": 5, "preset": "errors",
        "applied": "errors", "auto_promote": "on", "auto_rollback": "on", **changes,
    }  # fmt: skip


def test_form_begins_with_ten_to_thirty_minutes_and_a_thousand_requests(world: World, signed_in: SignedIn) -> None:
    html = signed_in("ana").get(reverse(NEW)).content.decode()
    given = dict(re.findall(r'name="(\w+)" value="([^"]*)"', html))
    wanted = {"least_minutes": "10", "minutes": "30", "min_requests": "1000", "alpha": "5", "traffic_percent": "50"}
    assert {name: given[name] for name in wanted} == wanted
    assert html.count("checked") == 2


def test_experiment_is_started_from_the_form(world: World, signed_in: SignedIn) -> None:
    given = _form(
        world, latency_increase=20, latency_level="0.99", rating_least=4.0, conversion_drop=10,
        conversion_drop_unit="%", unit="session", holdout_percent=5, routing_by="header", routing_name="x-user-id",
        forced_header="x-beta", forced_value="true", auto_promote="", alpha=1, least_minutes=2,
    )  # fmt: skip
    response = signed_in("ana").post(reverse(NEW), given)
    assert response.status_code == 302, response.content.decode()
    made = Experiment.objects.latest("pk")
    assert response.headers["Location"] == reverse("experiment-detail", args=[made.pk])
    assert made.settings["goals"] == [
        {"metric": "error_rate", "margin_points": 0.5},
        {"metric": "latency", "margin_percent": 20.0, "level": 0.99},
        {"metric": "rating", "limit": 4.0},
        {"metric": "conversion_rate", "margin_percent": 10.0},
    ]
    assert made.settings["guardrails"] == [{"metric": "error_rate", "limit": 5.0}]
    names = ("min_requests", "min_seconds", "max_seconds", "alpha", "unit", "auto_promote")
    assert {name: made.settings[name] for name in names} == {
        "min_requests": 500, "min_seconds": 120, "max_seconds": 300, "alpha": 0.01, "unit": "session",
        "auto_promote": False,
    }  # fmt: skip
    assert made.rollout.routing == {
        "by": "header", "name": "x-user-id",
        "forced": [{"header": "x-beta", "value": "true", "arm": "candidate"}],
    }  # fmt: skip
    assert made.rollout.percent_held_out == 5
    html = page_of(made, signed_in("dee"))
    assert "header x-user-id; x-beta: true goes to candidate" in html
    assert re.search(r"The P99 latency rises by less than 20 % <span[^>]*>\(must be proven, and aborts\)", html)


@pytest.mark.parametrize(
    ("given", "goal"),
    [
        (
            {"other_metric": "duration", "other_margin": 10, "other_unit": "%", "unit": "request"},
            {"metric": "duration", "aim": "non_inferiority", "margin_percent": 10.0, "level": 0.95},
        ),
        (
            {"other_metric": "rating", "other_aim": "superiority", "other_margin": "0.25"},
            {"metric": "rating", "aim": "superiority", "margin": 0.25},
        ),
        (
            {"other_metric": "success_rate", "other_aim": "limit", "other_margin": 99},
            {"metric": "success_rate", "limit": 99.0},
        ),
    ],
)
def test_any_metric_can_be_a_goal(
    world: World, signed_in: SignedIn, given: dict[str, object], goal: dict[str, object]
) -> None:
    response = signed_in("ana").post(reverse(NEW), _form(world, **given))
    assert response.status_code == 302, response.content.decode()
    assert Experiment.objects.latest("pk").settings["goals"][-1] == goal


def test_further_candidates_become_arms(world: World, signed_in: SignedIn) -> None:
    response = signed_in("ana").post(reverse(NEW), _form(world, second=world.live.pk))
    assert response.status_code == 302, response.content.decode()
    made = Experiment.objects.latest("pk")
    assert [str(version) for version in made.versions.values()] == [str(world.waiting), str(world.live)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"traffic_percent": 100}, "“100” cannot be used: give a percentage above 0 and below 100, such as 50."),
        ({"traffic_percent": "20.123"}, "20.123: give more than 0 and less than 100, in hundredths at most"),
        ({"error_increase": "", "error_limit": 5}, "name at least one goal"),
        ({"error_increase": -1}, "“-1” cannot be used: give a number above 0 and below 100, such as 0.5."),
        ({"error_increase": "0,5"}, "“0,5” cannot be used"),
        ({"error_increase": 150}, "“150” cannot be used"),
        ({"rating_least": 9}, "“9” cannot be used: give stars above 1 and below 5, such as 4."),
        ({"alpha": 0}, "“0” cannot be used: give percent above 0 and at most 50, such as 5."),
        ({"routing_by": "header"}, "Which header? Give its name, such as x-user-id."),
        ({"routing_by": "header", "routing_name": "authorization"}, "it carries a secret"),
        ({"forced_header": "x-beta"}, "“x-beta” alone does nothing"),
        ({"forced_header": "host", "forced_value": "a"}, "belongs to the gateway"),
        ({"unit": "month"}, "“month” cannot be chosen"),
        ({"minutes": "soon"}, "“soon” cannot be used: give minutes above 0 and at most 10,000, such as 30."),
        ({"minutes": ""}, "Give minutes above 0"),
        ({"minutes": "nan"}, "“nan” cannot be used"),
        ({"least_minutes": 9}, "9 are more than the 5 allowed: give at most 5, or more time."),
        ({"min_requests": "2.5"}, "“2.5” cannot be used: give a whole number of requests"),
        ({"holdout_percent": 51}, "“51” cannot be used: give a percentage from 0 to 50"),
        ({"other_metric": "duration", "other_margin": 5}, "the duration is compared in percent: choose %"),
        ({"other_metric": "rating"}, "Give the margin or limit of the rating."),
        ({"second": 1_000_000}, "“1000000” cannot be chosen: take a version of the list."),
        ({"version": ""}, "Choose a version."),
    ],
)  # fmt: skip
def test_wrong_field_is_explained_and_nothing_typed_is_lost(
    world: World, signed_in: SignedIn, changes: dict[str, object], words: str
) -> None:
    before = Experiment.objects.count()
    response = signed_in("ana").post(reverse(NEW), _form(world, name="My own name", **changes))
    assert response.status_code == 422
    html = response.content.decode()
    at_field = re.findall(r'class="field-error"[^>]*>.*?</svg>([^<]*)<', html, re.DOTALL)
    assert any(words in said for said in at_field), at_field
    assert 'value="My own name"' in html
    for name, value in changes.items():
        kept = rf'name="{name}" value="{re.escape(str(value))}"'
        is_text = re.search(rf'<input[^>]* name="{name}"', html) and value != ""
        assert not is_text or re.search(kept, html), f"{name} was lost"
    assert Experiment.objects.count() == before


@pytest.mark.parametrize("arm", ["waiting", "other_model"])
def test_further_candidate_that_cannot_be_one_is_explained(
    world: World, signed_in: SignedIn, cast: Any, tmp_path: Path, arm: str
) -> None:
    other = world.waiting
    if arm == "other_model":
        other = examined(registry_actions.create_model("speech", actor=cast.ana), cast.ana, tmp_path / "speech")
    response = signed_in("ana").post(reverse(NEW), _form(world, third=other.pk))
    assert response.status_code == 422
    words = "is of another model: choose a version of textgen." if arm == "other_model" else "is named twice"
    assert words in response.content.decode()


def test_conflict_is_explained_on_the_form(world: World, signed_in: SignedIn) -> None:
    production = Environment.objects.get(name="production")
    response = signed_in("ana").post(reverse(NEW), _form(world, environment=production.pk))
    assert response.status_code == 409
    assert "is under way" in response.content.decode()
    assert Rollout.objects.filter(environment=production).count() == 1


def test_viewer_sees_the_form_and_may_not_send_it(world: World, signed_in: SignedIn) -> None:
    client = signed_in("dee")
    assert "This needs the role" in client.get(reverse(NEW)).content.decode()
    assert "This needs the role" in client.get(reverse("experiment-list")).content.decode()
    assert client.post(reverse(NEW), _form(world)).status_code == 403


def test_address_chooses_the_candidate(world: World, signed_in: SignedIn) -> None:
    html = signed_in("ana").get(f"{reverse(NEW)}?version={world.waiting.pk}&environment=x").content.decode()
    assert f'<option value="{world.waiting.pk}" selected>' in html


# --- The forecast -----------------------------------------------------------------------------------------------------


@pytest.fixture
def traffic(world: World, tmp_path: Path, settings: Any) -> World:
    """A quarter of an hour of the version that is live in canary: 40 sessions of three requests."""
    cache.clear()
    route = Route.objects.get(environment__name="canary")
    assert route.stable is not None
    Route.objects.filter(pk=route.pk).update(changed_at=timezone.now() - timedelta(hours=1))
    began = int((timezone.now() - timedelta(minutes=14.9)).timestamp() * 1000)
    lines = [
        line(
            start_ms=str(began + 20_000 * session + 500 * request), environment="canary", model="textgen",
            backend=route.stable.name, session=f"session-{session}", status=500 if session == request == 0 else 200,
            first_ms=40.0 + session,
        )
        for session in range(40)
        for request in range(3)
    ]  # fmt: skip
    settings.GATEWAY_RECORDS = tmp_path / "access.log"
    settings.GATEWAY_RECORDS.write_bytes(b"".join(lines))
    return world


def test_forecast_stands_on_the_page_before_anything_starts(traffic: World, signed_in: SignedIn) -> None:
    before = Experiment.objects.count()
    response = signed_in("dee").post(reverse(NEW), _form(traffic, forecast="1"))
    html = response.content.decode()
    assert response.status_code == 200
    assert "<h1" in html
    assert "The live version answered 120 requests of 40 sessions in the last 15 minutes" in html
    assert "An identical version is promoted after about" in html
    assert "Twice the error rate" in html
    assert "come from only 40 sessions" in html
    assert Experiment.objects.count() == before


def test_htmx_gets_the_forecast_alone(traffic: World, signed_in: SignedIn) -> None:
    html = signed_in("dee").post(reverse("experiment-forecast"), _form(traffic), headers=HTMX).content.decode()
    assert 'id="forecast"' in html
    assert "<html" not in html
    assert "hx-swap-oob" not in html


def test_preset_fills_the_criteria(traffic: World, signed_in: SignedIn) -> None:
    given = _form(traffic, preset="mission")
    html = signed_in("dee").post(reverse("experiment-forecast"), given, headers=HTMX).content.decode()
    assert 'hx-swap-oob="true"' in html
    filled = dict(re.findall(r'name="(\w+)" value="([^"]*)"', html))
    wanted = {
        "error_increase": "0.5", "latency_increase": "20", "rating_least": "4", "error_limit": "5",
        "latency_limit": "1000", "success_least": "95", "applied": "mission",
    }  # fmt: skip
    assert {name: filled.get(name) for name in wanted} == wanted
    assert "it can never be proven that the rating is at least 4 stars" in html


def test_split_that_fits_the_time_is_taken_over_by_a_button(traffic: World, signed_in: SignedIn) -> None:
    client = signed_in("dee")
    given = _form(traffic, traffic_percent=5, error_increase=40, error_limit="", min_requests=1, minutes=45)
    html = client.post(reverse("experiment-forecast"), given, headers=HTMX).content.decode()
    offered = re.search(r'name="take_percent" value="(\d+)"[^>]*>.*?Take \1 % of the traffic', html, re.DOTALL)
    assert offered is not None, html
    assert "Not in time" in html
    taken = {**given, "take_percent": offered[1]}
    html = client.post(reverse("experiment-forecast"), taken, headers=HTMX).content.decode()
    assert "Fits the time" in html
    assert re.search(rf'id="traffic-field" hx-swap-oob="true">.*?value="{offered[1]}"', html, re.DOTALL)
    whole_page = client.post(reverse(NEW), taken).content.decode()
    assert "<h1" in whole_page
    assert "Fits the time" in whole_page
    assert re.search(rf'name="traffic_percent" value="{offered[1]}"', whole_page)


def test_forecast_says_what_is_missing(world: World, signed_in: SignedIn) -> None:
    client = signed_in("dee")
    html = client.post(reverse("experiment-forecast"), {"minutes": 3}, headers=HTMX).content.decode()
    assert "Choose a version." in html
    assert "Choose an environment." in html
    assert "None" not in html
    nothing = client.post(
        reverse("experiment-forecast"), _form(world, environment=_empty_environment().pk), headers=HTMX
    ).content.decode()
    assert "No version of textgen is live in empty" in nothing


def _empty_environment() -> Environment:
    return Environment.objects.create(name="empty", position=9)


def test_forecast_without_traffic_says_so(world: World, signed_in: SignedIn, settings: Any, tmp_path: Path) -> None:
    cache.clear()
    settings.GATEWAY_RECORDS = tmp_path / "none.log"
    html = signed_in("dee").post(reverse("experiment-forecast"), _form(world), headers=HTMX).content.decode()
    assert "No request has reached the live version lately" in html


def test_forecast_needs_a_role(world: World, signed_in: SignedIn) -> None:
    assert signed_in("eve").post(reverse("experiment-forecast"), _form(world), headers=HTMX).status_code == 403


def test_api_gives_the_same_numbers(traffic: World, signed_in: SignedIn) -> None:
    body = {
        "model": "textgen", "environment": "canary", "traffic_percent": 20,
        "settings": {"min_requests": 500, "max_seconds": 300},
    }  # fmt: skip
    client = signed_in("dee")
    answer = client.post("/api/v1/experiments/design/", json.dumps(body), content_type="application/json")
    assert answer.status_code == 200, answer.content
    design = answer.json()
    assert design["traffic"]["requests"] == 120
    assert design["traffic"]["sessions"] == 40
    assert design["metrics"][0]["requests_to_pass"] > 1000
    assert not design["feasible"]
    html = client.post(reverse("experiment-forecast"), _form(traffic), headers=HTMX).content.decode()
    assert design["sentence"] in html


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"traffic_percent": 0}, 422, "traffic_percent"),
        ({"settings": {"alpha": 7}}, 422, "settings.alpha"),
        ({"environment": "nowhere"}, 422, "environment"),
        ({"holdout_percent": 100}, 422, "holdout_percent"),
        ({"colour": "red"}, 422, "colour"),
        ({"model": "none"}, 404, ""),
    ],
)
def test_api_names_each_wrong_field(
    traffic: World, signed_in: SignedIn, changes: dict[str, object], status: int, field: str
) -> None:
    body = {"model": "textgen", "environment": "canary", **changes}
    answer = signed_in("dee").post("/api/v1/experiments/design/", json.dumps(body), content_type="application/json")
    assert answer.status_code == status
    assert not field or field in answer.json()["fields"]
