"""The scorer's fused passes equal the formulas as torch.distributions states them, on the shipped network."""

import numpy as np

from benchmarks.peers.scoring import load_predictor
from engine.spectra.prepare import prepare
from engine.synthetic.simulate import simulate

CHECKPOINT = "checkpoints/spectral_vae_desi"


def test_scores_equal_the_formulas_written_the_obvious_way():
    (ours, wanted), (plain, _) = load_predictor(CHECKPOINT), load_predictor(CHECKPOINT, plain=True)
    sample = simulate(48, 11)
    ivar = sample.ivar.copy()
    ivar[5, 2000:4000] = 0  # windows without a usable pixel
    spectra = prepare(sample.flux, ivar, sample.z, wanted).spectra
    batch = {"flux": spectra.flux, "ivar": spectra.ivar, "spectype": sample.spectype}
    expected, found = plain(batch), ours(batch)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-4, err_msg=name)
