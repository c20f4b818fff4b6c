"""Tools for people who write rewards: lint, bench, new, rescore.

a function or a recipe -> subject.py -> lint.py, bench.py        starter.py -> a file to begin with
an archive and a recipe -> rescore.py -> scores beside it -> score_change.py -> what changed
"""
