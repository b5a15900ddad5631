"""A modal confirmation before an action that is hard to undo.

Invariants: only Enter or y confirms; every other way out cancels. The footer says what both do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import ModalScreen

from grapevine_tui.app.widgets.fact_sheet import Fact, FactSheet
from grapevine_tui.app.widgets.key_footer import KeyFooter


class ConfirmScreen(ModalScreen[bool]):
    """Asks for a confirmation; the result is the answer. `title` and `facts` are printable."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,y", "answer(True)", "Yes"),
        Binding("escape,n,q", "answer(False)", "No"),
        Binding("ctrl+c", "answer(False)", "No", show=False),
    ]

    def __init__(
        self, title: str, facts: Sequence[Fact], *, yes: str = "Yes", no: str = "No"
    ) -> None:
        super().__init__()
        self._action_labels = {"answer(True)": yes, "answer(False)": no}
        self._title = title
        self._facts = facts

    def compose(self) -> ComposeResult:
        sheet = FactSheet()
        sheet.border_title = Content(self._title)
        sheet.set_facts(self._facts)
        yield sheet
        yield KeyFooter()

    def key_label(self, action: str) -> str:
        """Return the label of a key: the given `yes` or `no`."""
        return self._action_labels.get(action, "")

    def action_answer(self, is_confirmed: bool) -> None:
        self.dismiss(is_confirmed)
