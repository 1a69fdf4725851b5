"""Contextual repulsion: the properties of the update, and that it happens at the right places of real small
networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

import tiny_pipelines as tiny
from fairlead.core.cost import INFINITE, Meter
from fairlead.core.errors import FairleadError
from fairlead.core.intervention import installed
from fairlead.core.key import Key, normals
from fairlead.core.model import Level, Rows, Site, Tokens, whole
from fairlead.core.samplers import euler
from fairlead.core.sampling import sample
from fairlead.interventions._gram import cosine, gram, repel, vendi
from fairlead.interventions.repulsion import Contact, Repulsion
from fairlead.testing import intervention_laws

KEYS = tuple(Key.root(1).fold("sample", i) for i in range(3))
OBJECTIVES = ("vendi", "renyi2", "dpp", "mean_cosine")
KAPPA = 1e-4


def batch(i: int, b: int = 4, p: int = 60, spread: float = 0.3) -> Tensor:
    """[1, b, p] float64 around a common direction."""
    key = Key.root(3).fold("batch", i)
    return (key.fold("mean").normal(1, 1, p) + spread * key.fold("own").normal(1, b, p)).double()


def size2(x: Tensor) -> float:
    """Mean squared length: what turns a strength into eta, with the group's size."""
    return float(x.square().sum(-1).mean())


def pushed(x: Tensor, q: float, **settings: Any) -> Tensor:
    return repel(x, q * x.shape[1] * size2(x), **settings)


def value(x: Tensor, objective: str) -> float:
    """The objective itself, of x [B, P]."""
    b = len(x)
    u = x / x.norm(dim=1, keepdim=True)
    k = u @ u.T
    rho = (k + KAPPA * torch.eye(b)) / (b * (1 + KAPPA))
    values = torch.linalg.eigvalsh(rho)
    if objective == "vendi":
        return float(-(values * values.log()).sum()) * (1 + KAPPA)
    if objective == "renyi2":
        return float(-values.square().sum().log()) * (1 + KAPPA)
    if objective == "dpp":
        return float(torch.logdet(k + KAPPA * torch.eye(b)) - torch.logdet(k + torch.eye(b)))
    return -float(k.triu(1).sum())


def reference(x: Tensor, eta: float, inner: int) -> Tensor:
    """The loop over the vectors themselves, x [B, P] (paper eq. 2)."""
    b = len(x)
    for _ in range(inner):
        r = x.norm(dim=1, keepdim=True)
        u = x / r
        values, v = torch.linalg.eigh((u @ u.T + KAPPA * torch.eye(b)) / (b * (1 + KAPPA)))
        w = 2 / b * (-(v * values.clamp(min=1e-12).log()) @ v.T) @ u
        x = x + eta / inner * (w - (w * u).sum(1, keepdim=True) * u) / r
    return x


# the update


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_is_the_objectives(objective: str) -> None:
    x = batch(0, b=3, p=5)
    step = repel(x, 1.0, 1, objective=objective)[0] - x[0]
    slope = torch.zeros_like(x[0])
    for i in range(3):
        for j in range(5):
            d = torch.zeros_like(x[0])
            d[i, j] = 1e-5
            slope[i, j] = (value(x[0] + d, objective) - value(x[0] - d, objective)) / 2e-5
    assert float((step - slope).norm() / slope.norm()) < 1e-6
    assert float((step * x[0]).sum(1).abs().max()) < 1e-10, "tangential"


