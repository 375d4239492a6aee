"""What to read of a DESI release and which objects to keep."""

from typing import Literal

from pydantic import Field

from engine.config import Config


class DesiCuts(Config):
    """Standard cuts, with DESI's defaults. What is cut is counted in `rejected`, kind "cut"."""

    targets_only: bool = True
    """Keep only OBJTYPE = TGT; false keeps sky fibres and unassigned ones too."""
    keep_negative_targetid: bool = False
    """Keep TARGETID < 0: sky, stuck and broken fibres in productions up to 2021."""
    allowed_fiberstatus: int = Field(default=0, ge=0)
    """COADD_FIBERSTATUS bits (as a sum) that do not lead to a cut; 8 allows RESTRICTED."""
    good_redshift_only: bool = False
    """Keep only ZWARN without a bit beyond `allowed_zwarn`. Objects without redshift stay: see flags."""
    allowed_zwarn: int = Field(default=0, ge=0)
    """ZWARN bits (as a sum) that do not lead to a cut where `good_redshift_only`."""
    min_exposures: int = Field(default=1, ge=0)
    """Fewest exposures in the coadd; objects whose number is not known stay."""


class DesiConfig(Config):
    """Layout, selection and cuts of a DESI release. `uri` is the production, e.g. `.../redux/iron`."""

    layout: Literal["auto", "healpix", "uniqpix", "tiles", "flat"] = "auto"
    """How the folders are arranged, see `engine.sources.desi_layout`; auto looks what is there."""
    surveys: tuple[str, ...] = ()
    """Surveys to read (sv1, sv2, sv3, main, special, cmx); empty: all. healpix and uniqpix only."""
    programs: tuple[str, ...] = ()
    """Programs to read (dark, bright, backup, other); empty: all. healpix and uniqpix only."""
    pixels: tuple[int, ...] = ()
    """HEALPIX (NSIDE 64) or UNIQPIX numbers; empty: all. Needs `surveys` and `programs`: nothing else
    is listed then."""
    tiles: tuple[int, ...] = ()
    """TILEIDs to read; empty: all. tiles only."""
    index_uri: str = ""
    """List of the files to expect: a text file with a path below `uri` or a URI on each line, or a
    FITS table with SURVEY, PROGRAM and HEALPIX or UNIQPIX (`tilepix.fits`). What it names and is not
    there ends in `rejected` as not_found; what it does not name is not read. Empty: all that is there."""
    cuts: DesiCuts = Field(default_factory=DesiCuts)
    """Which objects to keep."""
