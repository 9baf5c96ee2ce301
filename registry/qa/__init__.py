"""The quality gate: checks, the policy they judge by, and the runner. No Django: it also works without a server."""
