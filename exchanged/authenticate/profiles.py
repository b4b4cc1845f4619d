"""What the tokens of known issuers say: each claim verified, used or knowingly ignored."""

from collections.abc import Mapping
from dataclasses import dataclass, field

STANDARD = frozenset({"iss", "sub", "aud", "exp", "iat", "nbf"})
"""Verified for every token."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profile:
    """The claims of one kind of issuer.

    Attributes:
        used: what policies may match on; None means everything that a token has.
        ignored: known, and of no use here.
        prefix: claims whose names begin so are used too; their names are the owner's own.
        names: claims that name something by a name that can be given up and taken over, and the claims with an id, any
            of which settles whose name it is.
        single_use: a token is good for one exchange; told apart by `jti`.
        job: the claim with the job's own id, or "".
        known: every claim that the profile has heard of.
        usable: `used`, with `iss` and `sub`.
    """

    name: str
    used: frozenset[str] | None
    ignored: frozenset[str] = frozenset()
    prefix: str = "\0"
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    single_use: bool = False
    job: str = ""
    known: frozenset[str] = field(init=False)
    usable: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        used = self.used or frozenset()
        object.__setattr__(self, "known", used | self.ignored | STANDARD | {"may_act"})
        object.__setattr__(self, "usable", used | {"iss", "sub"})


GITHUB = Profile(
    name="github",
    used=frozenset(
        {
            "actor",
            "actor_id",
            "base_ref",
            "check_run_id",
            "enterprise",
            "enterprise_id",
            "environment",
            "environment_node_id",
            "event_name",
            "head_ref",
            "job_workflow_ref",
            "job_workflow_sha",
            "ref",
            "ref_protected",
            "ref_type",
            "repository",
            "repository_id",
            "repository_owner",
            "repository_owner_id",
            "repository_visibility",
            "run_attempt",
            "run_id",
            "run_number",
            "runner_environment",
            "sha",
            "workflow",
            "workflow_ref",
            "workflow_sha",
        }
    ),
    ignored=frozenset({"jti", "issuer_scope"}),
    prefix="repo_property_",
    names={
        "repository": ("repository_id",),
        "repository_owner": ("repository_owner_id", "repository_id"),
        "actor": ("actor_id",),
        "enterprise": ("enterprise_id",),
        "environment": ("environment_node_id", "repository_id"),
        "sub": ("repository_id",),
    },
    single_use=True,
    job="check_run_id",
)
"""GitHub Actions. `sub` is made of names."""

GITLAB = Profile(
    name="gitlab",
    used=frozenset(
        {
            "ci_config_ref_uri",
            "ci_config_sha",
            "deployment_tier",
            "environment",
            "environment_action",
            "environment_protected",
            "groups_direct",
            "job_config",
            "job_id",
            "job_namespace_id",
            "job_namespace_path",
            "job_project_id",
            "job_project_path",
            "job_source",
            "namespace_id",
            "namespace_path",
            "pipeline_id",
            "pipeline_source",
            "project_id",
            "project_path",
            "project_visibility",
            "ref",
            "ref_path",
            "ref_protected",
            "ref_type",
            "runner_environment",
            "runner_id",
            "sha",
            "user_access_level",
            "user_id",
            "user_login",
        }
    ),
    ignored=frozenset({"jti", "user_email", "user_identities", "target_audience"}),
    names={
        "project_path": ("project_id",),
        "namespace_path": ("namespace_id", "project_id"),
        "user_login": ("user_id",),
        "job_project_path": ("job_project_id",),
        "job_namespace_path": ("job_namespace_id", "job_project_id"),
        "sub": ("project_id",),
    },
    job="job_id",
)
"""GitLab CI/CD. A job has one token for its whole life."""

PLAIN = Profile(name="plain", used=None)
"""Any OpenID Connect provider."""

KUBERNETES = Profile(
    name="kubernetes",
    used=frozenset({"namespace", "service_account", "service_account_uid", "pod", "pod_uid", "node", "node_uid"}),
    ignored=frozenset({"jti", "kubernetes.io"}),
    names={},
)
"""Projected service account tokens; their nested claim is laid out flat."""

BY_NAME: Mapping[str, Profile] = {profile.name: profile for profile in (GITHUB, GITLAB, PLAIN, KUBERNETES)}
