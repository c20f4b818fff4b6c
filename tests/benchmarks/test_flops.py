import torch
from torch.utils.flop_counter import FlopCounterMode

from learner.model.policy import Policy
from learner.shared_prefix.layout import Layout
from learner.shared_prefix.rows import Row
from tests.benchmarks.flops import Sizes, Work, flops
from tests.benchmarks.shared_prefix import batch_of, build_vlm, make_row

SIZES = Sizes(
    text_weights=100,
    text_width=10,
    head_weights=50,
    vision_weights=20,
    vision_width=5,
    merger_weights=7,
    merge=4,
)


def test_a_step_worked_by_hand():
    layout = Layout.of([(3, [2, 1])])  # pairs: 6 in the prompt, 9 on it, 3 and 1 in the responses
    found = flops(SIZES, Work.of(layout, [(2, 2, 4)]))
    assert found.attention == 12 * 10 * 19
    assert found.mlp == 6 * 100 * 6
    assert found.head == 6 * 50 * 3
    assert found.vision == 6 * (20 * 16 + 7 * 4) + 12 * 5 * 2 * 64
    assert found.total == sum(found)


def test_the_ideal_of_a_long_prompt_nears_the_ratio_of_tokens():
    prompt, group = 10**6, 8
    shared = Work.of(Layout.of([(prompt, [1] * group)]), [])
    naive = Work.of(Layout.of([(prompt, [1])] * group), [])
    ratio = flops(SIZES, naive).total / flops(SIZES, shared).total
    assert abs(ratio / group - 1) < 1e-4


def test_products_with_weights_are_those_that_torch_counts():
    row: Row = make_row(prompt_tokens=40, response_tokens=4, group_size=2, grid=(1, 8, 12))
    policy = Policy(build_vlm("cpu", torch.float32))
    batch = batch_of([row], grid=(1, 8, 12))
    with FlopCounterMode(display=False) as counter:
        sum(x.sum() for x in policy(batch)).backward()
    ours = flops(Sizes.of(policy.vlm), Work.of(batch.layout, batch.grid_thw.tolist()))
    counted = counter.get_flop_counts()["Global"]
    products = sum(n for kind, n in counted.items() if "attention" not in str(kind))
    # the head computes its logits again; nothing is known of the gradient of pixels, so the first
    # layer of the tower has two products, not three
    expected = ours.mlp + ours.head * 4 / 3
    assert expected < products < expected + ours.vision
