"""The rules of published scorers against worked tables, and their networks' plumbing on tiny random ones."""

from __future__ import annotations

import math
import string
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import by_path
from fairlead.bench import blip_vqa, compbench, mask2former, open_detector, phrases
from fairlead.bench.geneval import COLOURS
from fairlead.bench.prompts import BenchmarkPrompt
from fairlead.core.key import Key


def tiny() -> ModuleType:
    return by_path.load("tests/rewards/tiny.py")


# GenEval's detector


def logits(queries: dict[int, tuple[int, float]], q: int = 6, c: int = 4) -> Tensor:
    """Class logits [Q, C+1]: the named queries show their class with that probability, the others nothing."""
    out = torch.full((q, c + 1), -20.0)
    out[:, -1] = 20.0
    for query, (kind, p) in queries.items():
        out[query] = -20.0
        out[query, kind], out[query, -1] = math.log(p), math.log(1 - p)
    return out


def test_a_square_mask_has_its_box_and_score() -> None:
    masks = torch.full((6, 16, 16), -4.0)
    masks[2, 4:12, 2:6] = 4.0
    (found,) = mask2former.instances(logits({2: (1, 0.8)}), masks, (64, 64), (64, 64), 0.3)
    kind, score, box, inside = found
    assert kind == 1
    assert box == (8, 16, 24, 48)
    assert int(inside.sum()) == (24 - 8) * (48 - 16) - 4, "bilinear enlargement rounds the four corners"
    big = F.interpolate(masks[2][None, None], (64, 64), mode="bilinear", align_corners=False)[0, 0]
    assert score == pytest.approx(0.8 * float(big[big > 0].sigmoid().mean()), abs=1e-6)


def test_padding_is_cut_off_before_the_picture_is_enlarged() -> None:
    masks = torch.full((6, 8, 16), -4.0)  # 20 x 50 pixels padded to 32 x 64
    masks[0, :, 8:] = 4.0
    (found,) = mask2former.instances(logits({0: (3, 0.9)}), masks, (40, 100), (20, 50), 0.3)
    assert found[2] == (64, 0, 100, 40)


def test_leaving_out_early_changes_nothing() -> None:
    key = Key.root(4)
    classes, masks = 3 * key.fold("c").normal(8, 5), 4 * key.fold("m").normal(8, 8, 8)
    every = mask2former.instances(classes, masks, (32, 32), (32, 32), -1.0)
    some = mask2former.instances(classes, masks, (32, 32), (32, 32), 0.3)
    assert [(k, s, b) for k, s, b, _ in every if s > 0.3] == [(k, s, b) for k, s, b, _ in some if s > 0.3]
    assert 2 < len(some) < len(every) == 8 * 4, "one query may show several classes"
    assert len({tuple(b) for _, _, b, _ in every}) <= 8


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 512), (800, 800)), ((1024, 1024), (800, 800)), ((768, 1024), (800, 1067)), ((300, 1200), (333, 1333))],
)
def test_the_published_resize(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert mask2former.resized(*size) == expected


def test_tiny_mask2former_runs_from_picture_to_rule(tmp_path: Path) -> None:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    names = ["person", "mouse", "cup"]
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(
            image_size=64,
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            window_size=2,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        hidden_dim=32,
        mask_feature_size=32,
        feature_size=32,
        num_attention_heads=2,
        encoder_layers=1,
        decoder_layers=2,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        num_queries=10,
        num_labels=3,
        id2label=dict(enumerate(names)),
    )
    folder = tmp_path / "m2f"
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    clip = tiny().clip_folder(tmp_path / "clip")
    judge = mask2former.geneval_hf(str(folder), str(clip))
    detector = judge.detector
    assert isinstance(detector, mask2former.Mask2Former)
    assert detector.names == ["person", "computer mouse", "cup"]
    images = Key.root(1).fold("i").uniform(1, 3, 40, 56).float()
    monkey = mask2former.SHORT, mask2former.LONG
    mask2former.SHORT, mask2former.LONG = 64, 128
    try:
        (row,) = judge.score(
            images, [BenchmarkPrompt("p", "single_object", {"include": [{"class": "cup", "count": 1}]})]
        )
        (found,) = detector.detect(images)
    finally:
        mask2former.SHORT, mask2former.LONG = monkey
    assert row["score"] in (0.0, 1.0)
    assert all(one.mask.shape == (40, 56) for one in found)
    assert judge.id.startswith("geneval-hf[")
    classifier = mask2former.Colours(str(clip))
    mask = torch.zeros(40, 56, dtype=torch.bool)
    mask[5:20, 10:50] = True
    assert classifier(images[0], mask, (10, 5, 50, 20), "cup") in COLOURS
    view = classifier.view(torch.ones(3, 40, 56), mask, (10, 0, 50, 40))
    white, grey = ((v - 0.48145466) / 0.26862954 for v in (1.0, 153 / 255))
    assert view[0, 0, 7, 15] == pytest.approx(white, abs=1e-3)
    assert view[0, 0, 28, 15] == pytest.approx(grey, abs=1e-3), "what is not the object is grey"
    weights = classifier.weights("cup")
    assert weights.shape[0] == 10
    assert weights.norm(dim=-1) == pytest.approx(torch.ones(10), abs=1e-5)


# T2I-CompBench


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> blip_vqa.BlipVqa:
    from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering

    folder = tmp_path_factory.mktemp("blip")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **small,
            "vocab_size": 80,
            "encoder_hidden_size": 16,
            "max_position_embeddings": 40,
            "projection_dim": 8,
        },
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    BlipForQuestionAnswering(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "yes", "no", "?", *string.ascii_lowercase]
    words += [f"##{c}" for c in string.ascii_lowercase]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return blip_vqa.BlipVqa(str(folder), side=32)


