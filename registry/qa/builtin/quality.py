"""What the model writes, as far as a machine can judge it: held-out texts through the API."""

from __future__ import annotations
