"""Settings that generators with a discriminator share."""

from dataclasses import dataclass

from models.generators.config import SMALLEST, GeneratorConfig
from models.settings import check


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(GeneratorConfig):
    """Style-based generator, and what keeps its discriminator smooth."""

    width: int = 16
    """Channels at the size of the image; they double with each halving up to `max_width`."""
    max_width: int = 128
    """Most channels of a level."""
    num_latent: int = 64
    """Numbers of a draw and of the intermediate latent w."""
    mapping_layers: int = 4
    """Layers of the mapping network."""
    noise_inputs: bool = False
    """Whether noise is added after each convolution, drawn for each sample: for images with a noisy sky, where
    it need not come from the latent. Without it the latent alone decides on the image."""
    r1_weight: float = 1.0
    """Gamma of the R1 penalty, half of which times the squared gradient on real images is added (Mescheder et
    al. 2018, arXiv:1801.04406, Eq. 9)."""
    r1_interval: int = 8
    """Steps of which one has the penalty, times so much (Karras et al. 2020, arXiv:1912.04958, Sect. 3.1)."""
    ema_decay: float = 0.995
    """Weights that are kept and sampled from are a running mean over about 1 / (1 - ema_decay) steps."""

    def __post_init__(self) -> None:
        """Check ranges; all messages name the field, the value and the range."""
        super().__post_init__()
        for name in ("num_latent", "mapping_layers", "r1_interval"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        check(self.r1_weight >= 0, "r1_weight", self.r1_weight, "0 or positive")

    @property
    def num_styles(self) -> int:
        """Convolutions of the generator: one at 4 x 4 pixels, two at each larger size."""
        return 1 + 2 * self.num_levels

    @property
    def num_noise(self) -> int:
        """Pixels of the noise inputs of one image."""
        sides = [SMALLEST << n for n in range(self.num_levels + 1)]
        return sum((1 + (n > 0)) * side**2 for n, side in enumerate(sides)) if self.noise_inputs else 0
