"""GeoTIFF scenes, by rasterio: local files of that format only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metaformer.errors import DataError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""TIFF and BigTIFF in both byte orders. GDAL goes by content, and a virtual raster names files and addresses."""


def read_geotiff(path: Path, most: int) -> np.ndarray:
    """[rows, columns, bands] as stored; float32 with NaN where a band has a code for "nothing here".

    Raises DataError for what is too large and without rasterio, ValueError and OSError for damage."""
    with path.open("rb") as file:
        if file.read(4) not in MAGIC:
            raise ValueError("no TIFF file")
    try:
        import rasterio  # type: ignore[import-untyped]
        from rasterio.errors import NotGeoreferencedWarning, RasterioError  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            f"GeoTIFF file {path}", "rasterio is absent", "pip install 'metaformer-plugin-hyperspectral[geotiff]'"
        ) from error
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            # No look at neighbouring files, which may be masks, overviews or notes that say where else to read.
            with (
                rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_HTTP_MAX_RETRY=0),
                rasterio.open(path.resolve(), driver="GTiff") as scene,
            ):
                size = scene.count * scene.height * scene.width
                if size > most:
                    raise DataError(f"at most {most} numbers in {path}", f"{size}", "raise max_values")
                if any(np.dtype(name).kind not in "iuf" for name in scene.dtypes):
                    raise ValueError(f"bands of type {', '.join(sorted(set(scene.dtypes)))}")
                cube = scene.read()
                nothing = scene.nodatavals
        # rasterio's own errors are ValueErrors or OSErrors only in part.
        except RasterioError as error:
            raise ValueError(str(error)) from error
    if any(code is not None and not np.isnan(code) for code in nothing):
        cube = cube.astype(np.float32)
        for band, code in zip(cube, nothing, strict=True):
            if code is not None:
                band[band == np.float32(code)] = np.nan
    return np.moveaxis(cube, 0, 2)
