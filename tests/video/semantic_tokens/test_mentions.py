from video.semantic_tokens.mentions import mentions


def test_whole_words_count_whatever_stands_between_them():
    attributes = ("goes left", "goes right", "grows", "Zig_zag")
    assert mentions(["A square goes left, then GROWS."], attributes) == (0, 2)
    assert mentions(["it goes: right", "a zig-zag"], attributes) == (1, 3)
    assert mentions(["goes leftover", "regrows"], attributes) == ()


def test_a_clip_without_texts_and_an_attribute_without_words_have_no_mention():
    assert mentions([], ("left",)) == ()
    assert mentions(["", "..."], ("left", "...")) == ()
