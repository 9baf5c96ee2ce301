"""Histograms had eight bins for each doubling and have sixty-four: what was in bin i is put into the middle of it.

In pieces, each row with the mark of what it holds: stopped half-way, it goes on where it was, and rows that older code
writes meanwhile are known by their mark.
"""

from django.db import migrations

COARSE, FINE = 8, 64
FACTOR = FINE // COARSE
AT_ONCE = 500


def _rewrite(apps, schema_editor, before, after, key):
    windows = apps.get_model("metrics", "Window").objects.using(schema_editor.connection.alias)
    last = 0
    while True:
        rows = list(windows.filter(bins=before, pk__gt=last).order_by("pk")[:AT_ONCE])
        if not rows:
            return
        for row in rows:
            row.first_ms, row.duration_ms = _moved(row.first_ms, key), _moved(row.duration_ms, key)
            row.bins = after
        windows.bulk_update(rows, ["first_ms", "duration_ms", "bins"])
        last = rows[-1].pk


def _moved(histogram, key):
    moved = {}
    for bin_, count in histogram.items():
        place = str(key(int(bin_)))
        moved[place] = moved.get(place, 0) + count
    return moved


def finer(apps, schema_editor):
    _rewrite(apps, schema_editor, COARSE, FINE, lambda bin_: bin_ * FACTOR + FACTOR // 2)


def coarser(apps, schema_editor):
    _rewrite(apps, schema_editor, FINE, COARSE, lambda bin_: bin_ // FACTOR)


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("metrics", "0002_sessions_and_feedback")]

    operations = [migrations.RunPython(finer, coarser)]
