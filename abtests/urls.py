from __future__ import annotations

from django.urls import path

from abtests import views

urlpatterns = [
    path("experiments/", views.experiment_list, name="experiment-list"),
    path("experiments/new/", views.experiment_new, name="experiment-new"),
    path("experiments/forecast/", views.experiment_forecast, name="experiment-forecast"),
    path("experiments/<int:pk>/", views.experiment_detail, name="experiment-detail"),
    path("experiments/<int:pk>/results/", views.experiment_results, name="experiment-results"),
    path("experiments/<int:pk>/looks/", views.experiment_looks, name="experiment-looks"),
    path("experiments/<int:pk>/charts/", views.experiment_charts, name="experiment-charts"),
    path("experiments/<int:pk>/charts/<str:name>/", views.experiment_chart, name="experiment-chart"),
    path("experiments/<int:pk>/stop/", views.experiment_stop, name="experiment-stop"),
    path("experiments/<int:pk>/agree/<str:verdict>/", views.experiment_agree, name="experiment-agree"),
    path("experiments/<int:pk>/drop/<str:arm>/", views.experiment_drop, name="experiment-drop"),
    path("experiments/of-rollout/<int:pk>/", views.rollout_experiments, name="rollout-experiments"),
]
