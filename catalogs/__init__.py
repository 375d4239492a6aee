"""What is published and how it is read: one module and one line here per catalogue."""

from catalogs import spectral_anomaly
from catalogs.spec import CatalogSpec

CATALOGS: dict[str, CatalogSpec] = {
    "spectral_anomaly": spectral_anomaly.SPEC,
}
