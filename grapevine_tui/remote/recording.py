"""Recordings: what a node reported over its control socket, with the time of each line, in a file of gzipped
JSON Lines.

Invariants:

- The first line says what the file is and of which version; another file is refused with one line.
- Every `KEY_FRAME_INTERVAL_S` there is a full state, so that any time is reached from near it.
- A file whose end is missing or damaged is read up to there, and says so.
- Only its owner can read a file: it has payloads in clear. Nothing is overwritten.

Blocks: open and read recordings in a thread.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol

from grapevine_proto.errors import GrapevineError

Object = dict[str, Any]

FORMAT: Final = "grapevine recording"
VERSION: Final = 1
KEY_FRAME_INTERVAL_S: Final = 30.0
FLUSH_INTERVAL_S: Final = 2.0  # what is lost at most if the recorder is killed
MESSAGE_WINDOW_S: Final = 300.0  # before the time shown, whose messages are in the log
MAX_LINE_BYTES: Final = 64 * 2**20
MAX_RECORDING_BYTES: Final = 16 * 2**30  # unpacked: a packed file may claim any size
STATE: Final = "state"
EVENT: Final = "event"


class InvalidRecording(GrapevineError):
    """A file is no recording, or cannot be read."""


class Frame(NamedTuple):
    """One object as it arrived: `kind` is ``state`` (all tables), ``poll``, ``members`` or ``event``."""

    at: float
    kind: str
    fields: Object


class Tape(Protocol):
    """What can be played back: a recording, or the history of a node. `start` and `end` are Unix seconds;
    `problem` says what is missing, empty if nothing."""

    start: float
    end: float
    problem: str

    def until(self, at: float) -> Iterator[tuple[Frame, int]]:
        """What shows that time, each frame with the offset from where `read` goes on."""
        ...

    def read(self, offset: int) -> Iterator[tuple[Frame, int]]:
        """The frames from there on, each with the offset of the next."""
        ...

    def close(self) -> None: ...


class RecordingWriter:
    """Writes frames to the new file `path`. Raises OSError."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._raw = os.fdopen(fd, "wb")
        self._file = gzip.GzipFile(filename="", mode="wb", fileobj=self._raw, mtime=0)
        self._flushed_at = 0.0
        self.frames = 0
        self._write_line({"recording": FORMAT, "version": VERSION})

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._raw.close()

    def write(self, at: float, kind: str, fields: Object) -> None:
        self._write_line({"at": round(at, 3), "kind": kind, "fields": fields})
        self.frames += 1
        if abs(at - self._flushed_at) >= FLUSH_INTERVAL_S:
            self._flushed_at = at
            self._file.flush(zlib.Z_SYNC_FLUSH)
            self._raw.flush()

    def _write_line(self, fields: Object) -> None:
        line = json.dumps(fields, allow_nan=False, separators=(",", ":"))
        self._file.write(line.encode("ascii") + b"\n")


class Recording:
    """A recording, unpacked into a temporary file that has no name. Raises InvalidRecording.

    `start` and `end` are Unix seconds. `problem` says what is missing, empty if nothing."""

    def __init__(self, path: Path) -> None:
        self._file = tempfile.TemporaryFile(prefix="grapevine-")  # noqa: SIM115  kept open
        self._state_times: list[float] = []
        self._state_offsets: list[int] = []
        self.start = self.end = 0.0
        self.problem = ""
        reason = "not a recording of grapevine-tui ctl record"
        try:
            with gzip.open(path, "rb") as packed:
                self._unpack(packed)
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            reason = getattr(error, "strerror", None) or reason
            self.problem = "the end of the recording is missing or damaged"
        if not self._state_times:
            self._file.close()
            raise InvalidRecording(f"{path}: {reason}")

    def close(self) -> None:
        self._file.close()

    def _unpack(self, packed: Any) -> None:
        header = json.loads(packed.readline(MAX_LINE_BYTES))
        if header["recording"] != FORMAT or header["version"] != VERSION:
            return
        offset = 0
        while line := packed.readline(MAX_LINE_BYTES):
            frame = json.loads(line)
            at = float(frame["at"])
            if frame["kind"] == STATE:
                self._state_times.append(at)
                self._state_offsets.append(offset)
            if not self._state_times:  # nothing can be shown before the first full state
                continue
            self._file.write(line)
            offset += len(line)
            self.start, self.end = self.start or at, max(self.end, at)
            if offset > MAX_RECORDING_BYTES:
                self.problem = f"more than {MAX_RECORDING_BYTES // 2**30} GiB: the rest is left out"
                return

    def until(self, at: float) -> Iterator[tuple[Frame, int]]:
        """What shows that time: the messages of `MESSAGE_WINDOW_S` before, the last full state, and what came
        after it; each with the offset from where `read` goes on."""
        state_offset = self.offset_before(at)
        for frame, offset in self.read(self.offset_before(at - MESSAGE_WINDOW_S)):
            if offset > state_offset:
                break
            if frame.kind == EVENT and frame.fields.get("event") == "message":
                yield frame, state_offset
        for frame, offset in self.read(state_offset):
            if frame.at > at:
                break
            yield frame, offset

    def offset_before(self, at: float) -> int:
        """Where the last full state at or before that time is; the first if there is none."""
        return self._state_offsets[max(0, bisect_right(self._state_times, at) - 1)]

    def read(self, offset: int) -> Iterator[tuple[Frame, int]]:
        """The frames from there on, each with the offset of the next. One reader at a time."""
        while True:
            self._file.seek(offset)
            line = self._file.readline()
            if not line:
                return
            offset += len(line)
            fields = json.loads(line)
            yield Frame(float(fields["at"]), str(fields["kind"]), fields["fields"]), offset
