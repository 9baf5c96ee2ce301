"""Every address of the product."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth import views as auth_views
from django.urls import include, path

from abtests import api as abtests_api
from abtests import design_api
from deploypipe import overview, probes
from deploypipe.core import views as core_views
from deploypipe.core.api import Nothing
from deploypipe.core.audit_api import AuditList
from registry import api as registry_api
from registry import policy_api, report_api
from rollouts import api as rollouts_api
from rollouts import feedback_api

api = [
    path("models/", registry_api.ModelList.as_view()),
    path("models/<str:name>/", registry_api.ModelDetail.as_view()),
    path("models/<str:name>/versions/", registry_api.VersionList.as_view()),
    path("versions/<int:pk>/", registry_api.VersionDetail.as_view()),
    path("versions/<int:pk>/report/", registry_api.VersionReport.as_view()),
    path("versions/<int:pk>/examine/", registry_api.Examine.as_view()),
    path("versions/<int:pk>/approve/", registry_api.Approve.as_view()),
    path("versions/<int:pk>/refuse/", registry_api.Refuse.as_view()),
    path("versions/<int:pk>/suspend/", registry_api.Suspend.as_view()),
    path("versions/<int:pk>/retire/", registry_api.Retire.as_view()),
    path("versions/<int:pk>/tags/", registry_api.Tags.as_view()),
    path("qa-runs/<int:pk>/", report_api.RunDetail.as_view()),
    path("qa-runs/<int:pk>/report.json", report_api.JsonReport.as_view(), name="qa-run-json"),
    path("qa-runs/<int:pk>/report.md", report_api.MarkdownReport.as_view(), name="qa-run-markdown"),
    path("policies/", policy_api.PolicyList.as_view()),
    path("policies/history/", policy_api.PolicyHistory.as_view()),
    path("policies/export/", policy_api.PolicyExport.as_view()),
    path("policies/import/", policy_api.PolicyImport.as_view()),
    path("policies/<int:pk>/", policy_api.PolicyDetail.as_view()),
    path("policies/<int:pk>/export/", policy_api.PolicyOwnExport.as_view()),
    path("policies/<int:pk>/restore/", policy_api.PolicyRestore.as_view()),
    path("environments/", rollouts_api.EnvironmentList.as_view()),
    path("strategies/", rollouts_api.StrategyList.as_view()),
    path("rollouts/", rollouts_api.RolloutList.as_view()),
    path("rollouts/<int:pk>/", rollouts_api.RolloutDetail.as_view()),
    *(
        path(f"rollouts/<int:pk>/{verb}/", rollouts_api.RolloutVerb.as_view(), {"verb": verb})
        for verb in ("pause", "resume", "promote", "abort", "rollback", "approve", "drop-arm")
    ),
    path("experiments/", abtests_api.ExperimentList.as_view()),
    path("experiments/design/", design_api.ExperimentDesign.as_view()),
    path("experiments/<int:pk>/", abtests_api.ExperimentDetail.as_view()),
    path("experiments/<int:pk>/stop/", abtests_api.ExperimentStop.as_view()),
    path("experiments/<int:pk>/agree/", abtests_api.ExperimentAgree.as_view()),
    path("experiments/<int:pk>/evidence/", abtests_api.ExperimentEvidence.as_view()),
    path("feedback/", feedback_api.FeedbackView.as_view()),
    path("audit/", AuditList.as_view()),
    path("", Nothing.as_view()),
    path("<path:other>", Nothing.as_view()),
]

urlpatterns = [
    path("", overview.overview, name="overview"),
    path("", include("registry.urls")),
    path("", include("rollouts.urls")),
    path("", include("abtests.urls")),
    path("audit/", core_views.audit_list, name="audit-list"),
    path("sign-in/", core_views.SignIn.as_view(), name="login"),
    path("sign-out/", auth_views.LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("api/v1/", include(api)),
    path("healthz", probes.healthz),
    path("readyz", probes.readyz),
    path("metrics", probes.metrics),
]
