"""Files for containers parse, and use commands and options that exist."""

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from shortlist.cli.app import app

DOCKER = Path(__file__).parents[1] / "docker"
COMMANDS = get_command(app).commands
TOKENS = {"SHORTLIST_TOKEN", "SHORTLIST_ADMIN_TOKEN", "SHORTLIST_WRITE_TOKEN"}


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, continued lines joined."""
    text = (DOCKER / "Dockerfile").read_text()
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def manifests() -> list[dict]:
    return list(yaml.safe_load_all((DOCKER / "kubernetes.yaml").read_text()))


def containers() -> list[dict]:
    found = []
    for each in manifests():
        template = each.get("spec", {}).get("template", {})
        found += template.get("spec", {}).get("containers", [])
    return found


def commands() -> list[list[str]]:
    (image,) = [json.loads(said) for name, said in dockerfile() if name == "CMD"]
    ours = [each["command"] for each in containers() if each["command"][0] == "shortlist"]
    return [image, *ours]


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command[:2]))
def test_a_command_for_a_container_can_be_asked_for(command):
    program, name, *given = command
    assert program == "shortlist"
    COMMANDS[name].make_context(name, list(given))


def test_the_dockerfile_copies_what_there_is_and_ends_as_it_should():
    said = dockerfile()
    known = {"FROM", "WORKDIR", "RUN", "ENV", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "CMD"}
    assert {name for name, _ in said} <= known | {"STOPSIGNAL"}
    for name, arguments in said:
        *sources, _ = arguments.split()
        if name == "COPY" and not sources[0].startswith("--from"):
            assert all((DOCKER.parent / source).exists() for source in sources)
    assert ("STOPSIGNAL", "SIGTERM") in said


def test_compose_builds_the_dockerfile_and_sets_tokens_that_are_read():
    (service,) = [
        each
        for each in yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"].values()
        if "build" in each
    ]
    folder = DOCKER / service["build"]["context"]
    assert (folder / service["build"]["dockerfile"]).is_file()
    assert set(service["environment"]) <= TOKENS


def test_manifests_name_each_other_rightly():
    by_kind: dict[str, list[dict]] = {}
    for each in manifests():
        by_kind.setdefault(each["kind"], []).append(each)
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        for kind in ("Deployment", "StatefulSet")
        for each in by_kind[kind]
    ]
    for kind in ("Deployment", "StatefulSet"):
        for each in by_kind[kind]:
            assert each["spec"]["selector"]["matchLabels"] in labels
    for service in by_kind["Service"]:
        assert service["spec"]["selector"] in labels
    services = {each["metadata"]["name"] for each in by_kind["Service"]}
    stores = [
        re.match(r"redis://([^:/]+):6379/", word)[1]
        for command in commands()
        for word in command
        if word.startswith("redis://")
    ]
    assert stores
    assert set(stores) <= services
    (secret,) = by_kind["Secret"]
    assert set(secret["stringData"]) == TOKENS
    for container in containers():
        volumes = {each["name"] for each in container.get("volumeMounts", [])}
        assert volumes <= {"bundles", "copies", "scratch", "data"}


def test_a_pod_has_longer_to_end_than_the_service_takes():
    (spec,) = [
        each["spec"]["template"]["spec"]
        for each in manifests()
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "shortlist"
    ]
    command = spec["containers"][0]["command"]
    takes = sum(float(command[command.index(name) + 1]) for name in ("--notice", "--drain"))
    assert spec["terminationGracePeriodSeconds"] > takes
