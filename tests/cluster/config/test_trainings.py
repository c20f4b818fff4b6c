from cluster.config.trainings import training_of, verdict_optim
from tests.cluster.session_fakes import make_config


def test_every_stage_that_trains_says_how_long_and_how():
    config = make_config(coldstart={"epochs": 2}, grpo={"num_steps": 7})
    lengths = {stage.name: training_of(stage) for stage in config.chain}
    assert lengths["base"] is None
    assert {name: (t.length, t.unit) for name, t in lengths.items() if t} == {
        "coldstart": (2, "epochs"),
        "grpo": (7, "steps"),
        "calibrated": (2, "epochs"),
    }
    assert training_of(None) is None
    head = make_config(calibrate={"methods": ["head"]}).chain["calibrated"]
    assert training_of(head) is None


def test_a_curve_depends_on_the_length_only_where_the_schedule_does():
    def curve(steps: int, **optim: object) -> object:
        training = training_of(make_config(grpo={"num_steps": steps, "optim": optim}).chain["grpo"])
        assert training is not None
        return training.curve

    assert curve(3) == curve(6)
    assert curve(3, warmup_steps=2) == curve(6, warmup_steps=2)
    assert curve(3, decay="linear") != curve(6, decay="linear")
    assert curve(3, warmup_steps=0, warmup_frac=0.5) != curve(6, warmup_steps=0, warmup_frac=0.5)
    assert verdict_optim(make_config().calibrate).follows_length
