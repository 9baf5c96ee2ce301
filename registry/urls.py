from __future__ import annotations

from django.urls import path

from registry import views

urlpatterns = [
    path("models/", views.model_list, name="model-list"),
    path("models/<str:name>/", views.model_detail, name="model-detail"),
    path("versions/<int:pk>/", views.version_detail, name="version-detail"),
    path("versions/<int:pk>/report/", views.version_report, name="version-report"),
    path("versions/<int:pk>/examine/", views.examine, name="version-examine"),
    path("versions/<int:pk>/approve/", views.approve, name="version-approve"),
    path("versions/<int:pk>/refuse/", views.refuse, name="version-refuse"),
]