@pytest.mark.parametrize("q", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("inner", [1, 10, 50])
def test_the_gram_loop_is_the_loop_over_tokens(q: float, inner: int) -> None:
    for i, spread in enumerate((0.02, 0.3, 2.0)):
        x = batch(i, b=2 + 3 * i, spread=spread)
        eta = q * x.shape[1] * size2(x)
        slow = reference(x[0], eta, inner)
        assert float((repel(x, eta, inner)[0] - slow).norm() / slow.norm()) < 1e-8


def test_diversity_rises() -> None:
    """Entropy at every inner step, the Vendi score strictly, the mean cosine never; the sign of the paper's words is
    wrong.
    """
    for i in range(40):
        x = batch(i, b=2 + i % 7, spread=(0.01, 0.1, 1.0)[i % 3])
        for q in (0.01, 0.3, 1.0):
            eta, now, before = q * x.shape[1] * size2(x), x, vendi(gram(x))[0]
            first = before
            for _ in range(10):
                now = repel(now, eta / 10, 1)
                after = vendi(gram(now))[0]
                assert after >= before - 1e-7
                before = after
            assert before > first
        assert cosine(gram(pushed(x, 0.01)))[0] <= cosine(gram(x))[0]


def test_vendi_of_equal_cosines() -> None:
    for c, b, known in [(0.99, 2, 1.0320), (0.9, 4, 1.4173), (0.5, 8, 4.6490), (0.0, 8, 8.0), (0.999, 4, 1.0070)]:
        g = np.full((1, b, b), c) + (1 - c) * np.eye(b)
        assert vendi(g)[0] == pytest.approx(known, abs=1e-4)
        assert cosine(g)[0] == pytest.approx(c)


def test_the_documented_regimes() -> None:
    """A strength of 0.1 at a mean cosine of 0.9975 takes the Vendi score from 1.016 to 1.13; 1 makes the group
    orthogonal.
    """
    x = batch(1, p=20_000, spread=0.05)
    assert vendi(gram(x))[0] == pytest.approx(1.016, abs=2e-3)
    for q, known in ((0.03, 1.033), (0.1, 1.13), (1.0, 3.99)):
        assert vendi(gram(pushed(x, q, inner=100)))[0] == pytest.approx(known, rel=0.01)
    few, many = (vendi(gram(pushed(x, 0.05, inner=inner)))[0] for inner in (20, 200))
    assert abs(few - many) < 0.01 * many


@pytest.mark.parametrize("a", [0.01, 100.0])
def test_scale(a: float) -> None:
    x = batch(2)
    torch.testing.assert_close(repel(a * x, a * a * 3.0), a * repel(x, 3.0), rtol=1e-9, atol=0)
    torch.testing.assert_close(pushed(a * x, 0.1), a * pushed(x, 0.1), rtol=1e-9, atol=0)


def test_order_of_samples_and_of_tokens() -> None:
    x, samples, tokens = batch(3), torch.tensor([2, 0, 3, 1]), torch.arange(59, -1, -1)
    y = pushed(x, 0.3)
    torch.testing.assert_close(pushed(x[:, samples], 0.3), y[:, samples], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(pushed(x[..., tokens], 0.3), y[..., tokens], rtol=1e-10, atol=1e-12)
    fit = torch.linalg.lstsq(x[0].T, y[0].T)
    assert float((x[0].T @ fit.solution - y[0].T).norm()) < 1e-10, "in the span of the inputs"
    assert bool((repel(x, 3.0, 1).norm(dim=-1) >= x.norm(dim=-1) - 1e-9).all()), "tangential steps lengthen"


def test_nothing_to_repel() -> None:
    x = batch(4)
    assert repel(x, 0.0) is x
    assert repel(x[:, :1], 5.0).equal(x[:, :1])
    same = x[:, :1].expand(-1, 4, -1).contiguous()
    torch.testing.assert_close(pushed(same, 0.3), same, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_bad_rows(dtype: torch.dtype) -> None:
    x = batch(5).to(dtype)
    zero, infinite, twin, opposite = x.clone(), x.clone(), x.clone(), x.clone()
    zero[0, 1], infinite[0, 1, 0], twin[0, 1], opposite[0, 1] = 0, math.inf, x[0, 0], -x[0, 0]
    for bad in (zero, infinite):
        assert torch.equal(pushed(bad, 0.3), bad), "no cosine, no repulsion"
    for odd in (twin, opposite):
        out = pushed(odd, 0.3)
        assert out.dtype == dtype
        assert out.isfinite().all()
    both = torch.cat([zero, x])
    assert torch.equal(repel(both, 20.0)[1:], repel(x, 20.0)), "a bad group does not spoil its neighbour"
    if dtype == torch.float16:
        assert repel(1e4 * x, 1e12).isfinite().all(), "clamped to what the format holds"


def test_one_rounding_keeps_what_many_lose() -> None:
    """The effect of q = 0.01 survives one rounding to bfloat16 and hardly survives 50 (spec 9.1)."""
    x = batch(6, p=20_000, spread=0.05).bfloat16()
    exact = vendi(gram(pushed(x.double(), 0.01, inner=50)))[0]
    once, often = (vendi(gram(pushed(x, 0.01, inner=50, rounding=r)))[0] for r in ("once", "per_step"))
    start = vendi(gram(x))[0]
    assert once - start == pytest.approx(exact - start, rel=0.1)
    assert often - start < 0.5 * (exact - start)


# the intervention on tokens


def rows(groups: list[int], step: int = 0, steps: int = 20) -> Rows:
    return whole(len(groups), Level(0.0, 1.0), groups=torch.tensor(groups), step=step, steps=steps)


def tokens(n: int, dtype: torch.dtype = torch.float32) -> Tokens:
    keys = tuple(Key.root(9).fold(i) for i in range(n))
    mean = Key.root(9).fold("mean")
    return Tokens(
        (normals(keys, 3, 4) + mean.normal(3, 4)).to(dtype), (0.2 * normals(keys, 5, 4) + mean.normal(5, 4)).to(dtype)
    )


JOINT, SINGLE = Site("joint_0", "joint", 0, depth=0.1), Site("single_0", "single", 0, depth=0.5)


def test_groups_are_worlds_of_their_own() -> None:
    who, all_ = Repulsion(0.3), tokens(7, torch.bfloat16)
    out = who(JOINT, rows([0, 1, 0, 1, 1, 2, 0]), all_)
    for members in ([0, 2, 6], [1, 3, 4]):
        alone = who(JOINT, rows([0] * 3), Tokens(all_.image[members], all_.text[members]))
        assert torch.equal(alone.text, out.text[members])
        assert not torch.equal(alone.text, all_.text[members])
    assert torch.equal(out.text[5], all_.text[5]), "a group of one"
    assert torch.equal(out.image, all_.image), "joint blocks: text only"
    single = who(SINGLE, rows([0] * 7), all_)
    assert not torch.equal(single.image, all_.image)
    assert not torch.equal(single.text, all_.text)
    only = Repulsion(0.3, single="text")(SINGLE, rows([0] * 7), all_)
    assert torch.equal(only.image, all_.image)


def test_branches_have_their_own_kernels() -> None:
    all_, both = tokens(4), rows([0, 0]).doubled()
    out = Repulsion(0.3)(JOINT, both, all_)
    for half in (slice(0, 2), slice(2, 4)):
        alone = Repulsion(0.3)(JOINT, rows([0, 0]), Tokens(all_.image[half], all_.text[half]))
        torch.testing.assert_close(alone.text, out.text[half])
    joint = Repulsion(0.3, cfg="joint")(JOINT, both, all_)
    assert not torch.allclose(joint.text, out.text)
    positive = Repulsion(0.3, cfg="cond_only")(JOINT, both, all_)
    assert torch.equal(positive.text[:2], all_.text[:2])
    torch.testing.assert_close(positive.text[2:], out.text[2:])


def test_padding_is_left_out() -> None:
    """What stands in masked positions neither moves nor matters."""
    some, mask = tokens(3), torch.tensor([[True, True, True, False, False]]).expand(3, -1)
    other = replace(some, text=torch.where(mask[..., None], some.text, 7 * some.image.mean() + some.text**2), mask=mask)
    a, b = (Repulsion(0.3)(JOINT, rows([0] * 3), t).text for t in (replace(some, mask=mask), other))
    assert torch.equal(a[:, :3], b[:, :3])
    assert torch.equal(b[:, 3:], other.text[:, 3:])
    assert not torch.equal(a[:, :3], some.text[:, :3])


@pytest.mark.parametrize(("steps", "expected"), [(1, 1), (4, 1), (8, 1), (20, 3), (28, 4)])
def test_the_window(steps: int, expected: int) -> None:
    active = [s for s in range(steps) if Repulsion().wants(JOINT, rows([0, 0], s, steps))]
    assert active == list(range(expected))
    assert [s for s in range(steps) if Repulsion(first=2).wants(JOINT, rows([0, 0], s, steps))] == list(
        range(min(2, steps))
    )
    late = replace(rows([0, 0]), level=Level(0.5, 0.5))
    assert not Repulsion(sigma_min=0.6).wants(JOINT, late)
    assert Repulsion(sigma_min=0.4).wants(JOINT, late)


def test_a_window_that_is_everything_or_nothing_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="whole trajectory of 4 steps"):
        Repulsion(first=4).wants(JOINT, rows([0, 0], 3, 4))
    with pytest.warns(UserWarning, match="changes nothing"):
        assert not Repulsion(sigma_min=0.9).wants(JOINT, replace(rows([0, 0], 0, 4), level=Level(0.5, 0.5)))


@pytest.mark.parametrize("joint", ["text", "image", "both"])
def test_joint_says_which_stream_moves(joint: str) -> None:
    """`both` is an option beside the published `text`, which stays the default."""
    before = tokens(4)
    after = Repulsion(joint=joint)(JOINT, rows([0] * 4), before)
    assert torch.equal(after.text, before.text) == (joint == "image")
    assert torch.equal(after.image, before.image) == (joint == "text")
    plain = Repulsion()(JOINT, rows([0] * 4), before)
    assert (joint == "text") == (torch.equal(plain.text, after.text) and torch.equal(plain.image, after.image))


def test_the_default_moves_a_group_by_a_tenth() -> None:
    """Strength 0.1 of what makes a group orthogonal, twice that of before."""
    x = batch(0)
    found: list[Contact] = []
    plain = Repulsion(seen=found)
    text = x[0].view(4, 6, 10).float()
    plain(JOINT, rows([0] * 4), Tokens(text, text))
    expected = pushed(x, 0.1)
    assert found[0].vendi[1] == pytest.approx(float(vendi(gram(expected))[0]), rel=1e-3)
    assert found[0].vendi[1] > float(vendi(gram(pushed(x, 0.05)))[0]) * 1.01


def test_blocks() -> None:
    sites = [Site(f"joint_{i}", "joint", i, depth=(i + 0.5) / 9) for i in range(9)]
    middle = [s.index for s in sites if Repulsion(blocks="middle_third").wants(s, rows([0, 0]))]
    assert middle == [3, 4, 5]
    assert [s.index for s in sites if Repulsion(blocks=("joint_7",)).wants(s, rows([0, 0]))] == [7]
    assert not Repulsion(single="off").wants(SINGLE, rows([0, 0]))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"strength": -0.1}, r"repulsion\.strength is -0\.1: must be a finite number >= 0"),
        ({"eta": math.nan}, "a finite number >= 0"),
        ({"inner": 0}, r"repulsion\.inner is 0"),
        ({"inner": 2.5}, r"repulsion\.inner is 2\.5"),
        ({"first": -1}, r"repulsion\.first is -1"),
        ({"first": 1.5}, r"repulsion\.first is 1\.5"),
        ({"sigma_min": 2.0}, r"must be a number in \[0, 1\]"),
        ({"objective": "vend"}, "Did you mean 'vendi'"),
        ({"blocks": "mid"}, r"repulsion\.blocks is 'mid'"),
        ({"place": "attn"}, r"repulsion\.place is 'attn'"),
    ],
)
def test_wrong_settings(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FairleadError, match=sentence):
        Repulsion(**words)


