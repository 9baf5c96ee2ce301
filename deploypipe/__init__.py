"""The project package: composition on top (urls, wiring, embedded …), foundation below (core, metrics, stats)."""
