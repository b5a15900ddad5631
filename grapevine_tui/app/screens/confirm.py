"""A modal confirmation before an action that is hard to undo.

Invariants: only Enter or y confirms, and t where there is a milder way to do it; every other way out cancels.
The footer says what each does.
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
    """Asks for a confirmation; the result is the answer. `title` and `facts` are printable. `milder` is the
    label of a milder way to do it; `is_milder` tells afterwards that this one was confirmed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,y", "answer(True)", "Yes"),
        Binding("t", "answer_mildly", "Mildly"),
        Binding("escape,n,q", "answer(False)", "No"),
        Binding("ctrl+c", "answer(False)", "No", show=False),
    ]

    def __init__(
        self,
        title: str,
        facts: Sequence[Fact],
        *,
        yes: str = "Yes",
        no: str = "No",
        milder: str = "",
    ) -> None:
        super().__init__()
        self._action_labels = {"answer(True)": yes, "answer(False)": no, "answer_mildly": milder}
        self.is_milder = False
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

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        return action != "answer_mildly" or bool(self._action_labels[action])

    def action_answer_mildly(self) -> None:
        self.is_milder = True
        self.dismiss(True)

    def action_answer(self, is_confirmed: bool) -> None:
        self.dismiss(is_confirmed)
