"""The flow's arithmetic: our short cuts do what diffusers does, and nothing is left at chance."""

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from pipelines.embedded.training.budget import Budget, annealed
from pipelines.embedded.training.flow import (
    SHIFT,
    Prompts,
    ShortAttention,
    build_scheduler,
    build_transformer,
    draw_times,
    velocity,
)
from pipelines.embedded.training.muon import Muon, orthogonalise
from pipelines.embedded.training.tokenizers import T5_LENGTH
from pipelines.embedded.training.train_text import WIDTH
from pipelines.embedded.training.world import Canvas

CANVAS = Canvas(64, 96)


def _velocity(transformer: FluxTransformer2DModel) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    xt = torch.randn(2, CANVAS.tokens, 64, generator=generator)
    prompts = Prompts(
        pooled=torch.randn(2, WIDTH, generator=generator),
        tokens=torch.randn(2, T5_LENGTH, WIDTH, generator=generator),
    )
    t, guidance = torch.tensor([0.3, 0.9]), torch.tensor([1.0, 3.0])
    return velocity(transformer, CANVAS, xt, t, prompts, guidance)


def test_an_untrained_transformer_has_no_velocity() -> None:
    assert _velocity(build_transformer()).abs().max() == 0


@torch.no_grad()
def test_short_attention_is_diffusers_attention() -> None:
    torch.manual_seed(0)
    transformer = build_transformer()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    expected = _velocity(transformer)
    transformer.set_attn_processor(ShortAttention())  # type: ignore[arg-type]
    assert expected.std() > 0.1
    torch.testing.assert_close(_velocity(transformer), expected, atol=1e-4, rtol=1e-4)


def test_times_are_drawn_where_the_steps_are() -> None:
    times = draw_times(20_000, torch.Generator().manual_seed(0))
    assert times.min() > 0
    assert times.max() < 1
    scheduler = build_scheduler()
    scheduler.set_timesteps(sigmas=[1 - i / 100 for i in range(100)])
    sigmas = torch.as_tensor(scheduler.sigmas)
    assert abs(times.median() - sigmas.median()) < 0.03
    assert abs(sigmas[50] - SHIFT * 0.5 / (1 + (SHIFT - 1) * 0.5)) < 1e-4


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    for shape in ((3, 16, 40), (2, 40, 16)):
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        values = torch.linalg.svdvals(orthogonalise(matrices))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_muon_solves_a_least_squares_problem() -> None:
    torch.manual_seed(2)
    wanted, weight = torch.randn(8, 12), torch.zeros(8, 12, requires_grad=True)
    kernel = torch.zeros(4, 3, 3, 3, requires_grad=True)  # convolutions are matrices too
    optimizer = Muon([weight, kernel], lr=0.3, weight_decay=0.0)
    for step in range(200):
        loss = (weight - wanted).square().mean() + (kernel - 1).square().mean()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 200)
        optimizer.step()
        optimizer.zero_grad()
    assert (weight - wanted).abs().max() < 0.1
    assert (kernel - 1).abs().max() < 0.1


def test_the_learning_rate_warms_up_and_ends_at_nothing() -> None:
    factors = [annealed(step / 1000) for step in range(1001)]
    assert factors[0] < 0.02
    assert max(factors) == factors[200] == 1.0
    assert factors[-1] == 0.0
    assert Budget(minutes=1e-9).fraction() == 1.0
    assert Budget(minutes=60).fraction() < 0.01