def test_blip_gives_the_share_of_yes(blip: blip_vqa.BlipVqa) -> None:
    image = Key.root(2).fold("i").uniform(3, 32, 32).float()
    both = blip(image, ["a red cat?", "b?", "", '"#'])
    assert both[2:] == [1.0, 1.0], "nothing asked is nothing missed"
    assert all(0 < p < 1 for p in both[:2])
    assert blip(image, ["A RED CAT!?"])[0] == pytest.approx(both[0], abs=1e-6), "cleaned, and padding changes nothing"
    seen: dict[str, Tensor] = {}
    blip._model.text_encoder.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    handle = blip._model.text_decoder.register_forward_hook(
        lambda m, a, k, out: seen.update(out=out.logits), with_kwargs=True
    )
    (p,) = blip(image, ["b?"])
    handle.remove()
    assert int(seen["input_ids"][0, 0]) == blip._encode == 79, "[ENC] stands first"
    yes, no = seen["out"][0, 0, 5], seen["out"][0, 0, 6]
    assert p == pytest.approx(float(torch.sigmoid(yes - no)), abs=1e-6)


A, B = (0.0, 0.0, 100.0, 100.0), (200.0, 0.0, 300.0, 100.0)


@pytest.mark.parametrize(
    ("relation", "a", "b", "expected"),
    [
        ("on the left of", A, B, 1.0),
        ("on the right of", A, B, 0.0),
        ("on the right of", B, A, 1.0),
        ("on the top of", A, (0, 200, 100, 300), 1.0),
        ("on the bottom of", A, (0, 200, 100, 300), 0.0),
        ("on the left of", A, (110, 200, 210, 300), 0.0),  # the other axis dominates
        ("on the left of", A, (50, 0, 150, 100), 0.1 / (5000 / 15000)),
        ("next to", A, (149, 400, 249, 500), 1.0),
        ("near", A, (300, 200, 400, 300), 0.5),
        ("on side of", A, (600, 150, 700, 250), 0.25),
        ("on top of", A, (0, 200, 100, 300), 0.0),  # no relation of the published scorer
    ],
)
def test_places(relation: str, a: compbench.Box, b: compbench.Box, expected: float) -> None:
    assert compbench.place(relation, a, b) == pytest.approx(expected)


def test_spatial_needs_both_and_half() -> None:
    assert compbench.spatial("on the left of", (0.8, A), (0.6, B)) == pytest.approx(0.2 + 0.15 + 0.5)
    assert compbench.spatial("on the right of", (0.8, A), (0.6, B)) == 0, "0.35 is below one half"
    assert compbench.spatial("on the left of", (0.9, A), None) == 0
    near = {A: 0.9, B: 0.1, (0, 0, 100, 80): 0.2}
    both = ((1.0, A), (1.0, (0, 0, 100, 80)))
    assert compbench.in_depth("in front of", *both, lambda box: near[box]) == 1.0
    assert compbench.in_depth("behind", *both, lambda box: near[box]) == 0.5
    assert compbench.in_depth("in front of", (1.0, A), (1.0, B), lambda box: near[box]) == 0.5, "apart is not in front"
    assert compbench.in_depth("hidden by", None, (0.4, B), lambda box: 0.0) == pytest.approx(0.1), "no cut in depth"


