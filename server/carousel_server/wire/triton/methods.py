"""The methods of Triton's protocol, for every transport. They share the running sequences."""

from __future__ import annotations

from typing import NamedTuple

from carousel_server.core.catalog import CatalogPort
from carousel_server.wire.gate import Gate
from carousel_server.wire.options import WireOptions

from .about import About
from .infer import Inference
from .models import ServedModels


class TritonMethods(NamedTuple):
    """What a server tells of itself, and what steps sequences."""

    about: About
    inference: Inference

    @classmethod
    def of(cls, catalog: CatalogPort, options: WireOptions, gate: Gate) -> TritonMethods:
        """Those of a catalog's engines."""
        models = ServedModels(catalog)
        return cls(About(catalog, models, options, gate), Inference(models, options, gate))
