"""The verbs of the registry. Each: permission, guard, write, audit, announce, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Max

from deploypipe.core import audit, events, roles
from deploypipe.core.errors import Conflict, FourEyes, IllegalTransition, Invalid
from deploypipe.core.plain import plain
from registry import hooks, policies, registration
from registry.artifacts import Manifest
from registry.events import QARequested, VersionChanged
from registry.lifecycle import RunStatus, Stage
from registry.models import NAME, Approval, Decision, ModelVersion, QARun, RegisteredModel, VersionTag
from registry.qa.policy import Policy

if TYPE_CHECKING:
    from django.contrib.auth.models import User


@transaction.atomic
def create_model(name: str, *, actor: User, description: str = "") -> RegisteredModel:
    roles.require(actor, "registry.register")
    try:
        NAME(name)
    except ValidationError as error:
        raise Invalid("The model's name is not usable.", fields={"name": f"{name!r}: {error.messages[0]}"}) from None
    try:
        with transaction.atomic():
            model = RegisteredModel.objects.create(name=name, description=description, created_by=actor)
    except IntegrityError:
        raise Conflict(f"There is a model {name!r} already.", fields={"name": "choose another one"}) from None
    audit.record(actor, "model.created", model, after={"name": name})
    return model


def register(
    model: RegisteredModel,
    *,
    actor: User,
    artifact_uri: str,
    engine: str,
    manifest: Mapping[str, Any] | None = None,
    engine_arguments: Sequence[str] = (),
    git_commit: str = "",
    parameters: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    description: str = "",
    request_key: str | None = None,
) -> ModelVersion:
    """Register the next version. Without a manifest, the bytes as they are now are read and become the registered ones.

    With a `request_key` that this model has seen, the version of that earlier request is returned. Reading the bytes
    may take minutes: it is done before the transaction, not in it.
    """
    roles.require(actor, "registry.register")
    given = {
        "artifact_uri": artifact_uri,
        "engine": engine,
        "engine_arguments": list(engine_arguments),
        "git_commit": git_commit,
        "parameters": plain(parameters or {}),
        "description": description,
    }
    registration.engine(engine, engine_arguments)
    tags = registration.tags(tags or {})
    read = registration.manifest(artifact_uri, manifest) if manifest is not None else None
    if request_key and (earlier := _earlier(model, request_key, given, read)):
        return earlier
    return _register(model, actor, given, read or registration.manifest(artifact_uri, None), tags, request_key)


@transaction.atomic
def _register(
    model: RegisteredModel,
    actor: User,
    given: Mapping[str, Any],
    manifest: Manifest,
    tags: Mapping[str, str],
    request_key: str | None,
) -> ModelVersion:
    # Locked, so that two registrations at once get two numbers, and the same request twice at once one version.
    model = RegisteredModel.objects.select_for_update().get(pk=model.pk)
    if request_key and (earlier := _earlier(model, request_key, given, manifest)):
        return earlier
    version = ModelVersion.objects.create(
        model=model,
        number=(model.versions.aggregate(last=Max("number"))["last"] or 0) + 1,
        manifest=manifest.to_json(),
        digest=manifest.digest,
        registered_by=actor,
        request_key=request_key,
        **given,
    )
    VersionTag.objects.bulk_create(VersionTag(version=version, key=key, value=value) for key, value in tags.items())
    after = {"digest": version.digest, "artifact": version.artifact_uri}
    audit.record(actor, "version.registered", version, after=after)
    events.announce(VersionChanged(version.pk, version.stage))
    return version


def _earlier(
    model: RegisteredModel, request_key: str, given: Mapping[str, Any], manifest: Manifest | None
) -> ModelVersion | None:
    """The version of the earlier request. Another request under the same key is a mistake that nobody must miss."""
    earlier = model.versions.filter(request_key=request_key).first()
    if earlier is None:
        return None
    same = all(getattr(earlier, name) == value for name, value in given.items())
    if not same or (manifest is not None and manifest.digest != earlier.digest):
        raise Conflict(f"This Idempotency-Key was used for {earlier}, which was registered with other values.")
    return earlier


@transaction.atomic
def tag(version: ModelVersion, key: str, value: str, *, actor: User) -> VersionTag:
    roles.require(actor, "registry.register")
    registration.tags({key: value})
    before = {t.key: t.value for t in version.tags.filter(key=key)}
    row, _ = VersionTag.objects.update_or_create(version=version, key=key, defaults={"value": value})
    audit.record(actor, "version.tagged", version, before=before, after={key: value})
    return row


@transaction.atomic
def examine(version: ModelVersion, *, actor: User | None, environment: str = "", policy: Policy | None = None) -> QARun:
    """Ask for an examination; a worker carries it out. The run keeps the exact policy, and where it came from.

    `environment` says whose policy it is judged by; empty: the one that holds wherever no environment has its own.
    """
    if actor is not None:
        roles.require(actor, "registry.examine")
    policies.require_environment(environment)
    effective = policies.effective(version.model, environment)
    before = version.stage
    try:
        version.advance("examine")
        with transaction.atomic():
            run = QARun.objects.create(
                version=version,
                digest=version.digest,
                policy=(policy or effective.policy).to_json(),
                environment=environment,
                policy_sources=[] if policy else effective.sources,
                requested_by=actor,
            )
    except IntegrityError:
        raise Conflict(f"{version} is being examined already.") from None
    after = {"stage": version.stage, "qa_run": run.pk, **({"environment": environment} if environment else {})}
    audit.record(actor, "version.examine", version, before={"stage": before}, after=after)
    events.announce(VersionChanged(version.pk, version.stage))
    events.announce(QARequested(run.pk, version.pk))
    return run


@transaction.atomic
def approve(
    version: ModelVersion,
    *,
    actor: User,
    note: str = "",
    override: bool = False,
    seen_run: int | None = None,
) -> Approval:
    """Let the version be deployed. Four eyes: whoever registered it cannot approve it.

    `seen_run` is the examination that the approver looked at; where there is a newer one, they must look again.
    """
    roles.require(actor, "registry.approve")
    if version.registered_by_id == actor.pk:
        raise FourEyes("You registered this version; someone else must approve it.")
    if sentence := version.refusal("approve"):
        raise IllegalTransition(sentence)
    run = _latest_finished(version)
    _still_current(run, seen_run)
    if run is None or run.digest != version.digest:
        raise Conflict(f"There is no examination of exactly these bytes of {version}. Examine it first.")
    if version.needs_override and not (override and note.strip()):
        raise Invalid(
            f"The score of {version.score:g} is below what may be approved without an override.",
            fields={"override": "set it to true", "note": "say why the version may be deployed all the same"},
        )
    before = version.stage
    version.advance("approve")
    return _decided(version, Decision.APPROVE, actor, note, run, before=before, override=version.needs_override)


@transaction.atomic
def refuse(version: ModelVersion, *, actor: User, note: str, seen_run: int | None = None) -> Approval:
    """Say no, with a reason. Also takes back an approval, as long as nothing has been deployed by it."""
    roles.require(actor, "registry.approve")
    if sentence := version.refusal("refuse"):
        raise IllegalTransition(sentence)
    if not note.strip():
        raise Invalid("A refusal needs a reason.", fields={"note": "say what is wrong, for whoever registered it"})
    if version.stage == Stage.APPROVED and (use := hooks.use_of(version)):
        raise Conflict(f"{version} cannot be refused any more. {use}")
    run = _latest_finished(version)
    _still_current(run, seen_run)
    before = version.stage
    version.advance("refuse")
    return _decided(version, Decision.REFUSE, actor, note, run, before=before)


def _latest_finished(version: ModelVersion) -> QARun | None:
    return version.qa_runs.filter(status=RunStatus.FINISHED).order_by("-pk").first()


def _still_current(run: QARun | None, seen_run: int | None) -> None:
    if seen_run is not None and (run is None or run.pk != seen_run):
        raise Conflict("The version was examined again since you opened the page. Look at the new report first.")


def _decided(
    version: ModelVersion,
    decision: Decision,
    actor: User,
    note: str,
    run: QARun | None,
    *,
    before: str,
    override: bool = False,
) -> Approval:
    approval = Approval.objects.create(
        version=version,
        decision=decision,
        digest=version.digest,
        qa_run=run,
        by=actor,
        note=note.strip(),
        override=override,
    )
    audit.record(
        actor,
        f"version.{decision.label}",
        version,
        before={"stage": before},
        after={
            "stage": version.stage,
            "digest": version.digest,
            "qa_run": run.pk if run else None,
            "score": version.score,
        },
        reason=approval.note,
    )
    events.announce(VersionChanged(version.pk, version.stage))
    return approval


@transaction.atomic
def suspend(version: ModelVersion, *, actor: User | None, reason: str) -> None:
    """Take back the word that it may be deployed: it must be examined and approved anew."""
    if actor is not None:
        roles.require(actor, "registry.approve")
    if not reason.strip():
        raise Invalid("A suspension needs a reason.", fields={"reason": "say what is wrong with it"})
    before = version.stage
    version.advance("suspend")
    audit.record(
        actor, "version.suspended", version, before={"stage": before}, after={"stage": version.stage}, reason=reason
    )
    events.announce(VersionChanged(version.pk, version.stage))


@transaction.atomic
def retire(version: ModelVersion, *, actor: User, reason: str = "") -> None:
    """The end of a version. Refused while anything uses it."""
    roles.require(actor, "registry.retire")
    if use := hooks.use_of(version):
        raise Conflict(f"{version} cannot be retired. {use}")
    before = version.stage
    version.advance("retire")
    audit.record(
        actor, "version.retired", version, before={"stage": before}, after={"stage": version.stage}, reason=reason
    )
    events.announce(VersionChanged(version.pk, version.stage))