def test_absurd_strength_is_clipped() -> None:
    with pytest.warns(UserWarning, match="clipped to 1"):
        assert Repulsion(50.0).strength == 1.0
    with pytest.warns(UserWarning, match="orthogonal at joint_0"):
        Repulsion(eta=1e6)(JOINT, rows([0, 0]), tokens(2))


def test_eta_is_the_papers_scale() -> None:
    some = tokens(3)
    x = some.text.flatten(1)[None].double()
    out = Repulsion(eta=5.0, inner=50)(JOINT, rows([0] * 3), some)
    torch.testing.assert_close(out.text.flatten(1).double(), reference(x[0], 5.0, 50), rtol=1e-5, atol=1e-5)


# in networks


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    from fairlead.models.sd3 import StableDiffusion3

    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    medium = {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"}
    folder = tiny.saved(tmp_path_factory.mktemp("sd3"), tiny.sd3, flow, **medium)
    return lambda **words: StableDiffusion3(folder, max_sequence_length=12, **words)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    from fairlead.models.qwen_image import QwenImage

    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    folder = tiny.saved(tmp_path_factory.mktemp("qwen"), tiny.qwen_image, flow)
    return lambda **words: QwenImage(folder, height=16, width=16, **words)


@pytest.fixture(scope="module")
def flux2(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    from fairlead.models.flux2 import Flux2Klein

    folder = tiny.saved(tmp_path_factory.mktemp("flux2"), tiny.flux2_klein, diffusers.FlowMatchEulerDiscreteScheduler())
    return lambda **words: Flux2Klein(folder, height=16, width=16, **words)


@pytest.fixture(scope="module")
def aura(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    from fairlead.models.aura_flow import AuraFlow

    folder = tiny.saved(tmp_path_factory.mktemp("aura"), tiny.aura_flow, diffusers.FlowMatchEulerDiscreteScheduler())
    return lambda **words: AuraFlow(folder, **words)


@pytest.fixture(scope="module")
def z_image(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    from fairlead.models.z_image import ZImage

    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    folder = tiny.saved(tmp_path_factory.mktemp("z_image"), tiny.z_image, flow)
    return lambda **words: ZImage(folder, height=16, width=16, **words)


@pytest.mark.parametrize("family", ["sd3", "qwen", "flux2", "aura", "z_image"])
@pytest.mark.parametrize("place", ["attention", "block"])
def test_laws(family: str, place: Any, request: pytest.FixtureRequest) -> None:
    guidance = "true_cfg_scale" if family == "qwen" else "guidance_scale"
    make, word = request.getfixturevalue(family), {guidance: 3.0}
    intervention_laws(Repulsion(0.2, place=place), make(**word), Repulsion(0.0, place=place))


@contextmanager
def looking(model: Any, ends: tuple[str, ...] = (".attn", ".attn2")) -> Iterator[list[tuple[str, Any]]]:
    """What every attention hands to its block; seen after the edits if entered after them."""
    seen: list[tuple[str, Any]] = []
    found = [(name, m) for name, m in model.net.named_modules() if name.endswith(ends)]
    hooks = [m.register_forward_hook(lambda _, __, out, name=name: seen.append((name, out))) for name, m in found]
    yield seen
    for hook in hooks:
        hook.remove()


def draw(model: Any, who: Any, groups: list[int], steps: int = 4, prompts: list[str] | None = None) -> Tensor:
    """Latents of a run under an intervention, or None."""
    meter, n = Meter(), len(groups)
    model.meter(meter)
    keys = tuple(Key.root(1).fold("sample", i) for i in range(n))
    cond = model.encode(prompts or ["a dog"] * n)
    with torch.no_grad(), meter.grant(INFINITE), installed(model, [] if who is None else [who]):
        return sample(
            model,
            euler,
            normals(keys, *model.latent),
            cond,
            model.levels(steps),
            keys,
            meter,
            groups=torch.tensor(groups),
        )


def test_what_is_noted_of_a_contact() -> None:
    """The root mean square length of the rows, the step in its units, and what the move did."""
    seen: list[Contact] = []
    keys = tuple(Key.root(5).fold(i) for i in range(3))
    tokens = Tokens(normals(keys, 4, 6), 3 + normals(keys, 5, 6))
    out = Repulsion(0.2, seen=seen)(JOINT, rows([0, 0, 0], step=1), tokens)
    (one,) = seen
    before, after = (t.text.flatten(1).double() for t in (tokens, out))
    length = before.square().sum(1).mean()
    assert (one.site, one.step, one.conditional) == ("joint_0", 1, True)
    assert one.norm == pytest.approx(float(length) ** 0.5)
    assert one.q == pytest.approx(0.2)
    assert one.moved == pytest.approx(float(((after - before).square().sum(1).mean() / length).sqrt()), rel=1e-4)
    cosines = torch.nn.functional.normalize(before, dim=1)
    assert one.cosine[0] == pytest.approx(float((cosines @ cosines.T).sum() - 3) / 6, rel=1e-6)


def test_sd3_sites(sd3: Any) -> None:
    """Text of the blocks that hand it on: not the second attention, not the last block; once a step, in both
    branches.
    """
    model, seen = sd3(guidance_scale=3.0), list[Contact]()
    draw(model, Repulsion(0.1, first=2, seen=seen), [0, 0, 0])
    assert [(c.site, c.step, c.conditional) for c in seen] == [
        (site, step, branch) for step in (0, 1) for site in ("joint_0", "joint_1") for branch in (False, True)
    ]
    assert all(c.cosine[1] < c.cosine[0] and c.vendi[1] > c.vendi[0] and 0 < c.moved < 0.5 for c in seen)
    assert all(c.q == pytest.approx(0.1) for c in seen)
    at, x, cond = model.levels(4)[0], normals(KEYS, *model.latent), model.encode(["a dog"] * 3)
    sides = []
    for who in (Repulsion(0.0), Repulsion(0.1)):
        with torch.no_grad(), installed(model, [who]), looking(model) as seen:
            model._meter = None
            model.predict(x, at, cond, whole(3, at, groups=torch.zeros(3, dtype=torch.long), steps=4))
        sides.append(seen)
    plain, edited = sides
    assert [name for name, _ in edited] == [name for name, _ in plain]
    assert torch.equal(plain[0][1][0], edited[0][1][0]), "the picture's half of the first attention"
    assert not torch.equal(plain[0][1][1], edited[0][1][1]), "the text's half"


def test_qwen_padding_and_branches(qwen: Any) -> None:
    seen = list[Contact]()
    model = qwen(true_cfg_scale=3.0)
    assert draw(model, Repulsion(0.1, seen=seen), [0, 0]).isfinite().all()
    assert {(c.site, c.conditional) for c in seen} == {(s, b) for s in ("joint_0", "joint_1") for b in (False, True)}
    assert model._mask is not None
    assert not bool(model._mask.all()), "this prompt is padded, so the mask was used"


def test_z_image_fillings_and_lengths(z_image: Any) -> None:
    """A group does as it does alone beside a longer caption; the picture's filling is not moved, padding is not
    seen.
    """
    model, seen = z_image(guidance_scale=3.0), list[Contact]()
    short, long = ["a dog"] * 2, ["two cats and a blue car " * 8] * 2
    both = draw(model, Repulsion(0.2, seen=seen), [0, 0, 1, 1], prompts=[*short, *long])
    assert {(c.site, c.conditional) for c in seen} == {(s, b) for s in ("single_0", "single_1") for b in (False, True)}
    assert model._mask is not None
    assert model._mask.shape == (8, 64)
    torch.testing.assert_close(draw(model, Repulsion(0.2), [0, 0], prompts=short), both[:2], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(draw(model, None, [0, 0], prompts=short), both[:2], rtol=1e-3, atol=1e-3)
    widths, n = set(), model.image_tokens()

    def look(told: Rows, tokens: Tokens) -> Tokens:
        assert tokens.mask is not None
        widths.add((tokens.image.shape[1], tuple(tokens.mask.sum(1).tolist())))
        return replace(tokens, image=tokens.image + 1, text=tokens.text + tokens.mask[..., None])

    remove = model.edit(model.sites[0], look)
    x, at = normals(KEYS[:2], *model.latent), model.levels(4)[0]
    model._meter = None
    with torch.no_grad(), looking(model, ("layers.0",)) as out:
        model.predict(x, at, model.encode(["a dog", long[0]]), whole(2, at))
        remove()
        model.predict(x, at, model.encode(["a dog", long[0]]), whole(2, at))
    assert widths == {(n, (32, 32, 32, 64))}
    moved = (out[0][1] - out[1][1]).abs().amax(-1) > 0.5
    assert moved.sum(1).tolist() == [n + 32, n + 32, n + 32, n + 64]
    assert not bool(moved[:, n:32].any())


def test_flux_sites_and_the_window(tiny_flux: Callable[..., Any]) -> None:
    """Dual and single blocks in step 0 of 4, nothing from step 1 on: there the plain network continues from the
    latents.
    """
    model, seen = tiny_flux(), list[Contact]()
    out = draw(model, Repulsion(0.2, seen=seen), [0, 0, 0])
    assert [c.site for c in seen] == [s.name for s in model.sites]
    assert {c.step for c in seen} == {0}
    x, cond, levels, meter = normals(KEYS, *model.latent), model.encode(["a dog"] * 3), model.levels(4), Meter()
    model.meter(meter)
    with torch.no_grad(), meter.grant(INFINITE):
        with installed(model, [Repulsion(0.2)]):
            x0 = model.predict(
                x, levels[0], cond, whole(3, levels[0], groups=torch.zeros(3, dtype=torch.long), steps=4)
            )
        x = levels[1].alpha * x0 + levels[1].sigma * (x - levels[0].alpha * x0) / levels[0].sigma
        later = sample(model, euler, x, cond, levels[1:], KEYS, meter)
    torch.testing.assert_close(out, later, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(out, draw(model, None, [0, 0, 0]), atol=1e-4)


def test_strength_zero_is_no_hook(tiny_flux: Callable[..., Any]) -> None:
    model = tiny_flux(true_cfg_scale=2.0)
    plain = draw(model, None, [0, 0])
    for off in (Repulsion(0.0), Repulsion(eta=0.0), Repulsion(first=0)):
        assert torch.equal(draw(model, off, [0, 0]), plain)
    assert torch.equal(draw(model, Repulsion(0.3), [0, 1]), plain), "groups of one"
    assert not any(m._forward_hooks for m in model.net.modules())


def test_prompts_of_a_batch_do_not_meet(tiny_flux: Callable[..., Any]) -> None:
    model = tiny_flux(true_cfg_scale=2.0)
    one = draw(model, Repulsion(0.3), [0, 0, 1, 1], prompts=["a dog", "a dog", "two cats", "two cats"])
    two = draw(model, Repulsion(0.3), [0, 0, 1, 1], prompts=["a dog", "a dog", "a car", "a car"])
    assert torch.equal(one[:2], two[:2])
    with pytest.raises(FairleadError, match="every prompt into a group of its own"):
        draw(model, Repulsion(0.3), [0, 0, 0], prompts=["a dog", "a dog", "two cats"])


def test_unets_are_refused_with_the_reason() -> None:
    from fairlead.models.mixture import Mixture

    with pytest.raises(FairleadError, match="no joint-attention site"), installed(Mixture(), [Repulsion()]):
        pass


@pytest.mark.parametrize(("way", "place"), [("ours", "attention"), ("regional", "block"), ("whole", "attention")])
def test_compiled_networks(way: str, place: Any, tiny_flux: Any) -> None:
    """Edits act whether code was traced before or after them, and leave no stale graph."""
    torch._dynamo.reset()
    model = tiny_flux()
    who = Repulsion(0.3, place=place)
    plain, edited = draw(model, None, [0, 0], 2), draw(model, who, [0, 0], 2)
    assert not torch.allclose(plain, edited, atol=1e-4)
    if way == "ours":
        model.compile(backend="eager")
    elif way == "regional":
        model.net.compile_repeated_blocks(backend="eager")
        assert any(m._compiled_call_impl is not None for m in model.net.modules())
    else:
        model.net = torch.compile(model.net, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(draw(model, who, [0, 0], 2), edited, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(draw(model, None, [0, 0], 2), plain, rtol=1e-4, atol=1e-4)


def test_pictures_of_a_run_differ(tmp_path: Any, flux_folder: Any) -> None:
    """From the words of a run to pixels: a group of one is named, strength zero is the plain run bit for bit."""
    from fairlead.run import engine, models
    from fairlead.run.spec import make_spec

    words = {
        "model": str(flux_folder()),
        "reward": "brightness",
        "steps": 2,
        "batch": 4,
        "group": 4,
        "budget": {"nfe": 16},
        "settings": {"model": {"height": 16, "width": 16, "max_sequence_length": 12}},
    }
    shots = {}
    for name in ("", "repulsion(strength=0.0)", "repulsion(strength=0.5)"):
        spec = make_spec("a dog", **words, intervene=[name] if name else [])
        store = engine.start(spec, tmp_path / (name or "plain"))
        shots[name] = [c.reward for c in store.candidates()][:4]
        store.close()
    assert shots[""] == shots["repulsion(strength=0.0)"]
    assert shots[""] != shots["repulsion(strength=0.5)"]
    lonely = make_spec("a dog", **{**words, "group": 1}, intervene="repulsion")
    assert any("--group is 1" in told for told in models.warnings(lonely))
