"""The HATS layout: where partitions lie, and the small files that describe a whole catalogue.

Written here rather than with the `hats` package, whose import costs 6 s and 280 MB and which reads
every file again; the tests hold the result against its validator.

References
----------
IVOA Note "HATS: A Standard for the Hierarchical Adaptive Tiling Scheme in the Virtual Observatory"
(2025); IVOA Note "Parquet in the VO: VOParquet" 1.0 for the header.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

from engine.column import Column
from engine.partition import COUNT_ORDER, HEALPIX, HEALPIX_ORDER
from engine.schema import arrow_schema, arrow_type

_PIXELS_PER_FOLDER = 10_000
_VOTABLE_TYPES = {
    "bool": "boolean",
    "int8": "short",  # VOTable has no signed byte
    "int16": "short",
    "int32": "int",
    "int64": "long",
    "float32": "float",
    "float64": "double",
    "string": "unicodeChar",
}
_STRING_SIZE = "64*"
"""Not "*", which astropy reads as objects and then cannot join with the rows; longer values are whole."""


def partition_path(order: int, pixel: int) -> str:
    """Path of a partition below the catalogue's folder."""
    folder = pixel // _PIXELS_PER_FOLDER * _PIXELS_PER_FOLDER
    return f"dataset/Norder={order}/Dir={folder}/Npix={pixel}.parquet"


def file_schema(columns: Sequence[Column], name: str) -> pa.Schema:
    """Arrow schema of partitions, with units and descriptions a column and the VOParquet header."""
    header = {
        "IVOA.VOTable-Parquet.version": "1.0",
        "IVOA.VOTable-Parquet.content": votable_header(columns, name),
    }
    return arrow_schema(columns).with_metadata(header)


def votable_header(columns: Sequence[Column], name: str) -> str:
    """VOTable without data that describes the columns: names, types, units, UCDs, descriptions."""
    root = ElementTree.Element("VOTABLE", version="1.4", xmlns="http://www.ivoa.net/xml/VOTable/v1.3")
    table = ElementTree.SubElement(ElementTree.SubElement(root, "RESOURCE"), "TABLE", name=name)
    for column in columns:
        facts = {"name": column.name, "ID": column.name, "datatype": _VOTABLE_TYPES[column.dtype]}
        facts["arraysize"] = _STRING_SIZE if column.dtype == "string" else str(column.length or "")
        if column.packed:
            facts |= {"datatype": "unsignedByte", "arraysize": str(arrow_type(column).byte_width)}
        facts |= {"unit": column.unit, "ucd": column.ucd}
        field = ElementTree.SubElement(table, "FIELD", {key: value for key, value in facts.items() if value})
        ElementTree.SubElement(field, "DESCRIPTION").text = column.description
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False)


def partition_info(pixels: Iterable[tuple[int, int]]) -> bytes:
    """`partition_info.csv`: order and pixel of each partition."""
    lines = [f"{order},{pixel}" for order, pixel in sorted(pixels)]
    return "\n".join(["Norder,Npix", *lines, ""]).encode()


def dataset_metadata(schema: pa.Schema, footers: Mapping[tuple[int, int], bytes]) -> bytes:
    """`dataset/_metadata`: the footers of all partitions in one, so that readers open no other file.

    Parameters
    ----------
    schema
        `file_schema` of the catalogue.
    footers
        `engine.commit.parquet.footer` of each partition, by order and pixel.
    """
    sink = pa.BufferOutputStream()
    pq.write_metadata(schema, sink)
    combined = pq.read_metadata(pa.BufferReader(sink.getvalue()))
    for (order, pixel), data in footers.items():
        metadata = pq.read_metadata(pa.BufferReader(data))
        metadata.set_file_path(partition_path(order, pixel).removeprefix("dataset/"))
        combined.append_row_groups(metadata)
    sink = pa.BufferOutputStream()
    combined.write_metadata_file(sink)
    return sink.getvalue().to_pybytes()


def skymap(counts: Mapping[int, int]) -> bytes:
    """`skymap.fits`: rows by pixel of order `COUNT_ORDER`, as an explicit HEALPix map (nothing: implicit)."""
    pixels = np.array(sorted(counts), np.int64)
    values = np.array([counts[int(pixel)] for pixel in pixels], np.int64)
    header = {"PIXTYPE": "HEALPIX", "ORDERING": "NESTED", "COORDSYS": "C", "NSIDE": 2**COUNT_ORDER}
    columns = [fits.Column("PIXEL", "K", array=pixels), fits.Column("VALUE", "K", array=values)]
    header |= {"INDXSCHM": "EXPLICIT", "OBS_NPIX": len(pixels)}
    if not pixels.size:
        last = 12 * 4**COUNT_ORDER - 1
        columns = [fits.Column("VALUE", "K", array=np.zeros(last + 1, np.int64))]
        header |= {"INDXSCHM": "IMPLICIT", "FIRSTPIX": 0, "LASTPIX": last, "OBJECT": "FULLSKY"}
    table = fits.BinTableHDU.from_columns(columns, fits.Header(header))
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(file)
    return file.getvalue()


def properties(
    name: str,
    rows: int,
    num_bytes: int,
    max_rows: int,
    default_columns: Sequence[str],
    extra: Mapping[str, str],
) -> bytes:
    """`hats.properties`: Java-style lines.

    Parameters
    ----------
    name
        Catalogue name.
    rows, num_bytes
        Size of all partitions.
    max_rows
        Limit that partitions were cut at.
    default_columns
        Columns that readers load unless told otherwise; all if empty.
    extra
        Further keys: builder, creation date, provenance.
    """
    facts = {
        "obs_collection": name,
        "dataproduct_type": "object",
        "hats_nrows": rows,
        "hats_col_ra": "ra",
        "hats_col_dec": "dec",
        "hats_cols_default": " ".join(default_columns),
        "hats_col_healpix": HEALPIX.name,
        "hats_col_healpix_order": HEALPIX_ORDER,
        "hats_npix_suffix": ".parquet",
        "hats_skymap_order": COUNT_ORDER,
        "hats_max_rows": max_rows,
        "hats_estsize": num_bytes // 1024,
        "hats_version": "v1.0",
    } | dict(extra)
    lines = [f"{key}={_one_line(str(value))}" for key, value in facts.items() if str(value)]
    return "\n".join(["#HATS catalog", *lines, ""]).encode()


def _one_line(value: str) -> str:
    return " ".join(value.replace("\\", "/").split())
