from __future__ import annotations

from django.urls import path

from rollouts import views

urlpatterns = [
    path("rollouts/", views.rollout_list, name="rollout-list"),
    path("rollouts/new/", views.rollout_new, name="rollout-new"),
    path("rollouts/<int:pk>/", views.rollout_detail, name="rollout-detail"),
    path("rollouts/<int:pk>/status/", views.rollout_status, name="rollout-status"),
    path("rollouts/<int:pk>/charts/", views.rollout_charts, name="rollout-charts"),
    path("rollouts/<int:pk>/charts/<str:name>/", views.rollout_chart, name="rollout-chart"),
    path("rollouts/<int:pk>/<str:verb>/", views.rollout_verb, name="rollout-verb"),
    path("versions/<int:pk>/rollouts/", views.version_rollouts, name="version-rollouts"),
    path("models/<str:name>/live/", views.model_live, name="model-live"),
]
