from video.semantic_tokens.mentions import mentions


def test_whole_words_count_whatever_stands_between_them():
    attributes = ("goes left", "goes right", "grows", "Zig_zag")
    assert mentions(["A square goes left, then GROWS."], attributes) == (0, 2)
    assert mentions(["it goes: right", "a zig-zag"], attributes) == (1, 3)
    assert mentions(["goes leftover", "regrows"], attributes) == ()


def test_a_clip_without_texts_and_an_attribute_without_words_have_no_mention():
    assert mentions([], ("left",)) == ()
    assert mentions(["", "..."], ("left", "...")) == ()


def test_an_attribute_within_a_longer_one_is_not_named_by_it():
    labels = ("fall", "fall down", "sit down", "down")
    assert mentions(["fall down"], labels) == (1,)
    assert mentions(["fall"], labels) == (0,)
    assert mentions(["a fall, no fall down"], labels) == (0, 1)
    assert mentions(["fall down", "down"], labels) == (1, 3)
    assert mentions(["fall sit down"], labels) == (0, 2)
    assert mentions(["goes left up"], ("goes left", "left up")) == (0, 1), "neither is within"


def test_an_accent_is_one_letter_however_it_is_encoded():
    assert mentions(["un caf\u00e9 noir"], ("cafe\u0301",)) == (0,)
