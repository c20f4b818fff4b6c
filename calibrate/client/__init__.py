"""Client of the calibration service, sync and async."""
