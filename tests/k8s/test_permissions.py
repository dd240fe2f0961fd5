"""The Roles give what the code uses, and the code uses what they give."""

from components.deploy.kubernetes_api import GROUP, VERBS
from tests.k8s.manifests import Manifests


def test_runs_may_do_with_inference_services_what_the_deploy_step_does(rendered: dict[str, Manifests]) -> None:
    for name, manifests in rendered.items():
        if not name.startswith("overlays/"):
            continue
        role = manifests.one("Role", "reviewloop-pipeline")
        (rule,) = role["rules"]
        assert rule["apiGroups"] == [GROUP]
        assert rule["resources"] == ["inferenceservices"]
        assert sorted(rule["verbs"]) == sorted(VERBS)
        binding = manifests.one("RoleBinding", "reviewloop-pipeline")
        assert binding["metadata"]["namespace"] == role["metadata"]["namespace"]
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        (subject,) = binding["subjects"]
        assert subject["name"] == "reviewloop-pipeline"


def test_no_role_gives_everything_or_every_secret(rendered: dict[str, Manifests]) -> None:
    for manifests in rendered.values():
        assert not manifests.of("ClusterRole", "ClusterRoleBinding")
        for role in manifests.of("Role"):
            for rule in role["rules"]:
                assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
                assert "secrets" not in rule["resources"] or rule["resourceNames"]


def test_nothing_but_the_runs_is_bound_to_a_role_of_ours(standard: Manifests) -> None:
    subjects = {subject["name"] for binding in standard.of("RoleBinding") for subject in binding["subjects"]}
    assert subjects == {"reviewloop-pipeline"}