def test_numbers() -> None:
    assert compbench.numeracy([("cat", 2), ("cup", 1)], {"cat": 2, "cup": 3}) == 0.75
    assert compbench.numeracy([("cat", 2)], {}) == 0
    assert len(compbench.merged([A, (1, 1, 99, 99), B, (0, 0, 100, 50)])) == 2
    assert compbench.three_in_one("spatial", 0.6, 0.2, math.nan) == pytest.approx(0.4)
    assert compbench.three_in_one("action", 0.6, math.nan, 0.3) == pytest.approx(0.45)
    assert compbench.three_in_one("", 0.6, 0.3, 0.3) == pytest.approx(0.4)


BIG = (0.0, 0.0, 100.0, 100.0)


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        ((-0.95, 40.0, 9.05, 50.0), 1),  # 90.5 % of it lies in the big one
        ((-1.05, 40.0, 8.95, 50.0), 2),  # 89.5 %
        ((10.5, 0.0, 110.5, 100.0), 2),  # as large and 89.5 % inside: an overlap of 0.81
        ((9.5, 0.0, 109.5, 100.0), 1),
    ],
)
def test_boxes_are_merged_from_nine_tenths_on(other: compbench.Box, kept: int) -> None:
    assert len(compbench.merged([BIG, other])) == kept
    assert len(compbench.merged([other, BIG])) == kept


def test_templates_are_read_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phrases, "_parser", lambda: None)
    assert phrases.noun_phrases("a green bench and a blue bowl") == ["a green bench", "a blue bowl"]
    assert phrases.noun_phrases("the cat that sleeps") is None
    assert phrases.relation("a girl on the top of a frog") == ("person", "on the top of", "frog")
    assert phrases.relation("a mouse hidden by a key") == ("mouse", "hidden by", "key")
    assert phrases.relation("a girl") is None
    singular = {"boys": "boy", "knives": "knife"}
    assert phrases.counted("two boys", singular) == [("boy", 2)]
    assert phrases.counted("a cup, three knives and eight boys", singular) == [("cup", 1), ("knife", 3), ("boy", 8)]
    assert phrases.counted("many boys", singular) is None
    assert phrases.counted("four apples were picked from the tree", singular) is None
    assert phrases.counted("two boys and one cup played in the yard", singular) is None
    assert phrases.counted("two teddy bears", {"teddy bears": "teddy bear"}) == [("teddy bear", 2)]
    assert phrases.without_adjectives("a red cup") is None


def test_the_judge_names_what_scored_and_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phrases, "_parser", lambda: None)
    judge = compbench.CompBench({"boys": "boy"})
    told = {"a red cup?": 0.5, "a blue cat?": 0.4}
    judge.__dict__["vqa"] = lambda image, questions: [told[q] for q in questions]
    judge.__dict__["detector"] = lambda image, nouns: [(n, 0.8, box) for n, box in zip(nouns, (A, B), strict=False)]
    asked = [
        BenchmarkPrompt("a red cup and a blue cat", "color"),
        BenchmarkPrompt("a cup on the left of a cat", "spatial"),
        BenchmarkPrompt("two boys", "numeracy"),
        BenchmarkPrompt("it rained", "texture"),
    ]
    rows = judge.score(torch.zeros(4, 3, 8, 8), asked)
    parts = ["color [blip-vqa]", "spatial [spatial-owl]", "numeracy [numeracy-owl]", "texture [blip-vqa]"]
    assert [r["category"] for r in rows] == parts
    assert [r["score"] for r in rows[:3]] == pytest.approx([0.2, 0.9, 0.5])
    assert math.isnan(rows[3]["score"]), "what cannot be read has no number"


def test_open_vocabulary_boxes() -> None:
    scores = torch.tensor([[2.0, -9.0], [-9.0, 3.0], [-9.0, -9.0]])
    places = torch.tensor([[0.5, 0.5, 0.5, 1.0], [0.25, 0.25, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1]])
    found = open_detector.boxes(scores, places, ["cat", "cup"], 0.2)
    assert [(n, b) for n, _, b in found] == [("cup", (0, 0, 240, 240)), ("cat", (120, 0, 360, 480))]
    assert found[0][1] == pytest.approx(1 / (1 + math.exp(-3)))


def test_pictures_are_normalised_as_the_networks_were_trained() -> None:
    from transformers import image_utils as published

    assert list(mask2former.CLIP_MEAN) == published.OPENAI_CLIP_MEAN
    assert list(mask2former.CLIP_STD) == published.OPENAI_CLIP_STD
    for own, theirs in (
        (mask2former.MEAN, published.IMAGENET_DEFAULT_MEAN),
        (mask2former.STD, published.IMAGENET_DEFAULT_STD),
    ):
        assert own == pytest.approx([255 * v for v in theirs])
