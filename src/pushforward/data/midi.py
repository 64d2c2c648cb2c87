"""MIDI files <-> pieces: steps of sounding notes. Needs mido (the extra `midi`), imported where it is used."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from .sequences import KEYS, LOWEST

__all__ = ["read_midi", "write_midi"]

MELODIC_DRUMS = 9
"""The channel that General MIDI keeps for percussion, whose notes are no pitches."""


def _mido() -> Any:
    try:
        import mido  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DataError('MIDI files need mido: pip install "pushforward[midi]". JSON collections of pieces need nothing.') from None
    return mido


def read_midi(path: Path, per_beat: int = 4) -> list[list[int]]:
    """A MIDI file as steps of 1 / per_beat quarter notes, each the notes 21 to 108 that sound in it; percussion is left out.

    A note sounds in the steps that it covers by rounding its beginning and end, and in one step at least.
    Raises `DataError` when the file is damaged, holds no note, or counts time in seconds (SMPTE) instead of beats.
    """
    mido = _mido()
    try:
        file = mido.MidiFile(str(path), clip=True)
        events = [(m, t) for track in file.tracks for m, t in _absolute(track)]
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path} is damaged or no MIDI file ({error or type(error).__name__}). Export it again.") from None
    if file.ticks_per_beat <= 0 or file.ticks_per_beat >= 0x8000:
        raise DataError(f"{path} counts time in seconds (SMPTE), not in beats. Export it with ticks per quarter note.")
    step = file.ticks_per_beat / per_beat
    begun: dict[tuple[int, int], int] = {}
    spans: list[tuple[int, int, int]] = []
    for m, t in sorted(((m, t) for m, t in events if m.type in ("note_on", "note_off")), key=lambda e: e[1]):
        if m.channel == MELODIC_DRUMS or not LOWEST <= m.note < LOWEST + KEYS:
            continue
        start = begun.pop((m.channel, m.note), None)
        if start is not None:
            spans.append((m.note, start, t))
        if m.type == "note_on" and m.velocity > 0:
            begun[m.channel, m.note] = t
    if not spans:
        raise DataError(f"{path} holds no note from {LOWEST} to {LOWEST + KEYS - 1} outside the percussion channel. Leave it out.")
    rounded = [(note, round(a / step), max(round(b / step), round(a / step) + 1)) for note, a, b in spans]
    piece: list[set[int]] = [set() for _ in range(max(b for _, _, b in rounded))]
    for note, a, b in rounded:
        for t in range(a, b):
            piece[t].add(note)
    return [sorted(s) for s in piece]


def _absolute(track: Any) -> list[tuple[Any, int]]:
    """Each message of a track with its time in ticks from the beginning."""
    now, found = 0, []
    for m in track:
        now += m.time
        found.append((m, now))
    return found


def write_midi(piece: Sequence[Sequence[int]], path: Path, per_beat: int = 4, tempo: float = 90.0) -> None:
    """A piece as one piano track; a note that sounds in several steps in a row is held, not struck again. `tempo` in beats a minute."""
    mido = _mido()
    ticks = 480
    file = mido.MidiFile(ticks_per_beat=ticks)
    track = mido.MidiTrack()
    file.tracks.append(track)
    track.append(mido.MetaMessage("set_tempo", tempo=round(60e6 / tempo), time=0))
    sounding: set[int] = set()
    last = 0
    for t, step in enumerate([*piece, []]):
        now = t * ticks // per_beat
        for kind, notes in (("note_off", sounding - set(step)), ("note_on", set(step) - sounding)):
            for note in sorted(notes):
                track.append(mido.Message(kind, note=int(note), velocity=64 if kind == "note_on" else 0, time=now - last))
                last = now
        sounding = set(step)
    track.append(mido.MetaMessage("end_of_track", time=len(piece) * ticks // per_beat - last))
    file.save(str(path))
