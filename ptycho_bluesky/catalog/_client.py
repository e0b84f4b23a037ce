"""What a reconstruction in Tiled looks like to a user: the client class of the spec ``PtychoReconstruction``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tiled.client.constructors import from_context
from tiled.client.container import Container

from ptycho_bluesky.catalog._connect import find_run
from ptycho_bluesky.errors import CatalogError
from ptycho_bluesky.experiment import Reconstruction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PtychoReconstruction"]


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)  # JSON has no NaN


class PtychoReconstruction(Container):  # type: ignore[misc]
    """A reconstruction in the catalogue, beside its raw run; Tiled makes it for every node of this spec.

    Children: ``phase`` and ``amplitude`` (Y, X) float32, NaN where not scanned; ``object`` (slices, Y, X) and
    ``probe`` (modes, H, W) complex64; ``coverage`` (Y, X) float32; ``preview`` (Y, X, 3) uint8; tables ``positions``
    (row, column) and ``errors`` (epoch, r_factor).

    Metadata keys, all of which can be searched for: ``job_id``, ``raw_uid``, ``scan_id``, ``engine``, ``modality``,
    ``parameters``, ``r_factor``, ``phase_contrast_rad``, ``pixel_size_m`` (null for pixel units), ``position_unit``
    ("m" or "px"), ``origin`` (row, column), ``object_shape``, ``probe_shape``, ``frames``, ``epochs``, ``provenance``
    (versions, host, device, ranks, timings, model hash: whatever the engine and the runner know), ``campaign``,
    ``created`` (seconds since 1970), ``content_hash``, ``complete`` (false while it is being written).
    """

    def _array(self, key: str) -> npt.NDArray[Any]:
        try:
            return np.asarray(self[key].read())
        except KeyError:
            raise CatalogError(
                f"reconstruction {self.item['id']} has no {key!r}: its registration was cut short. "
                "Register it again (ptycho_bluesky.dispatch.register_pending)"
            ) from None

    @property
    def phase(self) -> npt.NDArray[np.float32]:
        """(Y, X) phase in radians, NaN where not scanned."""
        return self._array("phase")

    @property
    def amplitude(self) -> npt.NDArray[np.float32]:
        """(Y, X) amplitude, NaN where not scanned."""
        return self._array("amplitude")

    @property
    def object(self) -> npt.NDArray[np.complex64]:
        """(slices, Y, X) complex transmission of the sample."""
        return self._array("object")

    @property
    def probe(self) -> npt.NDArray[np.complex64]:
        """(modes, H, W) complex illumination, strongest mode first."""
        return self._array("probe")

    @property
    def preview(self) -> npt.NDArray[np.uint8]:
        """(Y, X, 3) picture of the phase."""
        return self._array("preview")

    @property
    def raw(self) -> Any:
        """The run that was reconstructed.

        Raises
        ------
        CatalogError
            When it was made from a file, or the run is not in this catalogue.
        """
        uid = self.metadata.get("raw_uid")
        if uid is None:
            raise CatalogError(f"reconstruction {self.item['id']} was made from a file, not from a run")
        if (run := find_run(from_context(self.context), uid)) is None:
            raise CatalogError(f"run {uid} of reconstruction {self.item['id']} is not in this catalogue")
        return run

    def to_reconstruction(self) -> Reconstruction:
        """Return all of it in memory, exactly as it was registered."""
        metadata = self.metadata_copy()[0]
        positions = self["positions"].read()
        errors = self["errors"].read() if "errors" in self else None
        origin = metadata["origin"]
        return Reconstruction(
            object=self.object,
            probe=self.probe,
            positions=np.stack([np.asarray(positions[k], np.float64) for k in ("row", "column")], axis=1),
            coverage=self._array("coverage"),
            origin=(float(origin[0]), float(origin[1])),
            pixel_size_m=metadata["pixel_size_m"],
            errors=np.zeros(0) if errors is None else np.asarray(errors["r_factor"], np.float64),
            r_factor=_number(metadata["r_factor"]),
            phase_contrast_rad=_number(metadata["phase_contrast_rad"]),
            engine=metadata["engine"],
            modality=metadata["modality"],
            parameters=metadata["parameters"],
            provenance=metadata["provenance"],
        )

    def plot(self) -> Figure:
        """Return a figure with phase, amplitude and the probe's strongest mode, axes in micrometres."""
        from matplotlib.figure import Figure  # a console that plots nothing shall not wait for it

        pixel = self.metadata["pixel_size_m"]
        scale, unit = (1.0, "px") if pixel is None else (pixel * 1e6, "µm")
        figure = Figure(figsize=(12, 4), layout="constrained")
        panels = (
            ("phase (rad)", self.phase, "viridis"),
            ("amplitude", self.amplitude, "gray"),
            ("probe, strongest mode", np.abs(self.probe[0]), "magma"),
        )
        for axes, (title, image, colours) in zip(figure.subplots(1, 3), panels, strict=True):
            extent = (0.0, image.shape[1] * scale, image.shape[0] * scale, 0.0)
            shown = axes.imshow(image, cmap=colours, extent=extent)
            axes.set(title=title, xlabel=f"x ({unit})", ylabel=f"y ({unit})")
            figure.colorbar(shown, ax=axes, shrink=0.8)
        figure.suptitle(f"{self.metadata['engine']}, R = {_number(self.metadata['r_factor']):.3f}")
        return figure
