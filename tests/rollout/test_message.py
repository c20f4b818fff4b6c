from rollout.message import Foreign, Message


def test_the_text_of_a_message_is_all_its_parts():
    assert Message("user", ("a", Foreign("b"))).text == "ab"
