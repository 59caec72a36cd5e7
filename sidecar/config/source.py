"""The file as the schema sees it, with defaults merged, and the way back from a key to its place in the
file."""

from __future__ import annotations

from typing import Any

from sidecar.config.document import Mapping, Node, Scalar, Sequence, plain
from sidecar.config.policies import Candidate
from sidecar.config.report import Path, Place, shown
from sidecar.config.schema import MOST_CANDIDATES, Defaults
from sidecar.config.section import known_keys, section_at


class Source:
    """The tree of a configuration file, whose root is a mapping.

    `defaults` is merged under each dependency, the top-level `listener` under each dependency's own, and a dependency's
    policies under what its candidates name. Merged values keep their place, so a mistake among them is found where it
    was written."""

    def __init__(self, root: Mapping) -> None:
        self._written = root
        self._merged = _merge(root)

    def values(self) -> Any:
        """The values, with defaults merged, for the schema to read."""
        return plain(self._merged)

    def has(self, path: Path) -> bool:
        """Whether the file itself has a value at `path`, not counting what is merged there."""
        return _find(self._written, path) is not None

    def knows(self, path: Path) -> bool:
        """Whether the file has a value at `path`, counting what is merged there."""
        return _find(self._merged, path) is not None

    def place(self, path: Path) -> Place:
        """Where the value at `path` stands. What is not written, even by merging, stands where its parent's
        key does."""
        found = _find(self._merged, path)
        return found[1].place if found else self.key_place(path)

    def key_place(self, path: Path) -> Place:
        """Where the key at `path` stands, or the nearest key above it that is written."""
        while path:
            if found := _find(self._merged, path):
                return found[0]
            path = path[:-1]
        return self._merged.place

    def line(self, path: Path) -> str:
        """Where `path` is defined, for a person: its line, or that it is a default."""
        return f"line {self.place(path).line}" if _find(self._merged, path) else "by default"

    def shown(self, path: Path, value: object) -> str:
        """The value at `path` as a report may show it: not what an environment variable holds, which may be
        secret."""
        found = _find(self._merged, path)
        if found and isinstance(found[1], Scalar) and found[1].written is not None:
            return f"the value of {one_line(found[1].written)}"
        return shown(value)


def one_line(text: str) -> str:
    """Text of the file as it stands, if it is short and plain enough, else quoted."""
    return text if text.isprintable() and len(text) <= 60 else shown(text)


def _find(root: Node, path: Path) -> tuple[Place, Node] | None:
    """The place of the key at `path` and its value; items of a list are their own keys."""
    place, node = root.place, root
    for part in path:
        if isinstance(node, Mapping) and part in node.entries:
            place, node = node.entries[str(part)]
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            place = node.place
        else:
            return None
    return place, node


def _merge(root: Mapping) -> Mapping:
    dependencies = _child(root, "dependencies")
    if not isinstance(dependencies, Mapping):
        return root
    under: dict[str, tuple[Place, Node]] = {}
    if isinstance(defaults := _child(root, "defaults"), Mapping):
        # Other keys are a mistake in `defaults`; merged, they would be mistakes of every dependency too.
        known = known_keys(Defaults)
        under.update({key: entry for key, entry in defaults.entries.items() if key in known})
    if "listener" in root.entries:
        under["listener"] = root.entries["listener"]
    base = Mapping(dependencies.place, under)
    entries = dict(root.entries)
    if "defaults" in entries:
        entries["defaults"] = (entries["defaults"][0], _with_candidates(entries["defaults"][1]))
    merged: dict[str, tuple[Place, Node]] = {
        name: (place, _with_candidates(_overlay(base, dependency)))
        for name, (place, dependency) in dependencies.entries.items()
    }
    entries["dependencies"] = (entries["dependencies"][0], Mapping(dependencies.place, merged))
    return Mapping(root.place, entries)


def _with_candidates(dependency: Node) -> Node:
    """`dependency`, or the defaults, with what its candidates do not say of a policy that they name taken from its own.

    An empty section names its policy, so it becomes a mapping, which null would not be to the schema."""
    candidates = _child(dependency, "candidates")
    # Too many are a mistake, which need not be made larger.
    if not isinstance(dependency, Mapping) or not isinstance(candidates, Mapping):
        return dependency
    if len(candidates.entries) > MOST_CANDIDATES:
        return dependency
    bases = {policy: _terms(dependency, policy) for policy in known_keys(Candidate)}
    whole: dict[str, tuple[Place, Node]] = {}
    for name, (place, candidate) in candidates.entries.items():
        if isinstance(candidate, Mapping):
            entries = {
                key: (at, _overlay(bases[key], value) if key in bases else value)
                for key, (at, value) in candidate.entries.items()
            }
            candidate = Mapping(candidate.place, entries)
        whole[name] = (place, candidate)
    place = dependency.entries["candidates"][0]
    return Mapping(dependency.place, {**dependency.entries, "candidates": (place, Mapping(candidates.place, whole))})


def _terms(dependency: Mapping, policy: str) -> Mapping:
    """What a dependency says of a policy, less what a candidate cannot: the mode, and mistakes."""
    own = _child(dependency, policy)
    if not isinstance(own, Mapping):
        return Mapping(dependency.place, {})
    known = known_keys(section_at(Candidate, (policy,)))
    return Mapping(own.place, {key: entry for key, entry in own.entries.items() if key in known})


def _overlay(base: Node, top: Node) -> Node:
    """`top`, with what it does not say taken from `base`. Lists and single values replace; an empty section
    is null."""
    if not isinstance(base, Mapping):
        return top
    if isinstance(top, Scalar) and top.value is None:
        return Mapping(top.place, base.entries)
    if not isinstance(top, Mapping):
        return top
    entries = dict(base.entries)
    for key, (place, value) in top.entries.items():
        entries[key] = (place, _overlay(entries[key][1], value) if key in entries else value)
    return Mapping(top.place, entries)


def _child(node: Node, key: str) -> Node | None:
    return node.entries[key][1] if isinstance(node, Mapping) and key in node.entries else None
