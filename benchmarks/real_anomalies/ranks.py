"""How scores order real spectra and the oddities made of them."""

# N real spectra and oddities

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.ablation.metrics import recall_at
from benchmarks.ablation.sample import Batch
from benchmarks.real_anomalies.judges import Verdicts


class Real:
    """Columns of the sample: which are normal, of what kind the others are, and what they were made of."""

    def __init__(self, columns: Batch) -> None:
        self.kind, self.name, self.spectype, self.z = (
            columns[n] for n in ("anomaly", "name", "spectype", "z")
        )
        self.is_normal = self.kind == ""

    @property
    def num_sources(self) -> int:
        """Real spectra that something odd was made of."""
        return len(set(self.name[~self.is_normal]))

    def chosen(self, kind: str | None) -> np.ndarray:
        """Oddities of a kind, or all, [N]."""
        return ~self.is_normal if kind is None else self.kind == kind


def too_many(real: Real, verdicts: Verdicts, spectype: str | None) -> float:
    """Part of the real spectra of a class, or of all, that score above the synthetic limit."""
    rows = real.is_normal & (np.ones(len(real.kind), bool) if spectype is None else real.spectype == spectype)
    return float(np.mean(verdicts.score[rows] > verdicts.limit))


def separation(real: Real, score: np.ndarray, kind: str | None) -> float:
    """AUROC of oddities of a kind, or all, against real spectra of the classes that they were made of."""
    odd = real.chosen(kind)
    rows = odd | (real.is_normal & np.isin(real.spectype, list(set(real.spectype[odd]))))
    return float(roc_auc_score(odd[rows], np.nan_to_num(score[rows], nan=-1e9, posinf=1e9, neginf=-1e9)))


def separation_of_sources(real: Real, score: np.ndarray) -> float:
    """AUROC of the spectra that oddities were made of, as they are, against all others: what their choice alone gives."""
    is_source = real.is_normal & np.isin(real.name, real.name[~real.is_normal])
    return float(roc_auc_score(is_source[real.is_normal], np.nan_to_num(score[real.is_normal], nan=-1e9)))


def found_at_ten(real: Real, score: np.ndarray) -> float:
    """Part of the oddities above the score that a tenth of the real spectra exceeds."""
    return recall_at(~real.is_normal, np.nan_to_num(score, nan=-1e9), 0.1)


def paired_wins(real: Real, score: np.ndarray, kind: str | None) -> tuple[int, int]:
    """How many oddities score higher than the spectrum that they were made of, and how many there are."""
    own = {name: score[i] for i, name in enumerate(real.name) if real.is_normal[i]}
    rows = np.flatnonzero(real.chosen(kind))
    return sum(bool(score[i] > own[real.name[i]]) for i in rows), len(rows)
