"""Direct mail (Demers et al. 1987): once to every member, by the origin itself. One hop and N - 1
sends, the least there can be of either.

What must stay true: mail goes out only while every member that is not gone is linked, so whoever
gets it need not pass it on. Else it is pushed to all links there are, as what others pass on by ids.
"""

from __future__ import annotations

from grapevine_proto.overlay.dissemination.neighbourhood import Neighbourhood
from grapevine_proto.overlay.dissemination.strategy import News, Plan, Strategy


class DirectMail(Strategy):
    """See the module."""

    def __init__(self, around: Neighbourhood) -> None:
        self._around = around

    def spread(self, news: News, now: float) -> Plan:
        if news.sender is not None:
            return Plan(())
        return Plan(self._around.linked, is_mail=self._around.is_everybody_linked())
