"""A policy file's text to compiled policies, or every fault of it."""

from exchanged import strict_yaml
from exchanged.policy.compiled import CompiledPolicy, Compiler, Unusable
from exchanged.policy.schema import Policy
from exchanged.strict_yaml import Document, Fault, Faulty


def load_text(text: str, file: str, compiler: Compiler) -> list[CompiledPolicy]:
    """The policies of one file.

    Raises:
        Faulty: with every fault of the file.
    """
    faults: list[Fault] = []
    policies: dict[str, CompiledPolicy] = {}
    for document in strict_yaml.parse_all(text, file):
        try:
            policy = _compiled(document, compiler)
        except Faulty as faulty:
            faults += faulty.faults
            continue
        if policy.name in policies:
            faults.append(document.fault(("metadata", "name"), f"policy {policy.name!r} is in this file twice"))
        policies[policy.name] = policy
    if faults:
        raise Faulty(*faults)
    return list(policies.values())


def _compiled(document: Document, compiler: Compiler) -> CompiledPolicy:
    policy = strict_yaml.validate(document, Policy)
    try:
        return compiler.compile(policy)
    except Unusable as unusable:
        raise Faulty(*(document.fault(path, what) for path, what in unusable.faults)) from unusable
