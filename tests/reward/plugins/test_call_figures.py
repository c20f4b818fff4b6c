from reward.plugins.call_figures import CallFigures


def test_figures_of_nodes_are_those_of_all_their_calls():
    figures = CallFigures(latencies=[0.4], num_started=1)
    figures.add(CallFigures(latencies=[0.1, 0.2], num_started=2, num_split=1, num_lost=1))
    assert figures.summary() == {
        "num_started": 3.0,
        "num_split": 1.0,
        "num_lost": 1.0,
        "latency_p50_s": 0.2,
        "latency_p99_s": 0.4,
    }


def test_what_is_taken_is_counted_once():
    figures = CallFigures(latencies=[0.4], num_started=1, num_lost=2)
    assert figures.take() == CallFigures(latencies=[0.4], num_started=1, num_lost=2)
    assert figures.take() == CallFigures()
    assert figures.summary() == {"num_started": 0.0, "num_split": 0.0, "num_lost": 0.0}
