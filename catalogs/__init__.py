"""What is published and how it is read: one module and one line here per catalogue."""

from catalogs import nircam_band_anomalies, nircam_morphology, spectral_anomaly
from catalogs.spec import CatalogSpec

CATALOGS: dict[str, CatalogSpec] = {
    "spectral_anomaly": spectral_anomaly.SPEC,
    "nircam_band_anomalies": nircam_band_anomalies.SPEC,
    "nircam_morphology": nircam_morphology.SPEC,
}
