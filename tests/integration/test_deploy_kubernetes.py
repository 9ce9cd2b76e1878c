"""deploy/kubernetes: the manifests are valid, and agree with each other and with the image."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from command.cli import COMMANDS
from command.settings import Settings
from command.supervisor import STOP_WITHIN
from console.protection import LIVE as ALIVE
from gateway.options import LIVE, READY

pytestmark = pytest.mark.tools

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "deploy" / "kubernetes"
SETTINGS = {f"DESK_{field.upper()}" for field in Settings.model_fields}


def documents(name: str) -> list[Any]:
    return list(YAML(typ="safe", pure=True).load_all(MANIFESTS / name))


def resources() -> Iterator[Any]:
    """Return what `kubectl apply -k` makes, and the example of a Secret."""
    (kustomization,) = documents("kustomization.yaml")
    for name in [*kustomization["resources"], "secret.example.yaml"]:
        yield from documents(name)


def cluster() -> Iterator[Any]:
    """Return what `kubectl apply -k` makes of the cluster."""
    (kustomization,) = documents("cluster/kustomization.yaml")
    for name in kustomization["resources"]:
        yield from documents(f"cluster/{name}")


def console() -> Iterator[Any]:
    """Return what `kubectl apply -k` makes of the console."""
    (kustomization,) = documents("console/kustomization.yaml")
    for name in kustomization["resources"]:
        yield from documents(f"console/{name}")


def resource(kind: str, name: str = "desk-sessions") -> Any:
    (found,) = (
        each for each in resources() if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found


def pod() -> Any:
    return resource("StatefulSet")["spec"]["template"]["spec"]


def containers() -> dict[str, Any]:
    return {container["name"]: container for container in pod()["containers"]}


def environment(container: str) -> dict[str, str]:
    own = {each["name"]: each["value"] for each in containers()[container]["env"]}
    return {**resource("ConfigMap")["data"], **own}


@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param(each, id=f"{each['kind']}-{each['metadata']['name']}")
        for each in (*resources(), *cluster(), *console())
    ],
)
def test_the_schema_of_kubernetes_accepts_the_manifest(manifest: Any) -> None:
    schema = pytest.importorskip("kubernetes_validate", reason="`make test-tools` installs it")

    schema.validate(manifest, schema.latest_version(), strict=True)


def test_every_manifest_is_applied_but_the_example() -> None:
    (kustomization,) = documents("kustomization.yaml")
    files = {path.name for path in MANIFESTS.glob("*.yaml")}

    assert set(kustomization["resources"]) == files - {"kustomization.yaml", "secret.example.yaml"}


@pytest.mark.parametrize("name", ["gateway", "service"])
def test_a_container_runs_the_command_that_it_is_named_after(name: str) -> None:
    assert containers()[name]["args"] == [name]
    assert name in COMMANDS


@pytest.mark.parametrize("name", ["gateway", "service"])
def test_every_variable_of_a_container_is_a_setting(name: str) -> None:
    assert set(environment(name)) <= SETTINGS


def test_no_variable_is_made_of_the_names_of_kubernetes_services() -> None:
    assert pod()["enableServiceLinks"] is False


def test_the_journal_has_one_writer_on_one_volume() -> None:
    spec = resource("StatefulSet")["spec"]

    assert spec["replicas"] == 1
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    for container in containers().values():
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts[claim["metadata"]["name"]] == image("VOLUME")


def image(instruction: str) -> str:
    (value,) = re.findall(rf"^{instruction} (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return str(value)


def test_the_backup_job_reads_the_volume_of_the_journal_on_its_node() -> None:
    job = resource("CronJob", "desk-sessions-backup")["spec"]["jobTemplate"]["spec"]["template"]
    (container,) = job["spec"]["containers"]
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in job["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    (journal,) = resource("StatefulSet")["spec"]["volumeClaimTemplates"]
    assert claims == {
        "data": f"{journal['metadata']['name']}-desk-sessions-0",
        "backups": resource("PersistentVolumeClaim", "desk-sessions-backups")["metadata"]["name"],
    }
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["data"] == image("VOLUME")
    assert container["args"] == ["backup", "--keep", "14", mounts["backups"]]
    assert job["spec"]["securityContext"] == pod()["securityContext"]
    assert container["securityContext"] == pod()["containers"][0]["securityContext"]
    (near,) = job["spec"]["affinity"]["podAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert near["labelSelector"] == resource("StatefulSet")["spec"]["selector"]


def test_pod_and_image_agree_on_the_user() -> None:
    context = pod()["securityContext"]

    assert f"{context['runAsUser']}:{context['runAsGroup']}" == image("USER")
    assert context["fsGroup"] == context["runAsGroup"]


@pytest.mark.parametrize("name", ["gateway", "service"])
def test_a_container_is_confined(name: str) -> None:
    container = containers()[name]

    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert container["resources"]["limits"]["memory"]


def test_a_container_listens_where_its_probes_and_services_look() -> None:
    listening = {
        "http": environment("gateway")["DESK_HTTP_LISTEN"],
        "grpc": environment("service")["DESK_GRPC_LISTEN"],
        "metrics-gateway": environment("gateway")["DESK_METRICS_LISTEN"],
        "metrics-service": environment("service")["DESK_METRICS_LISTEN"],
    }
    ports = {
        port["name"]: port["containerPort"]
        for each in containers().values()
        for port in each["ports"]
    }
    assert {name: f"0.0.0.0:{port}" for name, port in ports.items()} == listening

    gateway, service = containers()["gateway"], containers()["service"]
    paths = {kind: gateway[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness")}
    assert paths == {
        "liveness": {"path": LIVE, "port": "http"},
        "readiness": {"path": READY, "port": "http"},
    }
    assert service["livenessProbe"]["grpc"] == service["readinessProbe"]["grpc"]
    assert service["readinessProbe"]["grpc"] == {"port": ports["grpc"]}

    exposed = [
        port for each in resources() if each["kind"] == "Service" for port in each["spec"]["ports"]
    ]
    # Prometheus scrapes the pod itself.
    assert {port["targetPort"]: port["port"] for port in exposed} == {
        name: port for name, port in ports.items() if not name.startswith("metrics-")
    }


def test_the_ingress_leads_to_the_gateway_at_the_callback_path() -> None:
    (rule,) = resource("Ingress")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    target = path["backend"]["service"]

    assert path["path"] == Settings.model_fields["callback_path"].default
    (port,) = resource("Service", target["name"])["spec"]["ports"]
    assert (port["name"], port["targetPort"]) == (target["port"]["name"], "http")


def test_the_gateway_and_nobody_else_is_given_the_tokens() -> None:
    (volume,) = (each for each in pod()["volumes"] if "secret" in each)
    mounted = {
        name: mount["mountPath"]
        for name, container in containers().items()
        for mount in container["volumeMounts"]
        if mount["name"] == volume["name"]
    }
    (file,) = resource("Secret", volume["secret"]["secretName"])["stringData"]

    assert {name: f"{path}/{file}" for name, path in mounted.items()} == {
        "gateway": environment("gateway")["DESK_CALLBACK_TOKENS_FILE"]
    }


def test_the_pod_has_the_time_it_needs_to_stop_in_order() -> None:
    assert pod()["terminationGracePeriodSeconds"] > STOP_WITHIN + 1


def in_cluster(kind: str, name: str) -> Any:
    (found,) = (
        each for each in cluster() if (each["kind"], each["metadata"]["name"]) == (kind, name)
    )
    return found["spec"]


def test_every_manifest_of_the_cluster_is_applied() -> None:
    (kustomization,) = documents("cluster/kustomization.yaml")
    files = {path.name for path in MANIFESTS.glob("cluster/*.yaml")}

    assert set(kustomization["resources"]) == files - {"kustomization.yaml", "nats.values.yaml"}


@pytest.mark.parametrize("name", ["gateway", "service"])
def test_two_of_each_run_as_the_one_does_each_on_a_volume_of_its_own(name: str) -> None:
    spec = in_cluster("StatefulSet", f"desk-{name}")
    here, alone = spec["template"]["spec"], pod()
    (container,) = here["containers"]
    (config,) = (each["data"] for each in cluster() if each["kind"] == "ConfigMap")
    given = {**config, **{each["name"]: each["value"] for each in container["env"]}}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}

    assert spec["replicas"] == 2
    assert spec["volumeClaimTemplates"][0]["metadata"]["name"] == "data"
    assert mounts["data"] == image("VOLUME")
    assert container["args"] == [name]
    for part in ("securityContext", "terminationGracePeriodSeconds", "enableServiceLinks"):
        assert here[part] == alone[part]
    same = ("securityContext", "resources", "startupProbe", "livenessProbe", "readinessProbe")
    for part in same:
        assert container[part] == containers()[name][part]
    assert set(environment(name)) <= set(given) <= SETTINGS
    assert given["DESK_NATS_NKEY"].startswith(mounts["nats"])
    assert {"secretName": f"desk-{name}-nats"} in [each.get("secret") for each in here["volumes"]]


@pytest.mark.parametrize("name", ["gateway", "service"])
def test_what_selects_the_pods_of_the_cluster_finds_them(name: str) -> None:
    template = in_cluster("StatefulSet", f"desk-{name}")["template"]
    labels = template["metadata"]["labels"]
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    service = in_cluster("Service", f"desk-{name}")
    policy = in_cluster("NetworkPolicy", f"desk-{name}")

    assert service["selector"] == labels
    assert policy["podSelector"]["matchLabels"] == labels
    assert in_cluster("PodDisruptionBudget", f"desk-{name}")["selector"]["matchLabels"] == labels
    assert {port["targetPort"] for port in service["ports"]} <= ports
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports


def test_the_nats_of_the_cluster_syncs_before_it_acknowledges() -> None:
    (values,) = documents("cluster/nats.values.yaml")
    (settings,) = (each["data"] for each in cluster() if each["kind"] == "ConfigMap")

    assert values["config"]["jetstream"]["merge"]["sync_interval"] == "always"
    assert str(values["config"]["cluster"]["replicas"]) == settings["DESK_NATS_REPLICAS"]


def test_the_users_of_nats_have_the_permissions_that_those_of_compose_have() -> None:
    (values,) = documents("cluster/nats.values.yaml")
    *limited, operator = values["config"]["merge"]["authorization"]["users"]
    conf = (ROOT / "deploy/nats/nats.conf").read_text()

    assert "permissions" not in operator
    for given, user in zip(limited, ("GATEWAY", "SERVICE"), strict=True):
        (block,) = re.findall(rf"nkey: \$NATS_{user}, permissions: (.*?)\}}\}}", conf, re.DOTALL)
        assert words(json.dumps(given["permissions"])) == words(block)


def words(permissions: str) -> list[str]:
    """Return the words of permissions, in the format of NATS or in JSON."""
    return re.findall(r"[^\s{}\[\]:,\"]+", permissions)


def of_console(kind: str) -> Any:
    (found,) = (each["spec"] for each in console() if each["kind"] == kind)
    return found


def test_every_manifest_of_the_console_is_applied() -> None:
    (kustomization,) = documents("console/kustomization.yaml")

    files = {path.name for path in MANIFESTS.glob("console/*.yaml")}
    assert set(kustomization["resources"]) == files - {"kustomization.yaml"}


def test_the_console_is_confined_as_the_service_is_and_has_none_of_its_files() -> None:
    here = of_console("Deployment")["template"]["spec"]
    (container,) = here["containers"]
    volumes = {each["name"]: {*each} - {"name"} for each in here["volumes"]}

    assert container["args"] == ["console"]
    assert container["image"] == containers()["service"]["image"]
    assert here["securityContext"] == pod()["securityContext"]
    assert container["securityContext"] == containers()["service"]["securityContext"]
    assert container["resources"]["limits"]["memory"]
    assert volumes == {"tmp": {"emptyDir"}, "passwords": {"secret"}}


def test_the_console_listens_where_its_probes_and_its_service_look() -> None:
    (container,) = of_console("Deployment")["template"]["spec"]["containers"]
    given = {each["name"]: each["value"] for each in container["env"]}
    ports = {port["name"]: f"0.0.0.0:{port['containerPort']}" for port in container["ports"]}

    assert set(given) - {"DESK_TARGET"} <= SETTINGS
    assert ports == {
        "console": given["DESK_CONSOLE_LISTEN"],
        "metrics": given["DESK_METRICS_LISTEN"],
    }
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": ALIVE, "port": "console"}
    assert [port["targetPort"] for port in of_console("Service")["ports"]] == ["console"]
    (rule,) = of_console("Ingress")["rules"]
    (path,) = rule["http"]["paths"]
    (name,) = (each["metadata"]["name"] for each in console() if each["kind"] == "Service")
    assert path["backend"]["service"] == {"name": name, "port": {"name": "console"}}


def test_the_policies_let_the_console_reach_the_service_and_nothing_else() -> None:
    labels = of_console("Deployment")["template"]["metadata"]["labels"]
    policy = of_console("NetworkPolicy")
    service, _names = policy["egress"]
    (selection,) = service["to"][0]["podSelector"]["matchExpressions"]
    served = {
        "desk-sessions": resource("NetworkPolicy")["spec"],
        "desk-service": in_cluster("NetworkPolicy", "desk-service"),
    }

    for selector in (of_console("Service")["selector"], policy["podSelector"]["matchLabels"]):
        assert selector.items() <= labels.items()
    assert set(selection["values"]) == set(served)
    for accepting in served.values():
        callers = [
            peer["podSelector"]["matchLabels"]
            for rule in accepting["ingress"]
            for peer in rule["from"]
            if "podSelector" in peer and rule["ports"][0]["port"] == "grpc"
        ]
        assert any(caller.items() <= labels.items() for caller in callers)
