import sqlite3
from pathlib import Path

import pytest

from calibrate.service.policies.policies import Policies
from calibrate.service.problems import Problem
from tests.calibrate.service.deciding import caller, deciding, make_held_out, make_policy


async def test_each_classifier_has_its_own_threshold_which_is_kept(tmp_path: Path):
    with deciding(tmp_path) as parts:
        first = parts.classifier("first", held_out=make_held_out(400))
        second = parts.classifier("second", held_out=make_held_out(1200))
        await parts.policies.create(make_policy(), caller(), first)
        (one,), (other,) = [await parts.policies.active(c) for c in (first, second)]
        assert one.threshold is not None
        assert other.threshold is not None
        assert (one.threshold.num_held_out, other.threshold.num_held_out) == (400, 1200)
        (first.path / "held_out.json").unlink()  # what was derived does not depend on it any more
        again = Policies(parts.database, parts.audit)
        assert await again.active(first) == (one,)


async def test_a_change_is_a_new_version_in_force_at_once(tmp_path: Path):
    with deciding(tmp_path) as parts:
        classifier = parts.classifier(held_out=make_held_out())
        first = await parts.policies.create(make_policy(), caller(), classifier)
        assert [one.policy for one in await parts.policies.active(classifier)] == [first]
        second = await parts.policies.create(make_policy(goal=0.85), caller("bob"), classifier)
        assert (first.version, second.version, second.created_by) == (1, 2, "bob")
        active = await parts.policies.active(classifier)
        assert [one.policy for one in active] == [second]
        assert await parts.policies.versions("take-down") == [first, second]
        (old,) = await parts.policies.at([("take-down", 1)], classifier)
        assert old.policy == first


async def test_a_retired_policy_is_kept_and_can_come_back(tmp_path: Path):
    with deciding(tmp_path) as parts:
        classifier = parts.classifier(held_out=make_held_out())
        await parts.policies.create(make_policy(), caller(), None)
        retired = await parts.policies.retire("take-down", caller())
        assert (retired.version, retired.retired) == (2, True)
        assert await parts.policies.retire("take-down", caller()) == retired
        assert await parts.policies.active(classifier) == ()
        back = await parts.policies.create(make_policy(), caller(), classifier)
        assert (back.version, back.retired) == (3, False)
        assert len(await parts.policies.active(classifier)) == 1
        assert [row.action for row in parts.audit.page(limit=9, subject="policies/take-down")] == [
            "policy.created",
            "policy.retired",
            "policy.created",
        ]


async def test_what_is_kept_cannot_be_changed(tmp_path: Path):
    with deciding(tmp_path) as parts:
        classifier = parts.classifier(held_out=make_held_out())
        await parts.policies.create(make_policy(), caller(), classifier)
        await parts.policies.active(classifier)
        for table in ("policies", "policy_thresholds"):
            for statement in (f"UPDATE {table} SET version = 9", f"DELETE FROM {table}"):
                with pytest.raises(sqlite3.IntegrityError), parts.database.write() as connection:
                    connection.execute(statement)


async def test_a_classifier_without_held_out_clips_or_the_label_says_so(tmp_path: Path):
    with deciding(tmp_path) as parts:
        classifier = parts.classifier()
        await parts.policies.create(make_policy(), caller(), None)
        await parts.policies.create(make_policy(id="odd", label="odd"), caller(), None)
        odd, old = await parts.policies.active(classifier)
        assert (odd.value, old.value) == (None, None)
        assert "has no label 'odd'" in odd.explanation
        assert "published without its held-out clips" in old.explanation
        with pytest.raises(Problem, match="has no label 'odd'; expected one of"):
            await parts.policies.create(make_policy(label="odd"), caller(), classifier)


async def test_a_preview_makes_no_policy(tmp_path: Path):
    with deciding(tmp_path) as parts:
        classifier = parts.classifier(held_out=make_held_out())
        preview = await parts.policies.preview(make_policy(), classifier)
        assert await parts.policies.newest() == []
        await parts.policies.create(make_policy(), caller(), classifier)
        (active,) = await parts.policies.active(classifier)
        assert preview.threshold == active.threshold
        with pytest.raises(Problem, match="there is no policy 'other'"):
            await parts.policies.versions("other")
