from __future__ import annotations

from django.urls import path

from abtests import views

urlpatterns = [
    path("experiments/", views.experiment_list, name="experiment-list"),
    path("experiments/<int:pk>/", views.experiment_detail, name="experiment-detail"),
    path("experiments/<int:pk>/results/", views.experiment_results, name="experiment-results"),
    path("experiments/<int:pk>/stop/", views.experiment_stop, name="experiment-stop"),
    path("experiments/of-rollout/<int:pk>/", views.rollout_experiments, name="rollout-experiments"),
]
