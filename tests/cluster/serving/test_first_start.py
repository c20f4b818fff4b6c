from pathlib import Path

from calibrate.service.service import Service, open_service
from cluster.serving.first_start import first_token, register_target
from cluster.serving.target import Target
from tests.calibrate.classifiers import make_description, publish
from tests.calibrate.service.running import make_config, make_parts


def target(classifier: Path) -> Target:
    return Target(state=classifier, classifier=classifier, source="run demo")


async def test_the_first_start_makes_one_token_with_all_rights_and_no_later_one_does(
    tmp_path: Path,
):
    async with open_service(make_config(tmp_path), make_parts()) as service:
        secret = first_token(service.tokens)
        assert secret is not None
        caller = service.tokens.caller_of(secret)
        assert caller.scopes == {"admin"}
        assert first_token(service.tokens) is None
        service.tokens.revoke(caller.token_id)
        assert first_token(service.tokens) is not None


async def test_the_first_classifier_is_champion_and_a_newer_one_challenger(tmp_path: Path):
    first = publish(tmp_path / "a").path
    newer = publish(tmp_path / "b", description=make_description(name="newer")).path
    async with open_service(make_config(tmp_path), make_parts()) as service:
        assert register_target(service, target(first)) == "classifier 1 of run demo is champion"
        assert aliases(service) == {"champion": 1}
        assert register_target(service, target(first)) is None
        words = register_target(service, target(newer))
        assert words is not None
        assert "is challenger; champion stays 1 until you promote it" in words
        assert aliases(service) == {"champion": 1, "challenger": 2}
        service.registry.set_challenger(None, by="ada")
        assert register_target(service, target(newer)) is None
        assert aliases(service) == {"champion": 1}


def aliases(service: Service) -> dict[str, int]:
    return service.registry.aliases()
