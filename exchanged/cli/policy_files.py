"""Policy files as commands read them: what would be in force, and what is wrong with the rest."""

from dataclasses import dataclass
from pathlib import Path

from exchanged.cli.output import Exit, fail
from exchanged.policy.compiled import Compiler
from exchanged.policy.folder import policy_files
from exchanged.policy.index import PolicySet
from exchanged.policy.load import load_text
from exchanged.strict_yaml import Fault, Faulty


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFiles:
    """What a daemon that starts now would have in force, and why it would leave out the rest."""

    policies: PolicySet
    faults: tuple[Fault, ...]


def read(path: Path) -> PolicyFiles:
    """The policies of a folder or of one file."""
    if not path.exists():
        fail(f"{path} is not there; give a folder of policies, or one file", Exit.USAGE)
    compiler = Compiler()
    policies, faults = PolicySet(compiler.conditions), list[Fault]()
    file_of: dict[str, str] = {}
    for file in policy_files(path) if path.is_dir() else [path]:
        name = str(file.relative_to(path)) if path.is_dir() else file.name
        try:
            found = load_text(file.read_text(encoding="utf-8"), name, compiler)
        except Faulty as faulty:
            faults += faulty.faults
            continue
        except (OSError, UnicodeError) as error:
            faults.append(Fault(file=name, line=1, where="", what=f"cannot be read: {error}"))
            continue
        taken = [policy.name for policy in found if policy.name in file_of]
        for each in taken:
            what = f"policy {each!r} is in {file_of[each]} too"
            faults.append(Fault(file=name, line=1, where="metadata.name", what=what))
        # A file is in force as a whole or not at all.
        for policy in () if taken else found:
            policies.put(policy)
            file_of[policy.name] = name
    return PolicyFiles(policies=policies, faults=tuple(faults))
