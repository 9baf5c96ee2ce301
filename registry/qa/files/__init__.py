"""Readers of a model's files. None of them runs, unpickles or loads what it reads; none needs the engine or torch."""
