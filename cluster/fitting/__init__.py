"""Fits without a run: classifiers from the traces of an archive, once or while its run trains."""
