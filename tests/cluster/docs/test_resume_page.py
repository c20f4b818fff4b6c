from cluster.config.resume_rules import FREE, LENGTH, RATES, REFUSED
from cluster.docs.resume_page import resume_page


def test_the_table_is_filled_anew_and_the_prose_stays():
    page = resume_page("before\n<!-- table rules -->\nOUTDATED\n<!-- end -->\nafter\n")
    assert page.startswith("before\n")
    assert page.endswith("\nafter\n")
    assert "OUTDATED" not in page
    for rule in (LENGTH, RATES, *FREE):
        assert f"| {rule.settings} | yes | {rule.text} |" in page
    for rule in REFUSED:
        assert f"| {rule.settings} | no | {rule.text} |" in page
