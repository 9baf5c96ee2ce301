"""What holds for a model in an environment, and who may set it."""

from __future__ import annotations

from typing import Any

import pytest

from deploypipe.core.errors import Conflict, Forbidden, FourEyes, Invalid
from deploypipe.core.models import AuditEntry
from registry import actions, policies, policy_actions
from registry.models import ModelVersion, QAPolicy, RegisteredModel
from registry.qa.pipeline_config import Config, to_yaml
from registry.qa.policy import Policy
from tests.conftest import Cast
from tests.registry.steps import examined


def save(cast: Cast, model: RegisteredModel | None, environment: str, values: Any, **more: Any) -> QAPolicy:
    more.setdefault("actor", cast.bo)
    return policy_actions.save_policy(model, environment, values, **more).policy


def test_without_any_policy_the_products_default_holds(model: RegisteredModel) -> None:
    found = policies.effective(model, "production")
    assert found.policy == Policy()
    assert found.rows == ()
    assert found.origin("minimum_score") is None


def test_from_general_to_particular_and_each_value_knows_its_origin(cast: Cast, model: RegisteredModel) -> None:
    everywhere = save(cast, None, "", {"max_latency_ms": 500, "load": {"seconds": 9}, "minimum_score": 70})
    production = save(cast, None, "production", {"max_latency_ms": 400, "max_memory_gb": 8})
    textgen = save(cast, model, "", {"max_latency_ms": 300, "load": {"max_tokens": 8}})
    both = save(cast, model, "production", {"max_latency_ms": 250})
    found = policies.effective(model, "production")
    assert found.rows == (everywhere, production, textgen, both)
    assert (found.policy.max_latency_ms, found.policy.max_memory_gb, found.policy.minimum_score) == (250, 8, 70)
    assert (found.policy.load.seconds, found.policy.load.max_tokens, found.policy.load.concurrency) == (9, 8, 0)
    named = ("max_latency_ms", "max_memory_gb", "load.seconds", "load.max_tokens", "load.concurrency")
    assert [found.origin(name) for name in named] == [both, production, everywhere, textgen, None]
    assert policies.effective(model).policy.max_latency_ms == 300
    assert policies.effective(model, "staging").policy.max_latency_ms == 300
    assert policies.effective(None, "production").policy.max_latency_ms == 400
    assert policies.effective(None).policy.max_latency_ms == 500


def test_other_models_policy_does_not_hold(cast: Cast, model: RegisteredModel) -> None:
    other = actions.create_model("other", actor=cast.ana)
    save(cast, other, "", {"minimum_score": 90})
    assert policies.effective(model).policy == Policy()


def test_newest_number_of_each_holds(cast: Cast, model: RegisteredModel) -> None:
    save(cast, model, "", {"minimum_score": 90, "max_memory_gb": 4})
    second = save(cast, model, "", {"minimum_score": 85})
    assert (second.number, QAPolicy.objects.count()) == (2, 2)
    found = policies.effective(model)
    assert (found.policy.minimum_score, found.policy.max_memory_gb) == (85, Policy().max_memory_gb)


def test_same_values_again_make_no_new_number(cast: Cast, model: RegisteredModel) -> None:
    first = policy_actions.save_policy(model, "", {"minimum_score": 90}, actor=cast.bo)
    again = policy_actions.save_policy(model, "", {"minimum_score": 90}, actor=cast.bo)
    assert (first.is_new, again.is_new, again.policy) == (True, False, first.policy)


def test_earlier_number_is_restored_as_a_new_one(cast: Cast, model: RegisteredModel) -> None:
    first = save(cast, model, "", {"minimum_score": 90})
    save(cast, model, "", {})
    restored = policy_actions.restore(first, actor=cast.bo).policy
    assert (restored.number, restored.values, restored.note) == (3, {"minimum_score": 90}, "As number 1.")
    first.refresh_from_db()
    assert first.number == 1


