"""The Kubernetes manifest: valid against the schemas, and admitted where pods are restricted."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.sources import ROOT

MANIFEST = ROOT / "config" / "kubernetes.yaml"
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFEST.read_text()))
POD: dict[str, Any] = next(each for each in OBJECTS if each["kind"] == "StatefulSet")["spec"][
    "template"
]["spec"]
RESTRICTED_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}


@pytest.mark.parametrize("version", ["1.28", "1.31", "1.37"])
@pytest.mark.parametrize("number", range(len(OBJECTS)))
def test_each_object_is_valid(number: int, version: str) -> None:
    kubernetes_validate.validate(OBJECTS[number], version, strict=True)


def test_the_pod_meets_the_restricted_pod_security_standard() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards, profile *restricted*."""
    security = POD["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] != 0
    assert security["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
    assert not any(POD.get(shared) for shared in ("hostNetwork", "hostPID", "hostIPC"))
    assert {name for each in POD["volumes"] for name in each if name != "name"} <= (
        RESTRICTED_VOLUMES
    )
    for container in POD["containers"]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"]["drop"] == ["ALL"]
        assert not own["capabilities"].get("add")
        assert not own.get("privileged")
        assert not any("hostPort" in port for port in container["ports"])


def test_the_image_is_the_one_that_is_built_and_is_not_pulled_again() -> None:
    (container,) = POD["containers"]
    assert not container["image"].endswith(":latest")
    assert container["imagePullPolicy"] == "IfNotPresent"
    built = f"podman build -f config/Containerfile -t {container['image']} ."
    assert built in (ROOT / "docs" / "how-to" / "run-in-containers.md").read_text()
    assert built in (ROOT / "config" / "Containerfile").read_text()
