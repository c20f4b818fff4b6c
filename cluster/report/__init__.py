"""One HTML file that shows a run: stages, curves, calibration, traces with their clips.

run directory -> gather -> Report -> page (data, styles, scripts, charts inlined) -> report.html
"""
