"""The three environments and the strategies that every installation begins with."""

from django.db import migrations

ENVIRONMENTS = [
    ("staging", "Where a version first runs as it will in production; no approval is asked.", 0, False),
    ("canary", "A small part of the real world, before production.", 1, True),
    ("production", "Real users.", 2, True),
]
STRATEGIES = [
    (
        "canary",
        "10 %, judged; 50 %, judged; then all.",
        [
            {"setWeight": 10},
            {"analysis": {"max_error_increase_points": 0.5, "max_error_rate_percent": 5.0, "max_seconds": 1800}},
            {"setWeight": 50},
            {"analysis": {"max_error_increase_points": 0.5, "max_error_rate_percent": 5.0, "max_seconds": 1800}},
            {"setWeight": 100},
        ],
    ),
    (
        "canary-quick",
        "As canary, with a margin of two points: decides at little traffic, and lets smaller harm through.",
        [
            {"setWeight": 10},
            {"analysis": {"max_error_increase_points": 2.0, "max_error_rate_percent": 10.0, "max_seconds": 900}},
            {"setWeight": 50},
            {"analysis": {"max_error_increase_points": 2.0, "max_error_rate_percent": 10.0, "max_seconds": 900}},
            {"setWeight": 100},
        ],
    ),
    ("all-at-once", "All traffic as soon as the server is healthy; nothing is judged.", [{"setWeight": 100}]),
]


def add(apps, schema_editor):
    Environment = apps.get_model("rollouts", "Environment")
    for name, description, position, protected in ENVIRONMENTS:
        Environment.objects.get_or_create(
            name=name, defaults={"description": description, "position": position, "protected": protected}
        )
    Strategy = apps.get_model("rollouts", "Strategy")
    for name, description, steps in STRATEGIES:
        Strategy.objects.get_or_create(name=name, defaults={"description": description, "steps": steps})


class Migration(migrations.Migration):
    dependencies = [("rollouts", "0001_initial")]
    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
