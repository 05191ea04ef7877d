"""The image and the manifests in deploy/ fit the server: flags, ports, probes, files."""

import json
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from tfsoftmax.cli import app

ROOT = Path(__file__).parents[2]
IMAGE = [line for line in (ROOT / "Containerfile").read_text().replace("\\\n", "").splitlines() if line[:1].isupper()]
DEPLOYMENT, SERVICE = yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())
RUNTIME = yaml.safe_load((ROOT / "deploy/kserve.yaml").read_text())
CONTAINERS = {
    "kubernetes": DEPLOYMENT["spec"]["template"]["spec"]["containers"][0],
    "kserve": RUNTIME["spec"]["containers"][0],
}


def words(instruction):
    """What follows an instruction of the Containerfile where it stands last."""
    return [line.partition(" ")[2] for line in IMAGE if line.startswith(f"{instruction} ")][-1]


def parsed(arguments):
    """The arguments as `tfsoftmax serve` reads them."""
    command = get_command(app).commands["serve"]
    return command.make_context("serve", list(arguments), resilient_parsing=False).params


@pytest.mark.parametrize("name", CONTAINERS)
def test_ports_and_probes_are_those_of_the_server(server, name):
    container = CONTAINERS[name]
    given = parsed(container["args"])
    assert given["host"] == "0.0.0.0"
    assert bool(given["insecure"]) == (name == "kserve")
    ports = [port["containerPort"] for port in container["ports"]]
    assert ports == [port for port in (given["port"], given["grpc_port"]) if port is not None]
    probes = [probe["httpGet"] for key, probe in container.items() if key.endswith("Probe")]
    assert {probe["port"] for probe in probes} <= {"http", given["port"]}
    for probe in probes:
        assert server.request("GET", probe["path"])[0] == 200
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]  # metrics of several workers


def test_the_image_is_what_the_manifests_run():
    pod = DEPLOYMENT["spec"]["template"]
    container = CONTAINERS["kubernetes"]
    assert json.loads(words("CMD")) == container["args"]
    assert json.loads(words("ENTRYPOINT")) == ["tfsoftmax", "serve"]
    assert words("USER") == "65532:65532"
    assert pod["spec"]["securityContext"]["runAsUser"] == 65532
    assert words("EXPOSE").split() == [str(port["containerPort"]) for port in container["ports"]]
    for line in IMAGE:
        if line.startswith("COPY ") and "--from" not in line:
            assert all((ROOT / name).exists() for name in line.split()[1:-1]), line
    assert pod["metadata"]["labels"] == DEPLOYMENT["spec"]["selector"]["matchLabels"] == SERVICE["spec"]["selector"]
    assert [port["targetPort"] for port in SERVICE["spec"]["ports"]] == [port["name"] for port in container["ports"]]


def test_the_probe_of_the_image(server):
    _, code, program = json.loads(words("HEALTHCHECK").partition("CMD ")[2])
    assert code == "-c"
    exec(program.replace("127.0.0.1:8501", server.address), {})
    with pytest.raises(OSError, match="refused"):
        exec(program.replace("8501", "1"), {})


def test_a_request_may_take_its_time_before_the_pod_ends():
    spec = DEPLOYMENT["spec"]["template"]["spec"]
    before = float(CONTAINERS["kubernetes"]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > before + parsed(["x"])["timeout"]
