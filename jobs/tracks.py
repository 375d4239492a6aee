"""Tracks for the report: a sample of spectra is read again and measured, and paths along what was measured decoded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from catalogs.latent_space import Evidence, Track, path_weights, regression
from catalogs.query import open_catalog
from catalogs.release import load_release
from catalogs.spectral_properties import MIN_SNR, PROPERTIES, SpectralProperty, densest_slice
from catalogs.tracks import write_tracks
from engine.commit import Manifest
from engine.errors import EngineError
from engine.schema import to_arrays
from engine.spectra.prepare import SpectrumPrep
from engine.storage import Storage
from engine.units import Unit
from jobs import gallery
from jobs.config import Place
from jobs.gallery import Key, Reader

NUM_STEPS = 7
MIN_OBJECTS = 30
"""Objects that a track needs."""
MIN_SEEN = 0.1
"""Part of the objects of a step that must have data at a wavelength: elsewhere the decoder only guesses."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Spectra of a catalogue as its model read them, with their place in latent space.

    Parameters
    ----------
    wave
        Rest-frame wavelengths [Angstrom], [N, L].
    flux, ivar
        [N, L].
    latent
        [N, D].
    redshift, snr
        [N].
    spectype
        [N].
    """

    wave: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    latent: np.ndarray
    redshift: np.ndarray
    snr: np.ndarray
    spectype: np.ndarray

    def only(self, chosen: np.ndarray) -> "Sample":
        """Return some of them."""
        return Sample(*(getattr(self, name)[chosen] for name in Sample.__dataclass_fields__))


def find(reader: Reader, place: Place, manifest: Manifest, num_objects: int, seed: int = 0) -> Evidence:
    """Measure a sample of the objects of a version and decode paths along each property.

    Parameters
    ----------
    reader
        Of the release and the model that the version was made with.
    place, manifest
        The version.
    num_objects
        Spectra to be read at most; 0: nothing is done.
    seed
        Of the order in which units are read.
    """
    found = Evidence()
    if not (num_objects and isinstance(reader.prepare, SpectrumPrep)):
        return found
    if not reader.spec.decode:
        found.notes.append(
            "The decoder of this model needs more than a place in latent space, so there are no tracks."
        )
        return found
    sample = _sample(reader, place, manifest, num_objects, seed)
    if sample is None:
        found.notes.append("No spectrum could be read again, so there are no tracks.")
        return found
    for one in PROPERTIES:
        follow(one, sample, reader, found)
    return found


def store(place: Place, manifest: Manifest, found: Evidence, settings: Mapping[str, Any]) -> None:
    """Write the tracks down beside the version, unless those of the same settings are there."""
    if found.tracks:
        storage = Storage(place.storage)
        write_tracks(load_release(place.uri, storage, manifest.version), storage, found.tracks, settings)


def follow(one: SpectralProperty, sample: Sample, reader: Reader, found: Evidence) -> None:
    """Add the path along a property, and how well it can be read off."""
    assert isinstance(reader.prepare, SpectrumPrep)
    chosen = sample.only((sample.spectype == one.spectype) & (sample.snr >= MIN_SNR))
    value = one.measure(chosen.wave, chosen.flux, chosen.ivar)
    chosen, value = chosen.only(np.isfinite(value)), value[np.isfinite(value)]
    if fitted := regression(chosen.latent, value):
        found.regressions[f"{one.title} [{one.unit}]"] = fitted
    redshift = 0.0
    if len(value) and reader.prepare.frame == "observed" and not one.at_rest:
        redshift, inside = densest_slice(chosen.redshift)
        chosen, value = chosen.only(inside), value[inside]
    if len(value) < MIN_OBJECTS:
        found.notes.append(
            f"Too few objects for a track along {one.title}: {len(value)}, {MIN_OBJECTS} are needed."
        )
        return
    weights = path_weights(value, NUM_STEPS)
    latents = weights @ chosen.latent
    flux = _decoded(reader, latents) if not redshift else weights @ _decoded_at(reader, chosen, redshift)
    flux = np.where(weights @ (chosen.ivar > 0) >= MIN_SEEN, flux, np.nan)
    wave = np.asarray(reader.prepare.wave)
    found.tracks.append(
        Track(
            one.name,
            one.title,
            one.unit,
            weights @ value,
            latents,
            wave,
            flux,
            redshift,
            len(value),
            one.zoom,
        )
    )


def _decoded(reader: Reader, latent: np.ndarray) -> np.ndarray:
    assert reader.spec.decode
    return reader.spec.decode(reader.settings, reader.module, latent.astype(np.float32))


def _decoded_at(reader: Reader, sample: Sample, redshift: float) -> np.ndarray:
    """Decode each object by itself and shift it to one redshift: the mean of places has no line where none agrees."""
    assert isinstance(reader.prepare, SpectrumPrep)
    wave = np.asarray(reader.prepare.wave, np.float64)
    decoded = _decoded(reader, sample.latent)
    for row, z in enumerate(sample.redshift):
        decoded[row] = np.interp(wave * (1.0 + z) / (1.0 + redshift), wave, decoded[row])
    return decoded


def _sample(reader: Reader, place: Place, manifest: Manifest, num_objects: int, seed: int) -> Sample | None:
    parts: list[Sample] = []
    units = gallery.units_of(place, manifest)
    for index in np.random.default_rng(seed).permutation(len(units)):
        if sum(len(part.snr) for part in parts) >= num_objects:
            break
        parts += _read(reader, place, manifest, units[index])
    if not parts:
        return None
    whole = Sample(
        *(np.concatenate([getattr(part, n) for part in parts]) for n in Sample.__dataclass_fields__)
    )
    return whole.only(np.arange(len(whole.snr)) < num_objects)


def _read(reader: Reader, place: Place, manifest: Manifest, unit: Unit) -> Iterator[Sample]:
    """Yield the published spectra of a unit; nothing if its files are gone or have changed."""
    try:
        read = reader.source.read(unit)
    except EngineError:
        return
    for function in reader.before:
        read = function(read)
    published = _latents(reader, place, manifest, sorted({file.uri for file in unit.files}))
    columns = (read.rows[name].to_pylist() for name in reader.catalog.key)
    places = [published.get(key) for key in zip(*columns, strict=True)]
    table = read.rows.filter(pa.array([place is not None for place in places], pa.bool_()))
    if not table.num_rows:
        return
    arrays = to_arrays(table, ["flux", "ivar", "z", "snr", "spectype"])
    redshift = np.nan_to_num(arrays["z"].astype(np.float64))
    assert isinstance(reader.prepare, SpectrumPrep)
    wave = np.asarray(reader.prepare.wave, np.float64)
    shift = 1.0 + (redshift if reader.prepare.frame == "observed" else np.zeros(len(redshift)))
    latent = np.array([place for place in places if place is not None], np.float32)
    spectype = np.array([name or "" for name in arrays["spectype"]])
    yield Sample(
        wave / shift[:, None], arrays["flux"], arrays["ivar"], latent, redshift, arrays["snr"], spectype
    )


def _latents(reader: Reader, place: Place, manifest: Manifest, uris: Sequence[str]) -> dict[Key, list[float]]:
    """Latent coordinates of the published rows of some files, by key."""
    names = ", ".join((*reader.catalog.key, reader.catalog.latent))
    with open_catalog(place.uri, place.storage, manifest.version) as con:
        found = con.sql(
            f"SELECT {names} FROM catalog WHERE list_contains($uris, source_uri)",  # noqa: S608 - names of our own
            params={"uris": list(uris)},
        ).to_arrow_table()
    *keys, latents = (column.to_pylist() for column in found.columns)
    return dict(zip(zip(*keys, strict=True), latents, strict=True))
