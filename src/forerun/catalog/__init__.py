"""What ships about hardware, prices, grids and models; every number with its source."""

from forerun.catalog.hardware import device, devices, fitting, grid, link, links, price
from forerun.catalog.zoo import model, models, pipelines

__all__ = [
    "device", "devices", "fitting", "grid", "link", "links", "model", "models", "pipelines",
    "price",
]  # fmt: skip
