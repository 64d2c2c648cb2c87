"""Look inside a fitted model: what its codes mean, how they lie, and what its decoder does with them.

Every tool takes a `Lens`, a fitted model beside a data set, and finds out by `Model.supports` what the model can do. `explore` runs all
that apply; each result is data, and `Exploration.save` draws all of them into one page.

=====================================  ==================================================================================
`interpolate`, `arithmetic`            walks between records, straight and along the sphere; a - b + c
`grid`, `traverse`                     the square of equally probable codes; one dimension of a code at a time
`attributes_of`, `direction`, `edit`   what labels or columns of yes and no are in code space; added and removed by degrees
`scatter`, `linear_probe`              codes by class, with figures; what a linear reader finds in the codes of several models
`gaps`, `lipschitz`                    what is decoded where no code lies; how steep the decoder is
`pixel_shift`, `ssim`                  what one pixel to the left costs by squared error, and by better measures
`neighbours`                           samples beside their nearest training records
=====================================  ==================================================================================
"""

from .attributes import Attribute, Edit, attributes_of, direction, edit
from .exploration import Exploration, Neighbours, explore, neighbours
from .lens import Lens, Shown
from .paths import (
    Arithmetic,
    Grid,
    Interpolation,
    Traversal,
    active_units,
    arithmetic,
    grid,
    interpolate,
    lerp,
    quantiles,
    slerp,
    traverse,
)
from .shift import Closeness, PixelShift, pixel_shift, shifted, ssim
from .smoothness import Gaps, Lipschitz, gaps, lipschitz, singular_values
from .spread import Probe, Scatter, linear_probe, probe_features, scatter

__all__ = [
    "Arithmetic",
    "Attribute",
    "Closeness",
    "Edit",
    "Exploration",
    "Gaps",
    "Grid",
    "Interpolation",
    "Lens",
    "Lipschitz",
    "Neighbours",
    "PixelShift",
    "Probe",
    "Scatter",
    "Shown",
    "Traversal",
    "active_units",
    "arithmetic",
    "attributes_of",
    "direction",
    "edit",
    "explore",
    "gaps",
    "grid",
    "interpolate",
    "lerp",
    "linear_probe",
    "lipschitz",
    "neighbours",
    "pixel_shift",
    "probe_features",
    "quantiles",
    "scatter",
    "shifted",
    "singular_values",
    "slerp",
    "ssim",
    "traverse",
]
