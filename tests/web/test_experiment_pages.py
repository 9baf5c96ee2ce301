from __future__ import annotations

from django.urls import reverse

from abtests.lifecycle import Status
from abtests.models import Experiment
from rollouts.models import Environment, Rollout
from tests.web.conftest import SignedIn, World


def test_page_shows_decision_and_results(world: World, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(reverse("experiment-detail", args=[world.experiment.pk])).content.decode()
    assert world.experiment.sentence in html
    assert "The error rate rises by less than 0.5 points" in html
    assert "needed 20 : 1" in html
    assert "of 240 requests failed" in html


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
    html = signed_in("dee").get(reverse("experiment-detail", args=[world.experiment.pk])).content.decode()
    assert "This needs the role" in html
    assert signed_in("dee").post(reverse("experiment-stop", args=[world.experiment.pk])).status_code == 403


def _form(world: World, **changes: object) -> dict[str, object]:
    canary = Environment.objects.get(name="canary")
    return {
        "version": world.waiting.pk, "environment": canary.pk, "traffic_percent": 20, "min_requests": 500,
        "minutes": 5, **changes,
    }  # fmt: skip


def test_experiment_is_started_from_the_form(world: World, signed_in: SignedIn) -> None:
    response = signed_in("ana").post(reverse("experiment-list"), _form(world))
    assert response.status_code == 302
    made = Experiment.objects.latest("pk")
    assert made.settings["min_requests"] == 500
    assert made.settings["max_seconds"] == 300
    assert response.headers["Location"] == reverse("experiment-detail", args=[made.pk])


def test_wrong_share_is_explained_beside_its_field(world: World, signed_in: SignedIn) -> None:
    response = signed_in("ana").post(reverse("experiment-list"), _form(world, traffic_percent=100))
    assert response.status_code == 422
    assert "give more than 0 and less than 100" in response.content.decode()


def test_conflict_is_explained_on_the_form(world: World, signed_in: SignedIn) -> None:
    production = Environment.objects.get(name="production")
    response = signed_in("ana").post(reverse("experiment-list"), _form(world, environment=production.pk))
    assert response.status_code == 409
    assert "is under way" in response.content.decode()
    assert Rollout.objects.filter(environment=production).count() == 1


def test_rollout_page_fetches_its_experiment(world: World, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(reverse("rollout-experiments", args=[world.experiment.rollout_id])).content.decode()
    assert "Trigram against bigram" in html
