"""Coupled noise says the jitter of the objects it shall, and is standard normal all the same."""

import torch

from pipelines.embedded.training.editing.coupling import VALUES, coupled_noise, said_jitter


def _noise(n: int, tokens: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    jitter = torch.rand(n, 2, 3, generator=generator)
    return jitter, torch.randn(n, tokens, 64, generator=generator)


def test_the_noise_says_the_jitter() -> None:
    for tokens in (16, 64):
        jitter, noise = _noise(50, tokens)
        coupled = coupled_noise(jitter, torch.ones(50, 2, dtype=torch.bool), noise)
        torch.testing.assert_close(said_jitter(coupled), jitter, atol=2e-4, rtol=0)
        assert torch.equal(coupled[:, :, VALUES:], noise[:, :, VALUES:])


def test_only_coupled_objects_are_said() -> None:
    jitter, noise = _noise(50)
    one = torch.tensor([[False, True]]).expand(50, 2)
    coupled = coupled_noise(jitter, one, noise)
    assert torch.equal(coupled[:, :, :3], noise[:, :, :3])
    torch.testing.assert_close(said_jitter(coupled)[:, 1], jitter[:, 1], atol=2e-4, rtol=0)
    none = coupled_noise(jitter, torch.zeros(50, 2, dtype=torch.bool), noise)
    assert torch.equal(none, noise)


def test_over_all_scenes_it_is_standard_normal() -> None:
    jitter, noise = _noise(20_000)
    coupled = coupled_noise(jitter, torch.ones(20_000, 2, dtype=torch.bool), noise)
    values = coupled[:, :, :VALUES].flatten(1)
    covariance = torch.cov(values.T)
    assert (covariance - torch.eye(len(covariance))).abs().max() < 0.05
    assert values.mean(0).abs().max() < 0.03
    kurtosis = (values**4).mean(0) / (values**2).mean(0) ** 2
    assert (kurtosis - 3).abs().max() < 0.25


def test_noise_of_any_seed_says_a_jitter_as_scenes_have_it() -> None:
    said = said_jitter(_noise(5_000)[1])
    assert 0 <= float(said.min()) < float(said.max()) <= 1
    assert (said.mean(0) - 0.5).abs().max() < 0.02
    assert (said.std(0) - 12**-0.5).abs().max() < 0.01