def test_saving_is_written_down_with_before_and_after(cast: Cast, model: RegisteredModel) -> None:
    save(cast, model, "production", {"minimum_score": 90})
    save(cast, model, "production", {"minimum_score": 70}, note="Too few pass.")
    entry = AuditEntry.objects.filter(verb="policy.saved").latest("sequence")
    assert (entry.actor, entry.reason) == ("bo", "Too few pass.")
    assert entry.object_label == "policy 2 of textgen in production"
    assert entry.before == {"number": 1, "values": {"minimum_score": 90}, "sections": []}
    assert entry.after == {"number": 2, "values": {"minimum_score": 70}, "sections": []}


@pytest.mark.parametrize("who", ["ana", "cy", "dee", "eve"])
def test_only_approvers_set_policies(who: str, cast: Cast, model: RegisteredModel) -> None:
    with pytest.raises(Forbidden, match="This needs the role approver or admin"):
        save(cast, model, "", {"minimum_score": 10}, actor=getattr(cast, who))
    assert not QAPolicy.objects.exists()


@pytest.mark.parametrize("of_all_models", [False, True])
def test_nobody_sets_what_their_own_version_is_judged_by(
    cast: Cast, version: ModelVersion, of_all_models: bool
) -> None:
    cast.ana.is_superuser = True
    with pytest.raises(FourEyes, match="You registered textgen v1, which is registered: someone else must set"):
        save(cast, None if of_all_models else version.model, "", {"minimum_score": 1}, actor=cast.ana)


@pytest.mark.parametrize("verb", ["refuse", "suspend"])
def test_nor_what_it_is_judged_by_when_it_is_examined_again(verb: str, cast: Cast, version: ModelVersion) -> None:
    examined(version)
    if verb == "refuse":
        actions.refuse(version, actor=cast.bo, note="Rude.")
    else:
        actions.approve(version, actor=cast.bo)
        actions.suspend(version, actor=cast.bo, reason="Rude.")
    cast.ana.is_superuser = True
    with pytest.raises(FourEyes, match="someone else must set"):
        save(cast, version.model, "", {"minimum_score": 1}, actor=cast.ana)


def test_who_registered_a_version_that_is_decided_on_may_set_policies_again(cast: Cast, version: ModelVersion) -> None:
    examined(version)
    actions.approve(version, actor=cast.bo)
    cast.ana.is_superuser = True
    assert save(cast, version.model, "", {"minimum_score": 90}, actor=cast.ana).number == 1


def test_environment_must_exist(cast: Cast, version: ModelVersion) -> None:
    for act in (
        lambda: save(cast, version.model, "prod", {}),
        lambda: actions.examine(version, actor=cast.ana, environment="prod"),
    ):
        with pytest.raises(Invalid, match="no such environment") as caught:
            act()
        assert caught.value.fields == {"environment": "'prod': use one of staging, canary, production"}


def test_wrong_values_name_each_field(cast: Cast, model: RegisteredModel) -> None:
    with pytest.raises(Invalid) as caught:
        save(cast, model, "", {"max_latency_s": 1, "load": {"seconds": "5s"}, "parameters": {"gone.check": {"a": 1}}})
    assert sorted(caught.value.fields) == [
        "values.load.seconds",
        "values.max_latency_s",
        "values.parameters.gone.check",
    ]
    assert caught.value.fields["values.max_latency_s"] == (
        "is not known here; the nearest is max_latency_ms (milliseconds)"
    )
    assert "is not known here" in caught.value.fields["values.parameters.gone.check"]


def test_stale_page_does_not_overwrite_what_somebody_else_set(cast: Cast, model: RegisteredModel) -> None:
    save(cast, model, "", {"minimum_score": 90}, seen=0)
    with pytest.raises(Conflict, match="it is at number 1 now"):
        save(cast, model, "", {"minimum_score": 70}, seen=0)
    assert save(cast, model, "", {"minimum_score": 70}, seen=1).number == 2


# Files


def test_file_is_imported_with_its_other_sections_and_exported_as_it_was(cast: Cast, model: RegisteredModel) -> None:
    text = "quality_thresholds:\n  minimum_score: 90\nmonitoring:\n  prometheus:\n    scrape_interval: 15s\n"
    saved = policy_actions.import_config(text, model, "production", actor=cast.bo).policy
    assert saved.values == {"minimum_score": 90}
    assert to_yaml(Config(saved.values, saved.pipeline)) == text


