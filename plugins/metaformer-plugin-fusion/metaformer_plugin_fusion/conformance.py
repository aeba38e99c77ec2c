"""The cases of this plugin, which `metaformer plugins check` and the tests run."""

from __future__ import annotations

from collections.abc import Iterator

from metaformer.testing import Check, bridge_checks


def checks() -> Iterator[Check]:
    """A case per arrangement of blocks, and per way of putting streams together."""
    albef = {"depth": 2, "num_heads": 4, "drop": 0.1}
    yield from bridge_checks(("fusion", albef), {"queries": 16, "context": 24})
    pre = {"depth": 3, "num_heads": 2, "norm": "pre", "norm_eps": 1e-5, "cross_every": 2, "drop_path": 0.1}
    yield from bridge_checks(("fusion", {**pre, "activation": "swiglu"}), {"queries": 16, "context": 8})
    yield from bridge_checks(("fusion", {**albef, "causal": True}), {"queries": 16, "context": 24})
    two = {"queries": 16, "context": 24, "other": 24}
    yield from bridge_checks(("fusion", albef), two)
    yield from bridge_checks(("concatenate", {}), {"left": 16, "middle": 16, "right": 16})
    yield from bridge_checks(("concatenate", {"by": "features"}), {"left": 16, "right": 24})
    yield from bridge_checks(("concatenate", {"by": "features", "pooler": True}), {"left": 16, "right": 16})
