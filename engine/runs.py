"""What a run tells of itself, below the catalogue that it writes, for `status` on any machine.

    runs/<run>/begin.json          once: which job, where, of how many units
    runs/<run>/units.arrow         once: ids and bytes of the units that it set out to compute
    runs/<run>/beats/<who>-N.json  every few seconds, from the driver, each worker, and each reading task (`split`) that
                                   takes so long; the one before it goes
    runs/<run>/end.json            once: how it ended

No object is changed in place. Nothing of a catalogue depends on them: results are the ledger's, and a beat that
cannot be written is a warning. A run without an end whose beats have stopped was killed. How long ago something was
told is the age of its object by the clock of the storage: those of the machines that write and read may differ.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from engine.errors import CommitError, StorageError
from engine.locations import NotFoundError
from engine.log import without_secrets
from engine.storage import Storage
from engine.units import Unit

T = TypeVar("T")

_log = logging.getLogger(__name__)

State = Literal["done", "failed", "interrupted"]

LOST_AFTER_BEATS = 4
"""So many beats late, and at least `LOST_AFTER_S`: the run is taken for killed."""
LOST_AFTER_S = 60.0
"""Object storage is slow at times, and some tell whole seconds [s]."""

UNITS_SCHEMA = pa.schema([("unit_id", pa.string()), ("num_bytes", pa.int64())])


@dataclass(frozen=True, slots=True)
class Begin:
    """What a run is: written once, when it begins, by the clock of the driver [s, Unix time]."""

    run: str
    job: str
    host: str
    pid: int
    began_s: float
    units: int
    """Units of the release."""
    pending: int
    """Units of these that had no record."""
    beat_every_s: float


@dataclass(frozen=True, slots=True)
class InHand:
    """A unit that a worker has in hand, the step it is in, and since when by its own clock [s, Unix time]."""

    unit: str
    step: str
    since_s: float


@dataclass(frozen=True, slots=True)
class Beat:
    """How things stand with the driver or a worker at a time by its own clock [s, Unix time]."""

    who: str
    host: str
    pid: int
    time_s: float
    done: int = 0
    rows: int = 0
    rejected: int = 0
    in_hand: tuple[InHand, ...] = ()


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended; written once."""

    state: State
    time_s: float
    done: int
    rows: int
    rejected: int
    error: str = ""


_BEGIN, _BEAT, _END = TypeAdapter(Begin), TypeAdapter(Beat), TypeAdapter(End)


@dataclass(frozen=True, slots=True)
class RunState:
    """All that a run has told so far.

    `written_s` is when, by the clock of the storage [s, Unix time]: of "begin", of "end", and of each `Beat.who`.
    """

    begin: Begin
    beats: tuple[Beat, ...] = ()
    end: End | None = None
    written_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def driver(self) -> Beat | None:
        """Last word of the driver."""
        return next((beat for beat in self.beats if beat.who == "driver"), None)

    @property
    def heard_s(self) -> float:
        """When anything of the run was last heard by the clock of the storage [s, Unix time]."""
        return max(self.written_s.values())

    def is_lost(self, now_s: float) -> bool:
        """Whether a run that has not ended is silent for so long that it must have been killed.

        The driver counts: workers of a driver that is gone may live on for a while. `now_s` is by the clock of the
        storage [s, Unix time].
        """
        heard_s = self.written_s["driver" if self.driver else "begin"]
        return not self.end and now_s - heard_s > max(
            LOST_AFTER_S, LOST_AFTER_BEATS * self.begin.beat_every_s
        )


@dataclass(frozen=True)
class RunFolder:
    """Where one run writes. Picklable."""

    root: str
    storage: Storage
    run: str

    def uri(self, *parts: str) -> str:
        """URI of an object of the run."""
        return self.storage.join(self.root, "runs", self.run, *parts)

    def begin(self, begin: Begin, units: Sequence[Unit]) -> None:
        """Write what the run is."""
        self.storage.put(self.uri("units.arrow"), packed(units))
        self.storage.put(self.uri("begin.json"), _json(begin))

    def end(self, end: End) -> bool:
        """Write how it ended, and take its beats away; False if that was told already."""
        is_first = self.storage.put_if_absent(self.uri("end.json"), _json(end))
        for info in self.storage.list(self.uri("beats")):
            self.storage.delete(info.uri)
        return is_first

    def beat(self, beat: Beat, number: int) -> None:
        """Write a beat under a name of its own, then take the one before it away."""
        self.storage.put(self._beat_uri(beat.who, number), _json(beat))
        if number:
            self.withdraw(beat.who, number - 1)

    def withdraw(self, who: str, number: int) -> None:
        """Take a beat away."""
        self.storage.delete(self._beat_uri(who, number))

    def _beat_uri(self, who: str, number: int) -> str:
        return self.uri("beats", f"{who}-{number:08d}.json")

    def read(self, attempts: int = 3) -> RunState | None:
        """Read what the run has told; None if it has not written its beginning.

        Raises
        ------
        CommitError
            If an object is not what it should be.
        """
        found = {
            info.uri.rpartition("/")[2]: info.modified_s for info in self.storage.list(self.uri(), ".json")
        }
        begin = self._read("begin.json", _BEGIN) if "begin.json" in found else None
        if begin is None:
            return None
        end = self._read("end.json", _END) if "end.json" in found else None
        # The listing is in order of names: the last beat of each stands last.
        newest = {} if end else {name.rpartition("-")[0]: name for name in found if "-" in name}
        beats = [beat for name in newest.values() if (beat := self._read(f"beats/{name}", _BEAT))]
        is_whole = bool(end or beats) and len(beats) == len(newest)
        if not is_whole and attempts > 1:  # a beat gave way to its successor, or all did to the end
            return self.read(attempts - 1)
        told = {"begin": "begin.json"} | ({"end": "end.json"} if end else newest)
        return RunState(begin, tuple(beats), end, {who: found[name] for who, name in told.items()})

    def units(self) -> pa.Table:
        """Ids and bytes of the units that the run set out to compute."""
        data = self.storage.read(self.uri("units.arrow"))
        try:
            return pa.ipc.open_stream(data).read_all()
        except pa.ArrowInvalid as error:
            raise CommitError(f"not the units of a run ({error})", self.uri("units.arrow")) from error

    def _read(self, name: str, kind: TypeAdapter[T]) -> T | None:
        try:
            return kind.validate_json(self.storage.read(self.uri(name)))
        except NotFoundError:
            return None
        except ValidationError as error:
            raise CommitError(f"not a record of a run ({error.errors()[0]['msg']})", self.uri(name)) from None


