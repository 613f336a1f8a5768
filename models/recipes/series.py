"""The published series that the forecasters learn, as statsmodels ships them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Series:
    """Rows in the order of time. The first column is forecast, one step ahead.

    Attributes:
        name: short name, as in "sunspots-gru".
        title: one line for people.
        source: who published it.
        columns: names of the columns.
        rows: raw values, float32[T, columns].
        season: steps after which the series nearly repeats, for the seasonal naive forecast.
        held_out_from: index of the first row that is never trained on as a target.
    """

    name: str
    title: str
    source: str
    columns: tuple[str, ...]
    rows: Rows
    season: int
    held_out_from: int

    def csv(self) -> str:
        """The rows with a header line, the shortest digits that give the same float32 again."""
        lines = [",".join(self.columns)]
        lines += [",".join(str(value) for value in row) for row in self.rows]
        return "\n".join(lines) + "\n"


def sunspots() -> Series:
    """Yearly mean sunspot number, 1700 to 2008; held out from 1921."""
    from statsmodels.datasets import sunspots as dataset

    data = dataset.load_pandas().data
    values = data["SUNACTIVITY"].to_numpy(np.float32)
    return Series(
        name="sunspots",
        title="yearly sunspot number, 1700 to 2008, one year ahead",
        source="NOAA National Geophysical Data Center (statsmodels.datasets.sunspots)",
        columns=("sunspots",),
        rows=values[:, None],
        season=11,
        held_out_from=1921 - 1700,
    )


def elnino() -> Series:
    """Monthly sea surface temperature off Peru, 1950 to 2010; held out from 1995.

    Beside the temperature in °C a row holds the month as an angle: cosine and sine of 2π·month/12.
    """
    from statsmodels.datasets import elnino as dataset

    values = dataset.load_pandas().data.iloc[:, 1:].to_numpy(np.float32).ravel()
    angle = 2 * np.pi * (np.arange(len(values)) % 12) / 12
    rows = np.stack([values, np.cos(angle).round(4), np.sin(angle).round(4)], axis=1)
    return Series(
        name="elnino",
        title="monthly sea surface temperature in °C off Peru, 1950 to 2010, one month ahead",
        source="NOAA ERSST.V3B, Nino 1+2 region (statsmodels.datasets.elnino)",
        columns=("celsius", "month_cos", "month_sin"),
        rows=rows.astype(np.float32),
        season=12,
        held_out_from=(1995 - 1950) * 12,
    )


SERIES = {"sunspots": sunspots, "elnino": elnino}
