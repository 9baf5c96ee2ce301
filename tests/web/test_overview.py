from __future__ import annotations

from django.urls import reverse

from registry.lifecycle import Stage
from registry.models import ModelVersion
from rollouts.models import Deployment, Rollout
from tests.conftest import Cast
from tests.web.conftest import SignedIn, World


def _needs(html: str) -> str:
    """What stands under "Needs you", without what waits for somebody else."""
    panel = html.split('id="needs-h"')[1].split("</section>")[0]
    return panel.split("<details")[0]


def test_approver_sees_versions_that_wait(world: World, signed_in: SignedIn) -> None:
    html = signed_in("bo").get("/").content.decode()
    assert "textgen v3 waits for an approval" in _needs(html)
    assert "textgen v4 waits for an approval" in _needs(html)


def test_engineer_sees_that_others_are_asked(world: World, signed_in: SignedIn) -> None:
    html = signed_in("ana").get("/").content.decode()
    assert "Nothing waits for you." in _needs(html)
    assert "2 wait for somebody else" in html


def test_own_version_waits_for_somebody_else(world: World, signed_in: SignedIn, cast: Cast) -> None:
    ModelVersion.objects.filter(stage=Stage.AWAITING_APPROVAL).update(registered_by=cast.bo)
    assert "Nothing waits for you." in _needs(signed_in("bo").get("/").content.decode())


def test_operator_sees_paused_and_troubled_rollouts_and_sick_servers(world: World, signed_in: SignedIn) -> None:
    signed_in("cy").post(reverse("rollout-verb", args=[world.rollout.pk, "pause"]))
    Rollout.objects.filter(pk=world.experiment.rollout_id).update(problem=True, sentence="No measurements.")
    Deployment.objects.filter(name="production-textgen-1").update(healthy=False, health_message="It hangs.")
    html = _needs(signed_in("cy").get("/").content.decode())
    assert "textgen v2 in production is paused by cy" in html
    assert "textgen v2 in staging has a problem" in html
    assert "textgen v1 in production is not well" in html
    assert "It hangs." in html


def test_live_traffic_and_recent_activity_are_shown(world: World, signed_in: SignedIn) -> None:
    html = signed_in("dee").get("/").content.decode()
    assert "What serves now" in html
    assert "requested the experiment" in html
