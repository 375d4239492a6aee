"""Models by name. To add one: a module with a `SPEC`, and one line here."""

from models import band_gan, disk_classifier, redshift_vae, restorer, spectral_vae, unet_vae
from models.generators import alae, flow, stylegan, vae
from models.spec import ModelSpec

MODELS: dict[str, ModelSpec] = {
    "spectral_vae": spectral_vae.SPEC,
    "redshift_vae": redshift_vae.SPEC,
    "band_gan": band_gan.SPEC,
    "unet_vae": unet_vae.SPEC,
    "disk_classifier": disk_classifier.SPEC,
    "restorer": restorer.SPEC,
    "image_vae": vae.SPEC,
    "image_alae": alae.SPEC,
    "image_stylegan": stylegan.SPEC,
    "image_flow": flow.SPEC,
}
