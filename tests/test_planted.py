"""The test of the tests: known mistakes are put into the code, one at a time, and a named law must notice.

A mistake is a piece of source text and what replaces it. It is compiled into the function it belongs to, so every
caller sees it, and taken out again afterwards. Each law is run on the sound code first.
"""

from __future__ import annotations
import __future__ as future

import importlib
import inspect
import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from _pytest.outcomes import Failed
from diffusers import FlowMatchEulerDiscreteScheduler

import by_path
import items
import tiny_pipelines as tiny
from fairlead.core.cost import Unmetered
from fairlead.rewards.brightness import Brightness
from fairlead.run import engine, registry
from fairlead.run.store import Store
from fairlead.testing import (
    intervention_laws,
    model_laws,
    resume_laws,
    reward_laws,
    sampler_laws,
    search_laws,
    store_laws,
)
from fairlead.testing.runs import answers, small_spec


@cache
def suite(name: str) -> Any:
    """Another test file as a module."""
    return by_path.load(f"tests/{name}.py")


@dataclass
class Bench:
    """What laws need: a folder that is new each time, and the tiny FLUX."""

    folder: Path
    flux: Callable[..., Any]
    flux_folder: Callable[..., Any]
    register: Any
    monkeypatch: pytest.MonkeyPatch
    count: int = 0

    def new(self) -> Path:
        self.count += 1
        path = self.folder / str(self.count)
        path.mkdir()
        return path

    def go(self) -> Callable[..., Store]:
        folder = self.new()
        return lambda name, spec=None, **more: engine.start(spec or small_spec(), folder / name, **more)


Law = Callable[[Bench], object]


@dataclass(frozen=True)
class Mistake:
    where: str
    """module:Qualified.name of a function"""
    old: str
    new: str
    law: Law
    fails: type[Exception] = AssertionError


def core_test(name: str, *args: Any) -> Law:
    return lambda bench: getattr(suite("core/test_sampling"), name)(*args)


def order(sampler: str, expected: int) -> Law:
    def law(bench: Bench) -> None:
        module = suite("core/test_sampling")
        module.test_order_of_convergence(getattr(module, sampler), expected, module.preserving)

    return law


def flux_laws(bench: Bench) -> None:
    model_laws(bench.flux(true_cfg_scale=3.0))


def pipeline(bench: Bench) -> None:
    suite("models/test_flux").test_euler_is_the_pipeline("true_cfg", bench.flux, bench.flux_folder)


def skipping(name: str) -> Law:
    def law(bench: Bench) -> None:
        bench.monkeypatch.syspath_prepend(str(Path(__file__).parent / "models"))
        levels, more = (
            FlowMatchEulerDiscreteScheduler(shift=3.0),
            bench.new() if name.endswith("priced") else bench.monkeypatch,
        )
        getattr(suite("models/test_sd3"), name)(lambda **net: tiny.saved(bench.new(), tiny.sd3, levels, **net), more)

    return law


def z_image(bench: Bench) -> None:
    from fairlead.models.z_image import ZImage

    folder = tiny.saved(bench.new(), tiny.z_image, FlowMatchEulerDiscreteScheduler(shift=3.0))
    repelling("test_z_image_fillings_and_lengths", lambda **words: ZImage(folder, height=16, width=16, **words))(bench)


def damping(bench: Bench) -> None:
    make = registry.resolve("interventions", "token_mean_damping")
    intervention_laws(make(), bench.flux(), make(strength=0.0))


def repelling(name: str, *args: Any) -> Law:
    return lambda bench: getattr(suite("interventions/test_repulsion"), name)(*args)


def the_store(bench: Bench) -> None:
    store_laws(lambda folder, spec: Store.create(folder, spec, {}, "now"), Store.open, bench.new() / "run")


def resuming(bench: Bench) -> None:
    resume_laws(small_spec(), bench.new())


def resuming_gradients(bench: Bench) -> None:
    bench.register("searches", "climb", "items:Climb")
    resume_laws(small_spec(search="climb", batch=2), bench.new())


def groups(bench: Bench) -> None:
    suite("run/test_engine").test_odd_batches_hold_whole_groups(bench.go())


def saved_pictures(bench: Bench) -> None:
    suite("run/test_engine").test_the_reward_is_that_of_the_saved_picture(bench.go())


def baseline(bench: Bench) -> None:
    bench.register("steerings", "toward", "items:Toward")
    suite("run/test_engine").test_the_baseline(bench.go(), None)


def usable(bench: Bench) -> None:
    suite("run/test_engine").test_the_users_reward_stays_usable(bench.go())


def full_disk(bench: Bench) -> None:
    whole = answers(engine.start(small_spec(), bench.new() / "whole"))
    suite("run/test_store").test_a_full_disk_leaves_nothing_half_written(bench.new(), bench.monkeypatch, whole)


def two_writers(bench: Bench) -> None:
    folder = bench.new() / "run"
    asked = iter(range(99))
    engine.start(small_spec(), folder, stop=lambda: next(asked) >= 2).close()
    suite("run/test_store").test_two_writers_are_refused(folder)


def walking(bench: Bench) -> None:
    search_laws(items.Walk)


def scoring(bench: Bench) -> None:
    reward_laws(2 * Brightness() + 1)


def sampling_laws(name: str) -> Law:
    return lambda bench: sampler_laws(registry.resolve("samplers", name))


def alike(bench: Bench) -> None:
    suite("core/test_key").test_paths_that_look_alike_differ()


def property_of_budgets(bench: Bench) -> None:
    suite("core/test_cost").test_a_budget_is_never_exceeded()


