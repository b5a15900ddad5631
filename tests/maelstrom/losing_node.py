"""The adapter with a defect on purpose: it loses what other nodes broadcast. The checker must find that."""

from __future__ import annotations

from examples.maelstrom_node import MaelstromNode
from grapevine_proto import Message


class LosingNode(MaelstromNode):
    """Loses every fourth message of others, and delivers every seventh twice."""

    delivered = 0

    def deliver(self, message: Message) -> None:
        self.delivered += 1
        for _ in range(0 if self.delivered % 4 == 0 else 2 if self.delivered % 7 == 0 else 1):
            super().deliver(message)


if __name__ == "__main__":
    LosingNode().run()