def run_names(root: str, storage: Storage) -> list[str]:
    """Names of all runs below a catalogue, oldest first: one listing."""
    base = storage.join(root, "runs")
    found = (info.uri.split("/runs/")[-1].split("/") for info in storage.list(base, "/begin.json"))
    return sorted(parts[0] for parts in found if len(parts) == 2)


def new_run_name() -> str:
    """Return a name that sorts by time and that no other run has."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


class Pulse:
    """A thread that writes beats, inside the `with` or until the process ends.

    Parameters
    ----------
    folders
        Where to write: one or several catalogues.
    every_s
        Time between beats [s].
    who
        "driver" or a name of its own for a worker.
    tell
        Returns for the number of a folder what there is to say.
    after_s
        Time to the first beat [s]: who is done before that tells nothing.
    """

    def __init__(
        self,
        folders: Sequence[RunFolder],
        every_s: float,
        who: str,
        tell: Callable[[int], dict[str, Any]],
        after_s: float = 0.0,
    ) -> None:
        self._folders, self._every_s, self._who, self._tell = folders, every_s, who, tell
        self._after_s = after_s
        self._stop = threading.Event()
        self._number = 0
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin to beat, if there is a folder for it."""
        if self._folders:
            self._thread.start()

    def stop(self) -> None:
        """Stop, after the beat that is being written."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def withdraw(self) -> None:
        """Stop, and take the last beat away: there is nobody left of whom it tells."""
        self.stop()
        for folder in self._folders if self._number else ():
            try:
                folder.withdraw(self._who, self._number - 1)
            except StorageError as error:
                _log.warning("a beat cannot be taken away: %s", error)

    def _run(self) -> None:
        is_silent = False
        if self._stop.wait(self._after_s):
            return
        while True:
            try:
                self._beat()
            except StorageError as error:
                if not is_silent:
                    _log.warning("status cannot be written, the run goes on: %s", error)
                is_silent = True
            if self._stop.wait(self._every_s):
                return

    def _beat(self) -> None:
        here = {"who": self._who, "host": socket.gethostname(), "pid": os.getpid()}
        number, self._number = self._number, self._number + 1
        for index, folder in enumerate(self._folders):
            folder.beat(Beat(**here, time_s=time.time(), **self._tell(index)), number)


@dataclass
class Counts:
    """What the driver has counted of one catalogue."""

    done: int = 0
    rows: int = 0
    rejected: int = 0

    def add(self, rows: int, rejected: int) -> None:
        """Count one more unit."""
        self.done, self.rows, self.rejected = self.done + 1, self.rows + rows, self.rejected + rejected


@dataclass
class Recorder:
    """The driver's part: tells beginning, progress and end of a run, in each catalogue that it writes.

    Parameters
    ----------
    job
        Which job runs.
    folders
        One for each catalogue, of one run.
    every_s
        Time between beats [s].
    """

    job: str
    folders: tuple[RunFolder, ...]
    every_s: float
    counts: list[Counts] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = [Counts() for _ in self.folders]
        self._pulse = Pulse(self.folders, self.every_s, "driver", lambda index: asdict(self.counts[index]))

    def begin(self, units: Iterable[tuple[int, Sequence[Unit]]]) -> None:
        """Tell, for each catalogue, how many units there are and which of them are to be computed."""
        for folder, (num_units, pending) in zip(self.folders, units, strict=True):
            where = {"run": folder.run, "job": self.job, "host": socket.gethostname(), "pid": os.getpid()}
            numbers = {"units": num_units, "pending": len(pending), "beat_every_s": self.every_s}
            folder.begin(Begin(**where, began_s=time.time(), **numbers), pending)
        self._pulse.start()

    def end(self, error: BaseException | None) -> None:
        """Tell how it ended: by an error, an interruption (Ctrl-C, SIGTERM), or done."""
        self._pulse.stop()
        is_cut = isinstance(error, (KeyboardInterrupt, SystemExit))
        state: State = "interrupted" if is_cut else "failed" if error else "done"
        text = without_secrets(" ".join(str(error).split())) if state == "failed" else ""
        for folder, counts in zip(self.folders, self.counts, strict=True):
            try:
                folder.end(End(state, time.time(), **asdict(counts), error=text))
            except StorageError as failure:
                _log.warning("how the run ended cannot be written: %s", failure)


def packed(units: Sequence[Unit]) -> bytes:
    """Ids and bytes of units, 30 bytes each."""
    columns = [pa.array([unit.id for unit in units]), pa.array([unit.num_bytes for unit in units])]
    table = pa.table(columns, schema=UNITS_SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _json(record: Begin | Beat | End) -> bytes:
    return json.dumps(asdict(record), sort_keys=True).encode()