def formulas(bench: Bench) -> None:
    suite("core/test_reward").test_leaves_terms_and_names()


def noise(name: str, *args: Any, **more: Any) -> Law:
    return lambda bench: getattr(suite("searches/test_noise_search"), name)(*args, **more)


def pieces(bench: Bench) -> None:
    module = suite("searches/test_noise_search")
    module.test_pieces_of_a_generation_change_nothing(module.ZeroOrder, {})


def embedding(name: str, *args: Any) -> Law:
    return lambda bench: getattr(suite("searches/test_long_vectors"), name)(*args)


def told(name: str, *args: Any) -> Law:
    return lambda bench: getattr(suite("spaces/test_embedding"), name)(*args)


def identity(bench: Bench) -> None:
    law = suite("spaces/test_embedding").test_zero_is_the_plain_picture_and_every_tensor_has_a_gradient
    law("flux", "shift", bench.flux)


def resuming_sep_cma(bench: Bench) -> None:
    suite("searches/test_long_vectors").test_resume_in_the_middle_of_a_search(
        {"search": "sep_cma(population=5)", "space": "embedding"}, bench.new()
    )


def failing(make: str) -> Law:
    def law(bench: Bench) -> None:
        module = suite("searches/test_long_vectors")
        module.test_failures_rank_last_and_a_generation_of_them_halves_the_spread(getattr(module, make))

    return law


def bill(search: str) -> Law:
    def law(bench: Bench) -> None:
        module = suite("spaces/test_embedding")
        module.test_candidate_zero_is_the_baseline_and_the_price_is_the_bill("embedding", search, bench.new())

    return law


def path(name: str, *args: Any) -> Law:
    return lambda bench: getattr(suite("steering/test_paths"), name)(*args)


def demon(name: str, *args: Any) -> Law:
    return lambda bench: getattr(suite("steering/test_demon"), name)(*args)


def asked(name: str, folder: bool = True) -> Law:
    return lambda bench: getattr(suite("steering/test_asking"), name)(*([bench.new()] if folder else []))


def judged(name: str) -> Law:
    """A law of the judge that compares pairs, behind its local server."""

    def law(bench: Bench) -> None:
        bench.monkeypatch.syspath_prepend(str(Path(__file__).parent / "rewards"))
        getattr(suite("rewards/test_pairwise_judge"), name)(bench.new())

    return law


def ordering(name: str, *args: Any) -> Law:
    return lambda bench: getattr(suite("rewards/test_ordering"), name)(*args)


def kernel(bench: Bench) -> None:
    module = suite("steering/test_paths")
    module.test_forward_kernel_keeps_the_marginals(module.VP)


def lookahead(name: str, *args: Any) -> Law:
    return lambda bench: getattr(suite("steering/test_lidar"), name)(*args)


def rival(name: str, *args: Any) -> Law:
    return lambda bench: getattr(suite("steering/test_rivals"), name)(*args)


def rival_cost(bench: Bench) -> None:
    module = suite("steering/test_rivals")
    one = {"nfe": 10, "forwards": 10 + 9, "backwards": 9, "scores": 9}
    module.test_cost_per_sample_is_the_formula_and_the_price(module.RewardGradient(), one)
    three = {"nfe": 1 + 9 * 3, "forwards": 28, "backwards": 0, "scores": 9 * 3}
    module.test_cost_per_sample_is_the_formula_and_the_price(module.ValueDecoding(children=3), three)


def beside(name: str) -> Law:
    def law(bench: Bench) -> None:
        bench.register("steerings", "test_asks", f"{suite('core/test_sibling').__name__}:Asks")
        getattr(suite("core/test_sibling"), name)(None)

    return law


def cousin(bench: Bench) -> None:
    module = suite("core/test_sibling")
    module.test_a_sibling_of_another_family_is_asked_at_equal_noise(module.euler)


def draft(name: str, *args: Any) -> Law:
    return lambda bench: getattr(suite("run/test_draft"), name)(*args, bench.new())


def greyer(bench: Bench) -> None:
    draft("test_best_drafts_are_rendered_again_and_both_scores_kept", "brightness - brightness*brightness")(bench)


def scorers(name: str, *args: Any) -> Law:
    return lambda bench: getattr(suite("bench/test_scorers"), name)(*args)


def comparing(name: str, *args: Any) -> Law:
    """A law of comparisons over one made with the code as it is."""

    def law(bench: Bench) -> None:
        module = suite("bench/test_compare")
        plan = module.plan.parse(module.PLAN, "small", Path()).only(["zero_order", "steered"], prompts=3)
        folder = bench.new()
        module.compare.run(plan, folder)
        getattr(module, name)(*([plan] if args else []), module.ComparisonResults.read(plan, folder))

    return law


CHARGE = """        if not cost.fits(left):
            raise BudgetExceeded(cost, left)
        self._spent = self._spent + cost
"""
CHARGED_FIRST = """        self._spent = self._spent + cost
        if not cost.fits(left):
            raise BudgetExceeded(cost, left)
"""
DAMP = "fairlead.interventions.token_mean_damping:TokenMeanDamping.__call__"
DEMON = "fairlead.steering.demon"
FULL: Callable[[float], int] = lambda b: 2 * suite("steering/test_demon").scoring_moves(b, 20)  # noqa: E731
EMBEDDING = "fairlead.spaces.embedding:Embedding"
PIPELINE = "fairlead.models._pipeline:Pipeline"
SAMPLERS = "fairlead.core.samplers"
SAMPLING = "fairlead.core.sampling"
STEERING = "fairlead.core.steering"
STORE = "fairlead.run.store:Store"

