import pytest

from rollout.prompt_size import PromptSize


@pytest.mark.parametrize(
    ("size", "text", "remedy"),
    [
        ({"video": 500}, "800 tokens, 500 of them video", "video.max_pixels"),
        (
            {"video": 26, "labels": 700},
            "800 tokens, 26 of them video, 700 labels and their definitions",
            "labels' definitions",
        ),
        (
            {"video": 26, "labels": 30, "data": 400},
            "800 tokens, 26 of them video, 30 labels and their definitions, "
            "400 side text or columns",
            "side texts",
        ),
        ({"video": 100, "labels": 200}, "800 tokens, 100 of them video, 200", "[prompts]"),
    ],
)
def test_the_largest_part_is_what_the_remedy_names(size: dict[str, int], text: str, remedy: str):
    made = PromptSize(**{"total": 800, "labels": 0, "data": 0, **size})
    assert str(made).startswith(text)
    assert remedy in made.remedy
