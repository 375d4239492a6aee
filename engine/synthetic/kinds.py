"""What `synthesize` can write: one line a kind.

A kind is a module beside this one, named as the source that reads it, with `describe`, `task_count`,
`write_task` and `write_truth`. Modules are imported where they are used: drawing libraries take seconds.
"""

from engine.config import Config
from engine.synthetic.field.config import FieldConfig
from engine.synthetic.release import SynthesizeConfig
from engine.synthetic.sersic import SersicConfig

SYNTHETIC: dict[str, type[Config]] = {
    "desi": SynthesizeConfig,
    "nircam": FieldConfig,
    "sersic": SersicConfig,
}
"""Kind to the settings of its releases."""