MISTAKES = {
    # randomness
    "one noise stream for the batch": Mistake(
        "fairlead.core.key:normals",
        "torch.stack([key.normal(*shape) for key in keys])",
        "keys[0].normal(len(keys), *shape)",
        core_test("test_noise_belongs_to_its_sample"),
    ),
    "paths glued together": Mistake(
        "fairlead.core.key:Key.fold", 'h.update(len(coded).to_bytes(4, "little") + coded)', "h.update(coded)", alike
    ),
    "a search draws from the global stream": Mistake(
        "items:Walk.ask", "k.normal(len(self._best[1]))", "torch.randn(len(self._best[1]))", walking
    ),
    # budgets
    "the budget is checked after the work": Mistake("fairlead.core.cost:Meter.charge", CHARGE, CHARGED_FIRST, scoring),
    "work outside a grant is let through": Mistake(
        "fairlead.models.mixture:Mixture._charge",
        "if self._meter is not None:",
        "if self._meter is not None and self._meter._limit is not None:",
        lambda bench: model_laws(registry.resolve("models", "mixture")()),
    ),
    "one candidate too many is affordable": Mistake(
        "fairlead.core.cost:Ledger.affordable", "int(r + 1e-9)", "int(r) + 1", property_of_budgets
    ),
    "guidance is charged once": Mistake(
        f"{PIPELINE}._in_chunks", "Cost(forwards=len(x))", "Cost(forwards=len(x) / self.branches)", flux_laws
    ),
    "what was recalled is not booked": Mistake(
        "fairlead.run.engine:_Drive._answer", "self._ledger.settle(Cost(), cost)", "pass", resuming
    ),
    "the clean prediction is paid for twice": Mistake(
        f"{STEERING}:Step.solved", "if self.x0 is not None:", "if False:", core_test("test_solving_is_paid_once")
    ),
    # samplers
    "a wrong multistep coefficient": Mistake(
        f"{SAMPLERS}:dpmpp_2m", "0.5 * h / before", "0.25 * h / before", order("dpmpp_2m", 2)
    ),
    "the inverse multistep ratio": Mistake(
        f"{SAMPLERS}:dpmpp_2m",
        "0.5 * h / before",
        "0.5 * before / h",
        core_test("test_multistep_is_the_published_update"),
    ),
    "heun without its second evaluation": Mistake(
        f"{SAMPLERS}:heun", "y0 = denoise(y, to)", "y0 = x0", order("heun", 2)
    ),
    "too little noise in the ancestral step": Mistake(
        f"{SAMPLERS}:ancestral", "up * noise", "0.9 * up * noise", sampling_laws("ancestral")
    ),
    "multistep history survives resampling": Mistake(
        f"{STEERING}:Step.run",
        'self.memory.pop("previous", None)',
        'self.memory["previous"] = PreviousStep(ready.x0, ready.at)',
        core_test("test_then_applies_in_order_and_forgets_history"),
    ),
    "looking ahead forgets guidance": Mistake(
        f"{STEERING}:Step.guide",
        "return replace(self, denoise=guided,",
        "return replace(self, schedule=lambda n: (), denoise=guided,",
        core_test("test_peek_sees_guidance"),
    ),
    # rows
    "copies of a sample are not told apart": Mistake(
        f"{SAMPLING}:replicas",
        "out.append(times.get(row, 0))",
        "out.append(0)",
        core_test("test_rows_tell_whose_row_is_whose"),
    ),
    "the halves of guidance are exchanged": Mistake(
        "fairlead.core.model:Rows.doubled",
        "torch.cat([off, self.conditional])",
        "torch.cat([self.conditional, off])",
        lambda bench: suite("models/test_flux").test_edits_see_the_rows_of_both_branches(3.0, bench.flux),
    ),
    "replicas mix": Mistake(DAMP, "rows.replica,", "0 * rows.replica,", damping),
    "groups mix": Mistake(DAMP, "rows.group,", "0 * rows.group,", damping),
    "branches mix": Mistake(DAMP, "rows.conditional.long()", "0 * rows.conditional.long()", damping),
    "tokens are written to": Mistake(
        DAMP, "text = tokens.text.float()", "text = tokens.text.mul_(1.01).float()", damping
    ),
    # skip-layer guidance and sequences of both streams
    "blocks are skipped in every step": Mistake(
        "fairlead.models.sd3:StableDiffusion3._skips",
        "start * rows.steps < rows.step < stop * rows.steps",
        "True",
        skipping("test_skip_layer_guidance"),
    ),
    "skip-layer guidance pulls": Mistake(
        "fairlead.models.sd3:StableDiffusion3._besides",
        "positive - again()",
        "again() - positive",
        skipping("test_skip_layer_guidance"),
    ),
    "the price forgets the third row": Mistake(
        "fairlead.run.price:Mirage.predict",
        'self._model.rows_each(rows) if hasattr(self._model, "rows_each") else ',
        "",
        skipping("test_skip_layer_guidance_is_priced"),
        Exception,
    ),
    "the picture's filling is text": Mistake(
        "fairlead.models.z_image:ZImage._edited",
        "[n, -n % ROUNDED, output.shape[1] - n - -n % ROUNDED]",
        "[n, 0, output.shape[1] - n]",
        z_image,
    ),
    "padding of short captions is live": Mistake(
        "fairlead.models.z_image:ZImage._edited",
        "< live",
        "< live.max()",
        z_image,
    ),
    # repulsion
    "repulsion attracts": Mistake(
        "fairlead.interventions._gram:_slope",
        "-(vectors * np.log(",
        "(vectors * np.log(",
        repelling("test_diversity_rises"),
    ),
    "repulsion lengthens": Mistake(
        "fairlead.interventions._gram:moves",
        " - eye * (s * k).sum(-1)[:, :, None]",
        "",
        repelling("test_the_gradient_is_the_objectives", "vendi"),
    ),
    "the kernel of the start is kept": Mistake(
        "fairlead.interventions._gram:moves",
        "g = a @ g @ a.swapaxes(1, 2)",
        "pass",
        repelling("test_the_gram_loop_is_the_loop_over_tokens", 1.0, 10),
    ),
    "branches repel each other": Mistake(
        "fairlead.interventions.repulsion:Repulsion._groups",
        'if self.cfg == "joint" else rows.conditional',
        "",
        repelling("test_branches_have_their_own_kernels"),
    ),
    "padding is repelled": Mistake(
        "fairlead.interventions.repulsion:Repulsion.__call__",
        "streams[0] * tokens.mask[..., None].to(streams[0])",
        "streams[0]",
        repelling("test_padding_is_left_out"),
    ),
    "the window never closes": Mistake(
        "fairlead.interventions.repulsion:Repulsion.wants",
        "rows.step < first and ",
        "",
        repelling("test_the_window", 20, 3),
    ),
    "kept ones may be alike": Mistake(
        "fairlead.core.diverse:pick",
        "rest = rest - row.square()",
        "pass",
        lambda bench: suite("metrics/test_metrics").test_pick_is_the_greedy_determinant(),
    ),
    "particles attract": Mistake(
        "fairlead.steering.particle_guidance:force",
        "k.sum(1, keepdim=True) * z - k @ z",
        "k @ z - k.sum(1, keepdim=True) * z",
        lambda bench: suite("steering/test_particle_guidance").test_groups_and_pairs(),
    ),
    "a noisy prompt changes its spread": Mistake(
        "fairlead.interventions.cads:Cads.__call__",
        "* _std(text) + _mean(text)",
        "+ _mean(text)",
        lambda bench: suite("interventions/test_cads").test_annealing_and_statistics(),
    ),
    "prompts share a group": Mistake(
        "fairlead.core.intervention:one_prompt_a_group",
        "!= prompt",
        "is None",
        lambda bench: repelling("test_prompts_of_a_batch_do_not_meet", bench.flux)(bench),
        Exception,
    ),
    # models
    "guidance the wrong way round": Mistake(
        f"{PIPELINE}._guided",
        "negative + self._cfg * (positive - negative)",
        "positive + self._cfg * (positive - negative)",
        pipeline,
    ),
    "an edit stays installed": Mistake(f"{PIPELINE}.edit", "            unhook()\n", "            pass\n", damping),
    "an edit stays installed after an exception": Mistake(
        "fairlead.core.intervention:installed",
        "        yield\n",
        "        try:\n            yield\n        except BaseException:\n            stack.pop_all()\n            raise\n",
        damping,
    ),
    # rewards
    "every leaf looks twice": Mistake(
        "fairlead.core.reward:Reward.__call__",
        "leaves = self.leaves()",
        "leaves = self.leaves(); [checked(leaf, images, prompts) for leaf in leaves]",
        scoring,
    ),
    "a leaf used twice is two leaves": Mistake(
        "fairlead.core.algebra:Sum.leaves",
        "list({id(leaf): leaf for part in self.parts for leaf in part.leaves()}.values())",
        "[leaf for part in self.parts for leaf in part.leaves()]",
        formulas,
    ),
    "the user's own reward is metered": Mistake(
        "fairlead.run.worker:Worker.__init__", "reward.copy()", "reward", usable, Unmetered
    ),
    "the reward sees pixels that are not saved": Mistake(
        "fairlead.run.worker:Worker._picture",
        "(decoded.detach() * 255).round() / 255",
        "decoded.detach()",
        saved_pictures,
    ),
    # searches and runs
    "a search takes NaN for the best": Mistake(
        "items:Walk.tell", "if f.reward > self._best[0]:", "if not f.reward <= self._best[0]:", walking
    ),
    "batches cut groups": Mistake(
        "fairlead.run.engine:_Drive._tasks",
        "if last is not None and last.group == a.group:",
        "if last is not None and last.group == a.group and len(out[-1]) < self._spec.batch:",
        groups,
    ),
    "the baseline is steered": Mistake(
        "fairlead.run.worker:Worker._evaluate",
        "chosen = Chain() if task.plain else steering",
        "chosen = steering",
        baseline,
    ),
    # the record
    "NaN ranks first": Mistake(
        f"{STORE}.best",
        "ranked = [c for c in self.candidates() if c.reward == c.reward]",
        "ranked = sorted(self.candidates(), key=lambda c: c.reward == c.reward)[:1]",
        the_store,
    ),
    "infinity ranks first": Mistake(
        "fairlead.core.reward:without_infinity",
        "values == math.inf",
        "values == -math.inf",
        lambda bench: suite("run/test_engine").test_nan_never_wins(math.inf, bench.go()),
    ),
    "the question is not compared": Mistake(
        f"{STORE}.recall", "if asked != question(task, position):", "if False:", the_store
    ),
    "the question forgets its key": Mistake("fairlead.run.store:question", "p.key.digest + ", "", the_store),
    "a gradient is forgotten": Mistake(f"{STORE}.recall", "_tensor(slope)", "None", resuming_gradients),
    "recorded before the pictures are written": Mistake(
        f"{STORE}.record",
        "            names = [self._put(o.image) for o in outcomes]\n            with self._db:\n",
        "            names = [blake2b(o.image, digest_size=16).hexdigest() for o in outcomes]\n"
        "            with contextlib.ExitStack() as later, self._db:\n"
        "                later.callback(lambda: [self._put(o.image) for o in outcomes])\n",
        full_disk,
    ),
    "recorded in two transactions": Mistake(
        f"{STORE}.record",
        "                self._db.executemany(\n",
        "                self._db.commit()\n                self._db.executemany(\n",
        the_store,
    ),
    # noise search
    "a neighbour at another angle": Mistake(
        "fairlead.searches.zero_order:angular",
        "math.sqrt(1 - cosine**2) * g",
        "(1 - cosine) * g",
        noise("test_angular_neighbour_keeps_norm_and_angle"),
    ),
    "the pivot moves to a worse neighbour": Mistake(
        "fairlead.searches.zero_order:ZeroOrder.learn",
        "best.value > self._score",
        "best.value < self._score",
        noise("test_zero_order_pivot_never_gets_worse"),
    ),
    "the pivot is rendered every round": Mistake(
        "fairlead.searches.zero_order:ZeroOrder.propose",
        "if self._score is None else []",
        "",
        noise("test_zero_order_costs_its_pivot_once"),
    ),
    "a piece of a generation moves the search": Mistake(
        "fairlead.core.search:Generations.tell", "if self._told and not self._queue:", "if self._told:", pieces
    ),
    "children of evolution shrink": Mistake(
        "fairlead.searches.evolution:Evolution._child",
        "math.sqrt(1 - self._beta**2)",
        "(1 - self._beta)",
        noise("test_evolution_keeps_elites_and_renders_only_children"),
    ),
    "elites die": Mistake(
        "fairlead.searches.evolution:Evolution.learn",
        "*self._people[: self._elites], ",
        "",
        noise("test_evolution_elites_outlive_worse_children"),
    ),
    "an empty mask": Mistake(
        "fairlead.searches.trust_region:TrustRegion._inside",
        "not bool(mask.any())",
        "False",
        noise("test_trust_region_moves_at_least_one_coordinate_inside_its_box"),
    ),
    "regions stay on the last round": Mistake(
        "fairlead.searches.trust_region:TrustRegion.learn",
        "[*self._best, *generation]",
        "generation",
        noise("test_trust_region_moves_at_least_one_coordinate_inside_its_box"),
    ),
    "gradient steps inflate the noise": Mistake(
        "fairlead.searches.first_order:tangent",
        "moved * p.norm() / moved.norm()",
        "moved",
        noise("test_first_order_step_is_tangent_and_keeps_the_norm"),
    ),
    # embedding search
    "the pooled vector does not move": Mistake(
        f"{EMBEDDING}.move", "moved[name] = ", 'moved[name] = base if name == "pooled" else ', identity
    ),
    "zero is not quite the prompt": Mistake(
        f"{EMBEDDING}.move", "scale * part.to(base.device)", "scale * (part.to(base.device) + 1e-3)", identity
    ),
    "the pooled vector comes first": Mistake(
        f"{EMBEDDING}.__init__",
        "self._sizes = {name: self._pick(name, told[name]).numel() for name in self._scales}",
        "self._scales = dict(reversed(self._scales.items())); "
        "self._sizes = {name: self._pick(name, told[name]).numel() for name in self._scales}",
        told("test_tokens_come_first_row_by_row_then_the_pooled_vector"),
    ),
    "padding moves": Mistake(
        "fairlead.spaces.embedding:_positions",
        "rows if mask is None else rows[mask[0, first:end].cpu() != 0]",
        "rows",
        told("test_what_is_left_out_does_not_move"),
    ),
    "a trust region of the largest entry": Mistake(
        f"{EMBEDDING}.move",
        "shift.square().mean(1, keepdim=True)",
        "shift.square().amax(1, keepdim=True)",
        told("test_the_trust_region_holds_and_leaves_what_is_inside"),
    ),
    "noise leaves the shell": Mistake(
        "fairlead.spaces.product:Product.place",
        "if self._sphere:",
        "if False:",
        told("test_product_is_the_plain_sample_at_its_draw_and_stays_on_the_shell"),
    ),
    "the embedding's gradient is not computed again": Mistake(
        f"{SAMPLING}:_denoiser", "(y.requires_grad or cond.requires_grad)", "y.requires_grad", bill("adam")
    ),
    "the worse half is not used": Mistake(
        "fairlead.searches.sep_cma:weights",
        "-worse / worse.sum() * size",
        "0 * worse",
        embedding("test_published_constants"),
    ),
    "the line turned round": Mistake(
        "fairlead.searches.sep_cma:SepCma._two_points",
        "better[1] - better[0]",
        "better[0] - better[1]",
        embedding("test_the_step_grows_where_it_is_too_small", "tpa"),
    ),
    "the path forgets how much selection averages": Mistake(
        "fairlead.searches.sep_cma:SepCma.update",
        "math.sqrt(cs * (2 - cs) * self._mueff)",
        "math.sqrt(cs * (2 - cs))",
        embedding("test_the_step_grows_where_it_is_too_small", "csa"),
    ),
    "scales learn from the worst": Mistake(
        "fairlead.searches.sep_cma:SepCma.update",
        "squares += ",
        "squares -= ",
        embedding("test_scales_are_learnt_where_there_are_few"),
    ),
    "failed samples are ranked by luck": Mistake(
        "fairlead.searches._population:Anchor.value", "else -math.inf", "else 0.0", failing("SepCma")
    ),
    "a search has a state of its own": Mistake(
        "fairlead.searches._population:Population.propose",
        "self._key.fold(",
        "Key.root(id(self)).fold(",
        resuming_sep_cma,
        Exception,
    ),
    "adam forgets its bias": Mistake(
        "fairlead.searches.adam:Adam.learn",
        "self._first / (1 - b1**self._steps)",
        "self._first",
        embedding("test_the_first_adam_step_is_the_rate_in_the_sign_of_the_gradient"),
    ),
    "adam walks on from what failed": Mistake(
        "fairlead.searches.adam:Adam.learn",
        "self._stepped(self._good)",
        "self._stepped(self._x)",
        embedding("test_adam_goes_back_from_what_is_not_finite_with_half_the_rate"),
    ),
    "renos regulariser pulls to zero": Mistake(
        "fairlead.searches.reno:Reno.learn",
        "(1 - (d - 1) / float(z.square().sum()))",
        "1.0",
        embedding("test_renos_regulariser_keeps_the_norm_of_normal_noise"),
    ),
    "snes moves against its ranks": Mistake(
        "fairlead.searches.snes:Snes.update",
        "self._rate * self._spread * shift",
        "-self._rate * self._spread * shift",
        embedding("test_snes_learns_scales_and_converges"),
    ),
    "the wrong forward kernel": Mistake(
        "fairlead.core.model:renoise", "(c * at.sigma) ** 2", "c * at.sigma**2", kernel
    ),
    "a residue makes a fifth round": Mistake(
        "fairlead.steering.paths:levels",
        "round(low + delta_f - delta_b, 12)",
        "low + delta_f - delta_b",
        path("test_default_levels"),
    ),
    "the worst children survive": Mistake(
        "fairlead.steering.paths:Paths._choose",
        "descending=True",
        "descending=False",
        path("test_keeps_the_best_of_the_group_or_one_of_each_parent"),
    ),
    "the rest of the grid is paid for": Mistake(
        "fairlead.steering.paths:Paths.__call__",
        ", last=True",
        "",
        path("test_cost_is_the_formula_and_the_price", 4, 3, 5, 10),
        Exception,
    ),
    "retries are kept where they are worse": Mistake(
        "fairlead.steering.dfs:DepthFirst._search",
        "new > value[rows]",
        "new < value[rows]",
        path("test_dfs_spends_only_where_the_score_asks_for_it"),
    ),
    "a sibling works for nothing": Mistake(
        "fairlead.run.worker:Worker.__init__",
        "(self.model, *(kin.model for kin in self.siblings.values()))",
        "(self.model,)",
        beside("test_its_work_is_in_the_same_bill"),
        Exception,
    ),
    "a sibling of another family is asked at the run's own level": Mistake(
        "fairlead.core.sibling:Sibling.predict", "if self._alike:", "if True:", cousin
    ),
    "the worst noise is added": Mistake(
        "fairlead.steering._synthesis:weights",
        "torch.tanh((values - mean) / tau)",
        "torch.tanh((mean - values) / tau)",
        demon("test_weights_of_the_specification"),
    ),
    "scores are not centred": Mistake(
        "fairlead.steering._synthesis:weights",
        "torch.tanh((values - mean) / tau)",
        "torch.tanh(values / tau)",
        demon("test_weights_obey_the_rules", "tanh"),
    ),
    "one norm for the batch": Mistake(
        "fairlead.steering._synthesis:synthesis",
        "out: Tensor = sums * (math.sqrt(sums.shape[1]) / sums.norm(dim=1, keepdim=True))",
        "out = sums * (math.sqrt(sums.numel()) / sums.norm())",
        demon("test_noise_lies_on_the_sphere_and_follows_rotations"),
    ),
    "the first temperature stays": Mistake(
        f"{DEMON}:Demon._tau",
        'if self.tau == "adaptive":',
        'if self.tau == "never":',
        demon("test_first_temperature_is_kept_only_where_asked"),
    ),
    "a missing score is the best": Mistake(
        f"{DEMON}:Demon._scores",
        "if len(known) == 0 or",
        "if",
        demon("test_candidates_without_a_number", float("nan")),
        Exception,
    ),
    "the drift forgets the noise level": Mistake(
        "fairlead.core.sde:Sde.__call__",
        "(1 + beta * a) * (start - x0) / a",
        "(1 + beta) * (start - x0) / a",
        demon("test_the_sde_keeps_the_marginals", 0.5, 64, 0.993),
    ),
    "the noise of the corrector is that of the start": Mistake(
        "fairlead.core.sde:Sde.__call__",
        "0.5 * (a + b) * kick",
        "a * kick",
        demon("test_the_sde_keeps_the_marginals", 0.5, 64, 0.993),
    ),
    "the sample keeps its alpha": Mistake(
        f"{DEMON}:Demon.__call__",
        "lambda x: x / alpha",
        "lambda x: x * alpha",
        demon("test_all_families_walk_the_same_way"),
    ),
    "candidates are looked at in the ratio's own coordinate": Mistake(
        "fairlead.core.sde:Sde.__call__",
        "denoise(near * to.alpha, to)",
        "denoise(near, to)",
        demon("test_all_families_walk_the_same_way"),
    ),
    "a dislike is a like": Mistake(
        "fairlead.rewards.human:Human.choose",
        "- float(~i in said)",
        "+ float(~i in said)",
        asked("test_likes_and_dislikes_are_read", False),
    ),
    "enough is not enough": Mistake(
        f"{DEMON}:Demon._steered",
        "done[b] = True",
        "done[b] = False",
        asked("test_enough_is_the_ode_from_there"),
    ),
    "thinking is paid for": Mistake(
        "fairlead.core.cost:Meter.paused",
        "self._since += time.perf_counter() - since",
        "self._since += 0",
        asked("test_waiting_spends_no_seconds"),
    ),
    "a rollout more than the price": Mistake(
        "fairlead.steering._rollout:look_ahead",
        "look or 20",
        "(look or 20) + 1",
        demon("test_cost_is_the_formula_and_the_price", {}, FULL),
    ),
    "gradients are free": Mistake(
        f"{SAMPLING}:_gradient", "meter.charge(Cost(backwards=(meter.spent - before).forwards))", "pass", rival_cost
    ),
    "the gradient's strength forgets the level": Mistake(
        "fairlead.steering.reward_gradient:RewardGradient.__call__",
        "self.scale * at.sigma**2 / at.alpha * slope",
        "self.scale * at.sigma**2 * slope",
        rival("test_gradient_through_the_network_is_that_of_finite_differences"),
    ),
    "embeddings wander": Mistake(
        "fairlead.steering.date:AdaptiveEmbedding.__call__",
        "original = step.prompt_conditioning",
        "original = step.conditioning",
        rival("test_embeddings_stay_in_their_ball_and_samples_apart"),
    ),
    "the potentials are never corrected": Mistake(
        "fairlead.steering.feynman_kac:FeynmanKac.__call__",
        "gain if step.index + 1 < step.steps else",
        "gain if True else",
        rival("test_particles_reach_the_tilted_distribution", "add"),
    ),
    "particles of two groups compete": Mistake(
        "fairlead.steering.feynman_kac:FeynmanKac._resampled",
        "(step.groups == g)",
        "(step.groups == step.groups)",
        rival("test_particles_of_other_groups_do_not_matter_and_failed_ones_die"),
    ),
    "the worst child goes on": Mistake(
        "fairlead.steering.svdd:ValueDecoding._best",
        "value.argmax(1)",
        "value.argmin(1)",
        rival("test_children_raise_the_reward", 1),
    ),
    "a child's prediction is bought twice": Mistake(
        "fairlead.steering.svdd:ValueDecoding.__call__",
        'after, step.memory["svdd_x0"] = plan.pop(0)',
        "after, _ = plan.pop(0)",
        rival_cost,
    ),
    "the bank forgets its own lengths": Mistake(
        "fairlead.steering._displacement:displacement",
        " - at.alpha**2 * half",
        "",
        lookahead("test_the_shift_is_the_gradient_of_the_log_sum_exp", "flow"),
    ),
    "the plain responsibilities are left out": Mistake(
        "fairlead.steering._displacement:displacement",
        " - torch.softmax(logits, 1)",
        "",
        lookahead("test_identities", "flow"),
    ),
    "the tilted bank itself is lent, not its ratio": Mistake(
        "fairlead.steering._displacement:displacement",
        "- torch.softmax(logits, 1)",
        "- 0 * torch.softmax(logits, 1)",
        lookahead("test_a_weak_lookahead_lends_its_ratio_and_not_itself"),
    ),
    "the best reward is not at zero": Mistake(
        "fairlead.steering.lidar:Lidar.tilting",
        "self.rewards - self.rewards.max()",
        "self.rewards",
        lookahead("test_rewards_far_from_zero_are_no_less_exact"),
    ),
    "a failed lookahead picture poisons the bank": Mistake(
        "fairlead.steering.lidar:Lidar.with_bank",
        "rewards.isfinite() & ",
        "rewards.isfinite().logical_or(rewards.isnan()) & ",
        lookahead("test_pictures_without_a_number_are_left_out"),
    ),
    "guidance goes on to the end": Mistake(
        "fairlead.steering.lidar:Lidar.__call__",
        'if at.time <= self._usual("until")',
        "if at.time < 0",
        lookahead("test_below_until_nothing_is_moved"),
    ),
    "the bank of another prompt": Mistake(
        "fairlead.run.prepared:recorded",
        '("prompt", spec.prompt, other.prompt)',
        '("model", spec.model, other.model)',
        lambda bench: lookahead("test_a_run_resumes_and_its_bank_serves_another_reward", bench.new())(bench),
        Failed,
    ),
    "drafts spend what is kept for the end": Mistake(
        "fairlead.run.engine:_Drive._search",
        "self._ledger.reserve(drafts.kept)",
        "drafts.kept = Cost()",
        draft("test_the_reserve_keeps_the_budget", 33, "best_of"),
    ),
    "a resumed run books its full renderings twice": Mistake(
        "fairlead.run.drafts:Drafts.book",
        "every or final <= last",
        "True",
        draft("test_drafts_resume_bit_for_bit", {"finals": 3, "batch": 2}),
    ),
    "finals are priced in groups that are not there": Mistake(
        "fairlead.run.price:price",
        "sum(sorted(groups)[-spec.finals :])",
        "spec.group * spec.finals",
        draft("test_the_price_of_finals_is_of_the_groups_there_are", "first_order", 3),
    ),
    "a draft is returned": Mistake(
        f"{STORE}.best", "[c for c in ranked if c.refines is not None] or ranked", "ranked", greyer
    ),
    "runs share a model whatever its settings": Mistake(
        "fairlead.run.models:build",
        "json.dumps(dict(spec.model.settings), sort_keys=True)",
        "''",
        lambda bench: suite("run/test_models").test_runs_share_a_model_only_where_they_are_told_to(),
    ),
    "a dry run forgets what is computed again": Mistake(
        "fairlead.run.price:Mirage.predict",
        "return x * (0 * told + torch.zeros_like(x))",
        "return torch.zeros_like(x)",
        draft("test_first_order_is_priced"),
        Exception,
    ),
    # comparisons
    "methods have noise of their own": Mistake(
        "fairlead.bench.plan:Plan.spec",
        '.fold("compare", prompt)',
        '.fold("compare", prompt, method)',
        comparing("test_numbers_are_paired_and_seeds_shared"),
    ),
    "whoever is steered pays for the plain sample": Mistake(
        "fairlead.bench.plan:Plan.spec",
        "replace(made, baseline=False)",
        "made",
        comparing("test_numbers_are_paired_and_seeds_shared"),
    ),
    "differences are not paired": Mistake(
        "fairlead.bench.comparison_results:_difference",
        "b(p, s)",
        "b('one', s)",
        comparing("test_numbers_are_paired_over_prompts"),
    ),
    "a tie is a loss": Mistake(
        "fairlead.bench.statistics:wins",
        "0.5 if math.isclose(ours, theirs, rel_tol=1e-6) else ",
        "",
        lambda bench: suite("bench/test_compare").test_intervals(),
    ),
    "a curve sees what is not yet paid for": Mistake(
        "fairlead.bench.comparison_results:Done.at",
        "            leader = point.leader\n",
        "            leader = self.points[-1].leader\n",
        comparing("test_a_curve_knows_only_what_was_spent"),
    ),
    # benchmarks
    "a mask says nothing about its detection": Mistake(
        "fairlead.bench.mask2former:instances",
        "probability * float(",
        "probability + 0 * float(",
        scorers("test_a_square_mask_has_its_box_and_score"),
    ),
    "beside counts as above": Mistake(
        "fairlead.bench.compbench:place",
        "along <= 0 or along <= across",
        "along <= 0",
        scorers("test_places", "on the left of", (0, 0, 100, 100), (110, 200, 210, 300), 0.0),
    ),
    "one missing thing leaves half a score": Mistake(
        "fairlead.bench.compbench:spatial",
        "total if total >= 0.5 else 0.0",
        "total",
        scorers("test_spatial_needs_both_and_half"),
    ),
    # pairs
    "the loser is the better one": Mistake(
        "fairlead.rewards._ordering:_split",
        "if value[i] > 0.5",
        "if value[i] < 0.5",
        ordering("test_true_answers_give_the_true_order", 8),
    ),
    "the known half is split again": Mistake(
        "fairlead.rewards._ordering:_straddling",
        "below < half < below + size",
        "below <= half <= below + size",
        ordering("test_the_published_numbers"),
    ),
    "who is shown second wins": Mistake(
        "fairlead.rewards.pairwise_judge:PairwiseJudge.rank",
        "value if first == i else 1 - value",
        "value",
        judged("test_the_order_of_a_consistent_judge_and_answers_paid_for_once"),
    ),
    "a pair is another question the other way round": Mistake(
        "fairlead.rewards.pairwise_judge:PairwiseJudge._turned",
        "sorted((i, j), key=lambda n: keys[n].digest)",
        "i, j",
        judged("test_the_order_of_a_consistent_judge_and_answers_paid_for_once"),
    ),
    "rivals are scored one by one": Mistake(
        "fairlead.run.worker:Worker._score",
        ", rivals=True",
        "",
        judged("test_demon_follows_the_judge_at_the_price_named"),
    ),
    "the mean of pictures instead of the mean of tasks": Mistake(
        "fairlead.bench.judging:summarise",
        "if tasks else statistics",
        "if False else statistics",
        lambda bench: suite("bench/test_bench").test_aggregation(),
    ),
    "equal prompts give equal pictures": Mistake(
        "fairlead.bench.painting:Job.spec",
        "picture.again, ",
        "",
        lambda bench: suite("bench/test_bench").test_the_noise_of_a_picture_depends_on_nothing_else(bench.new()),
    ),
    "two writers": Mistake(
        f"{STORE}.lock", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", two_writers
    ),
}