def test_values_set_by_hand_keep_the_other_sections_of_the_file(cast: Cast, model: RegisteredModel) -> None:
    text = "monitoring: {grafana: {enabled: false}}"
    policy_actions.import_config(text, model, "", actor=cast.bo)
    saved = save(cast, model, "", {"minimum_score": 70})
    assert saved.pipeline == {"monitoring": {"grafana": {"enabled": False}}}


def test_file_with_problems_is_refused_by_line(cast: Cast, model: RegisteredModel) -> None:
    with pytest.raises(Invalid, match="The file cannot be used") as caught:
        policy_actions.import_config("quality_thresholds:\n  minimum_score: high\nb: 1", model, "", actor=cast.bo)
    assert caught.value.fields["quality_thresholds.minimum_score"] == (
        'line 2, column 3: is "high": give a number (points) from 0 to 100'
    )
    assert caught.value.fields["b"].startswith("line 3, column 1: is not known here; there are: quality_thresholds,")


def test_weights_of_a_file_are_looked_at_over_what_it_inherits(cast: Cast, model: RegisteredModel) -> None:
    save(cast, None, "", {"weights": {"compatibility": 0, "performance": 0, "integration": 0}})
    with pytest.raises(Invalid) as caught:
        policy_actions.import_config("test_categories: {security: {weight: 0}}", model, "", actor=cast.bo)
    assert "weights that are all 0" in caught.value.fields["test_categories"]


def test_preview_says_what_would_change_and_changes_nothing(cast: Cast, model: RegisteredModel) -> None:
    save(cast, None, "", {"max_latency_ms": 300})
    save(cast, model, "", {"minimum_score": 90, "load": {"seconds": 9}})
    text = (
        "quality_thresholds: {minimum_score: 70, performance: {max_latency_ms: 300}}\nab_testing: {auto_promote: true}"
    )
    found = policy_actions.preview(text, model, "")
    assert {c.name: (c.before, c.after) for c in found.effective} == {
        "minimum_score": (90, 70),
        "load.seconds": (9, 5.0),
    }
    assert {c.name: (c.before, c.after) for c in found.own} == {
        "minimum_score": (90, 70),
        "load.seconds": (9, None),
        "max_latency_ms": (None, 300),
    }
    assert [(c.name, c.after) for c in found.pipeline] == [("ab_testing.auto_promote", True)]
    assert QAPolicy.objects.count() == 2


def test_effective_policy_is_one_file_of_all_layers(cast: Cast, model: RegisteredModel) -> None:
    policy_actions.import_config("monitoring: {grafana: {enabled: false}}", None, "", actor=cast.bo)
    policy_actions.import_config("monitoring: {prometheus: {enabled: true}}", model, "", actor=cast.bo)
    save(cast, model, "production", {"minimum_score": 91})
    found = policies.effective(model, "production").config
    assert found.pipeline == {"monitoring": {"grafana": {"enabled": False}, "prometheus": {"enabled": True}}}
    assert policy_actions.load(to_yaml(found), None, "").values == found.values


# Examinations


def test_examination_keeps_the_exact_policy_and_where_it_came_from(cast: Cast, version: ModelVersion) -> None:
    general = save(cast, None, "", {"max_latency_ms": 300, "minimum_score": 70})
    particular = save(cast, version.model, "production", {"minimum_score": 90})
    run = actions.examine(version, actor=cast.ana, environment="production")
    assert run.environment == "production"
    assert Policy.from_json(run.policy) == Policy(max_latency_ms=300, minimum_score=90)
    assert run.policy_sources == [
        {"id": general.pk, "model": "", "environment": "", "number": 1, "sets": ["max_latency_ms"]},
        {"id": particular.pk, "model": "textgen", "environment": "production", "number": 1, "sets": ["minimum_score"]},
    ]
    save(cast, None, "", {})
    run.refresh_from_db()
    assert run.policy["max_latency_ms"] == 300


def test_examination_without_an_environment_uses_no_environments_policy(cast: Cast, version: ModelVersion) -> None:
    save(cast, None, "production", {"minimum_score": 99})
    run = actions.examine(version, actor=cast.ana)
    assert (run.environment, run.policy["minimum_score"], run.policy_sources) == ("", 80.0, [])
