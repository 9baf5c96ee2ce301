"""Examinations and their reports over REST."""

from __future__ import annotations

import json
import re

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from deploypipe.core.api import FileView, MayView
from deploypipe.core.errors import Conflict
from registry import examinations
from registry.report import Examination, to_json
from registry.report_markdown import markdown
from registry.serializers import QARunOut


class RunDetail(APIView):
    permission_classes = [MayView]

    def get(self, request: Request, pk: int) -> Response:
        return Response(QARunOut(get_object_or_404(examinations.with_results(), pk=pk)).data)


class _Report(FileView):
    """409 until the examination has ended with a verdict."""

    content_type: str
    suffix: str

    def get(self, request: Request, pk: int) -> HttpResponse:
        run = get_object_or_404(examinations.with_results(), pk=pk)
        found = examinations.as_examination(run)
        if found is None:
            raise Conflict(f"There is no report: the examination is {run.status}.")
        name = f"qa_report-{_word(found.version)}-{run.pk}.{self.suffix}"
        disposition = f'attachment; filename="{name}"'
        return HttpResponse(
            self.write(found), content_type=self.content_type, headers={"Content-Disposition": disposition}
        )

    def write(self, examination: Examination) -> str:
        raise NotImplementedError


class JsonReport(_Report):
    content_type = "application/json"
    suffix = "json"

    def write(self, examination: Examination) -> str:
        return json.dumps(to_json(examination), indent=2, ensure_ascii=False) + "\n"


class MarkdownReport(_Report):
    content_type = "text/markdown; charset=utf-8"
    suffix = "md"

    def write(self, examination: Examination) -> str:
        return markdown(examination)


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