def find(where: str) -> Any:
    """The plain function behind a name."""
    module, _, path = where.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = inspect.getattr_static(found, part)
    found = getattr(found, "__func__", found)
    return inspect.unwrap(found)


def planted(function: Any, old: str, new: str) -> CodeType:
    """The function's code with one piece of its text replaced."""
    source = inspect.getsource(function)
    assert source.count(old) == 1, (
        f"{old!r} occurs {source.count(old)} times in {function.__qualname__}: mend this test"
    )
    text = textwrap.dedent(source.replace(old, new))
    scope: dict[str, Any] = dict(function.__globals__)
    exec(compile(text, f"<{function.__qualname__}, planted>", "exec", future.annotations.compiler_flag), scope)
    made = scope[function.__name__]
    made = inspect.unwrap(getattr(made, "__func__", made))
    code: CodeType = made.__code__
    assert code.co_freevars == function.__code__.co_freevars
    return code


@pytest.mark.parametrize("name", MISTAKES)
def test_a_law_notices(
    name: str, tmp_path: Path, tiny_flux: Any, flux_folder: Any, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake = MISTAKES[name]
    bench = Bench(tmp_path, tiny_flux, flux_folder, register, monkeypatch)
    mistake.law(bench)
    function = find(mistake.where)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(function, "__code__", planted(function, mistake.old, mistake.new))
        with pytest.raises((mistake.fails, Failed)):
            mistake.law(bench)


def test_there_are_enough() -> None:
    assert len(MISTAKES) >= 30
