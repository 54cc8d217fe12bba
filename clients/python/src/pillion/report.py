"""What the app is told when a connection broke."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """What was lost when the connection was."""

    resumed: bool
    """Whether the session lives on: pids, names and mailboxes are what they were."""
    lost_events: int
    """Frames that the node had written and that did not arrive."""
    lost_commands: int
    """Commands without an answer that were not carried out."""
    unsure_commands: int
    """Commands without an answer of which nobody knows."""

    @property
    def is_clean(self) -> bool:
        return not (self.lost_events or self.lost_commands or self.unsure_commands)
