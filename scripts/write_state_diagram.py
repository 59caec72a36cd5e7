"""Draw the state diagram in docs/explanation/circuit-breaker.md from the breaker's table of transitions.

python -m scripts.write_state_diagram           # rewrites what stands between the two markers
python -m scripts.write_state_diagram --check   # exit status 1 where the page is stale
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from scripts import generated
from sidecar.policy.states import TRANSITIONS, State

SCRIPT = Path(__file__).name
PAGE = generated.ROOT / "docs" / "explanation" / "circuit-breaker.md"


def diagram() -> str:
    """The transitions as a Mermaid diagram, and as a table for whoever sees none."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.CLOSED.value}"]
    rows = ["| from | to | because |", "|---|---|---|"]
    for (origin, state), reasons in TRANSITIONS.items():
        words = ", ".join(sorted(reason.value for reason in reasons))
        lines.append(f"    {origin.value} --> {state.value}: {words}")
        rows.append(f"| `{origin.value}` | `{state.value}` | {words} |")
    return "\n".join([*lines, "```", "", *rows])


def main(argv: Sequence[str] | None = None, path: Path = PAGE) -> int:
    """Write the page, or with --check say whether that would change it."""
    return generated.run(SCRIPT, path, diagram, argv)


if __name__ == "__main__":
    sys.exit(main())
