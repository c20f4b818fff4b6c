from cluster.metrics.decoded_clips import DecodedClips

NONE_LOST = {"video/decoders_lost": 0.0}


async def test_clips_are_counted_since_the_last_call():
    counts = [
        {"clip_hits": 3, "decoded_by_decord": 5},
        {"clip_hits": 4, "decoded_by_decord": 7, "decoded_by_pyav": 1},
        {"decoded_by_decord": 2},  # a worker was lost
    ]

    async def total() -> dict[str, int]:
        return counts.pop(0)

    decoded = DecodedClips(total)
    assert await decoded.new() == {
        "video/decoded_by_decord": 5.0,
        "video/decoded_by_pyav": 0.0,
        **NONE_LOST,
    }
    assert await decoded.new() == {
        "video/decoded_by_decord": 2.0,
        "video/decoded_by_pyav": 1.0,
        **NONE_LOST,
    }
    assert await decoded.new() == {
        "video/decoded_by_decord": 0.0,
        "video/decoded_by_pyav": 0.0,
        **NONE_LOST,
    }
