"""Published classifiers of a run, as the report's script reads them."""

from typing import Any

from calibrate.published import PublishedClassifier


def classifier_values(stage: str, published: PublishedClassifier) -> dict[str, Any]:
    """Plain values of the classifier that a stage published."""
    calibration = published.calibration
    return {
        "stage": stage,
        "method": published.method,
        "version": published.version,
        "policy_version": published.policy_version,
        "foreign": published.foreign,
        "not_attained": published.not_attained,
        "temperature": calibration.calibrator.temperature,
        "sets_texts": [one.explanation for one in calibration.sets],
        "threshold_texts": [one.explanation for one in calibration.thresholds],
        **calibration.to_json(),
    }
