from __future__ import annotations

from django.urls import path

from registry import policy_views, views

urlpatterns = [
    path("models/", views.model_list, name="model-list"),
    path("models/<str:name>/", views.model_detail, name="model-detail"),
    path("versions/<int:pk>/", views.version_detail, name="version-detail"),
    path("versions/<int:pk>/report/", views.version_report, name="version-report"),
    path("examinations/<int:pk>/", views.examination, name="examination-detail"),
    path("versions/<int:pk>/examine/", views.examine, name="version-examine"),
    path("versions/<int:pk>/approve/", views.approve, name="version-approve"),
    path("versions/<int:pk>/refuse/", views.refuse, name="version-refuse"),
    path("versions/<int:pk>/suspend/", views.suspend, name="version-suspend"),
    path("policies/", policy_views.policy_list, name="policy-list"),
    path("policies/edit/", policy_views.policy_edit, name="policy-edit"),
    path("policies/export/", policy_views.policy_export, name="policy-export"),
    path("policies/<int:pk>/", policy_views.policy_detail, name="policy-detail"),
    path("policies/<int:pk>/export/", policy_views.policy_own_export, name="policy-own-export"),
    path("policies/<int:pk>/restore/", policy_views.policy_restore, name="policy-restore"),
]
