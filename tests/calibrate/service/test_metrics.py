from calibrate.service.metrics import Metrics


def test_a_watched_number_is_read_whenever_metrics_are_asked_for():
    metrics, queue = Metrics(), [1, 2]
    metrics.watch("queue_clips", "Clips that wait.", lambda: len(queue))
    assert b"deepintuit_queue_clips 2.0" in metrics.text()
    queue.pop()
    assert b"deepintuit_queue_clips 1.0" in metrics.text()
