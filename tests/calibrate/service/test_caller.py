from calibrate.service.caller import SCOPES, Caller


def test_a_caller_may_what_its_token_says_and_an_admin_all():
    reader = Caller(token_id="tok_1", name="r", scopes=frozenset({"read"}))
    admin = Caller(token_id="tok_2", name="a", scopes=frozenset({"admin"}))
    assert [scope for scope in SCOPES if reader.may(scope)] == ["read"]
    assert [scope for scope in SCOPES if admin.may(scope)] == list(SCOPES)
