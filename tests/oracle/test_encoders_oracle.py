"""Encoders against sentence-transformers and against models called by hand. Nothing is fetched."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from gtcrec.cli.main import execute
from gtcrec.data.features.encoders import TEXT_ENCODER, find_encoder, text_encoder
from gtcrec.data.features.extract import EncodeConfig, encode
from gtcrec.errors import ConfigError

TEXTS = {
    "shoes": "Red leather running shoes for men, light and comfortable",
    "sneakers": "Comfortable lightweight men's sneakers in red leather",
    "pan": "A cast-iron frying pan that can go into the oven",
    "skillet": "Oven-safe skillet made of cast iron",
    "long": "warm winter coat " * 200,  # longer than the model reads
    "odd": "Größe 42 – 靴 👟 café",
    "nothing": "",
}
SHOP = "item_id,title\n" + "".join(f'{key},"{text}"\n' for key, text in TEXTS.items())
ORACLE = """
import json, sys
from sentence_transformers import SentenceTransformer
vectors = SentenceTransformer(sys.argv[1]).encode(json.loads(sys.argv[2]), normalize_embeddings=True)
sys.stdout.write(json.dumps(vectors.tolist()))
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "items.csv").write_text(SHOP)
    return folder


@pytest.fixture(scope="module")
def vectors(shop: Path) -> np.ndarray:
    encode(shop / "items.csv", shop / "text_feat.npy", EncodeConfig(text=("title",)))
    return np.load(shop / "text_feat.npy")


class TestText:
    def test_vectors_are_those_of_sentence_transformers(self, vectors: np.ndarray) -> None:
        texts = [text for text in TEXTS.values() if text]
        done = subprocess.run(
            [sys.executable, "-c", ORACLE, str(find_encoder(TEXT_ENCODER)), json.dumps(texts)],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        assert vectors[:-1] == pytest.approx(np.array(json.loads(done.stdout)), abs=1e-6)

    def test_paraphrases_are_closer_than_other_texts(self, vectors: np.ndarray) -> None:
        near = vectors @ vectors.T
        assert near[0, 1] > 0.7 > 0.3 > near[0, 2:4].max()
        assert near[2, 3] > 0.7 > 0.3 > near[2, :2].max()

    def test_rows_have_unit_length_and_empty_texts_none(self, vectors: np.ndarray) -> None:
        assert vectors.shape == (7, 384)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 1, 1, 1, 0])

    def test_the_record_names_the_weights_by_their_published_sum(self, shop: Path, vectors: np.ndarray) -> None:
        about = json.loads((shop / "text_feat.json").read_text())["encoder"]
        assert about["name"] == TEXT_ENCODER
        weights = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
        assert about["files"]["model.safetensors"] == weights
        assert (about["pooling"], about["normalised"], about["max_tokens"]) == ("mean", True, 256)
        assert {"torch", "transformers"} < set(about)

    def test_a_million_characters_are_cut_where_the_model_ends(self, shop: Path, vectors: np.ndarray) -> None:
        (shop / "long.csv").write_text(f"title\n{'warm winter coat ' * 60_000}\n")
        encode(shop / "long.csv", shop / "long_feat.npy", EncodeConfig(text=("title",)))
        assert np.load(shop / "long_feat.npy")[0] == pytest.approx(vectors[4], abs=1e-6)

    def test_a_text_s_vector_does_not_depend_on_its_batch(self, shop: Path, vectors: np.ndarray) -> None:
        out = shop / "single_feat.npy"
        encode(shop / "items.csv", out, EncodeConfig(text=("title",), batch=1))
        assert np.load(out) == pytest.approx(vectors, abs=1e-6)


def bert(folder: Path, pooling: dict[str, bool], modules: tuple[str, ...] = ("Transformer", "Pooling")) -> Path:
    """A tiny text model of random weights, saved as sentence-transformers does."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**sizes, vocab_size=30522, max_position_embeddings=16)).save_pretrained(folder)
    real = find_encoder(TEXT_ENCODER)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((real / name).read_bytes())
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    parts = [
        {"idx": k, "name": str(k), "path": f"{k}_{m}" if k else "", "type": f"sentence_transformers.models.{m}"}
        for k, m in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(parts))
    return folder


class TestOtherTextModels:
    def test_a_model_trained_by_its_class_token_is_read_by_it(self, tmp_path: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = bert(tmp_path, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
        encoder = text_encoder(folder)
        tokens = AutoTokenizer.from_pretrained(folder)("red shoe", return_tensors="pt")
        with torch.inference_mode():
            wanted = normalize(AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state[:, 0])
        assert encoder.encode(["red shoe"]) == pytest.approx(wanted.numpy(), abs=1e-6)
        assert (encoder.about["pooling"], encoder.about["max_tokens"]) == ("class token", 16)

    @pytest.mark.parametrize(
        ("pooling", "modules", "more"),
        [
            ("max", ("Transformer", "Pooling"), {}),
            ("mean", ("Transformer", "Pooling", "Dense"), {}),
            ("mean", ("Transformer", "Pooling"), {"sentence_bert_config.json": {"do_lower_case": True}}),
            (
                "mean",
                ("Transformer", "Pooling"),
                {"config_sentence_transformers.json": {"prompts": {"q": "query: "}, "default_prompt_name": "q"}},
            ),
        ],
    )
    def test_what_sentence_transformers_does_more_it_must_do_itself(
        self, tmp_path: Path, pooling: str, modules: tuple[str, ...], more: dict, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = bert(tmp_path, {f"pooling_mode_{pooling}_tokens": True}, modules)
        for name, facts in more.items():
            (folder / name).write_text(json.dumps(facts))
        find, absent = importlib.util.find_spec, "sentence_transformers"
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == absent else find(name))
        with pytest.raises(ConfigError, match="only sentence-transformers reads this model; pip install sentence-tr"):
            text_encoder(folder)

    def test_any_model_of_sentence_transformers_is_read(self, tmp_path: Path) -> None:
        """In a process of its own: the library's import warns. The vectors are those of max pooling by hand."""
        folder = bert(tmp_path / "max", {"pooling_mode_max_tokens": True, "word_embedding_dimension": 8})
        (tmp_path / "items.csv").write_text("title\nred shoe\npan\n")
        line = [sys.executable, "-m", "gtcrec", "data", "encode", str(tmp_path / "items.csv"), "--text", "title"]
        done = subprocess.run(
            [*line, "--encoder", str(folder), "--out", str(tmp_path / "text_feat.npy")],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stderr
        from transformers import AutoModel, AutoTokenizer

        model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        with torch.inference_mode():
            hidden = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state for text in ("red shoe", "pan")]
        wanted = normalize(torch.cat([one.amax(dim=1) for one in hidden]))
        assert np.load(tmp_path / "text_feat.npy") == pytest.approx(wanted.numpy(), abs=1e-6)
        about = json.loads((tmp_path / "text_feat.json").read_text())["encoder"]
        assert (about["pooling"], "sentence-transformers" in about) == ("sentence-transformers", True)

    def test_the_short_name_of_the_packaged_model_is_known(self) -> None:
        assert find_encoder("all-MiniLM-L6-v2") == find_encoder(TEXT_ENCODER)

    def test_a_folder_without_a_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be loaded as an encoder: "):
            text_encoder(tmp_path)

    def test_missing_weights_are_refused(self, tmp_path: Path) -> None:
        folder = bert(tmp_path, {"pooling_mode_mean_tokens": True})
        weights = load_file(folder / "model.safetensors")
        weights.pop("embeddings.word_embeddings.weight")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ConfigError, match=r"its weights lack embeddings\.word_embeddings\.weight"):
            text_encoder(folder)


SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
MEAN, STD = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])


def save_processor(folder: Path) -> None:
    facts = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "image_mean": MEAN.tolist(),
        "image_std": STD.tolist(),
        **{f"do_{what}": True for what in ("resize", "center_crop", "rescale", "normalize", "convert_rgb")},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))


def clip(folder: Path) -> torch.nn.Module:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(1)
    words = {"vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 16}
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = CLIPModel(CLIPConfig(text_config={**words, **small}, vision_config=SIZES, projection_dim=12)).eval()
    model.save_pretrained(folder)
    save_processor(folder)
    return model


def vit(folder: Path, pooler: bool) -> torch.nn.Module:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(2)
    model = ViTModel(ViTConfig(**SIZES), add_pooling_layer=pooler).eval()
    model.save_pretrained(folder)
    save_processor(folder)
    return model


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A table of two images of the model's size and a broken one, and the good ones' pixels, normalised by hand."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    for number, one in enumerate(pixels):
        Image.fromarray(one).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"broken")
    (tmp_path / "items.csv").write_text("item_id,image\na,0.png\nb,2.png\nc,1.png\n")
    scaled = (pixels / 255 - MEAN) / STD
    return tmp_path / "items.csv", torch.tensor(scaled.transpose(0, 3, 1, 2), dtype=torch.float32)


class TestImages:
    def test_a_clip_model_gives_its_image_features(self, pictures: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
        items, pixels = pictures
        model = clip(tmp_path / "clip")
        out = tmp_path / "image_feat.npy"
        found = encode(items, out, EncodeConfig(image="image", encoder=str(tmp_path / "clip")))
        with torch.inference_mode():
            wanted = normalize(model.visual_projection(model.vision_model(pixels).pooler_output))
        assert np.load(out)[[0, 2]] == pytest.approx(wanted.numpy(), abs=1e-6)
        assert not np.load(out)[1].any()
        assert (found.width, [one["item"] for one in found.failures]) == (12, ["b"])
        about = json.loads((tmp_path / "image_feat.json").read_text())["encoder"]
        assert (about["pooling"], about["preprocessing"]["jpeg_draft"]) == ("image features", 64)
        assert about["preprocessing"]["size"] == {"shortest_edge": 32}
        assert about["preprocessing"]["image_mean"] == MEAN.tolist()

    @pytest.mark.parametrize("pooler", [True, False])
    def test_a_vision_model_is_read_by_its_pooler_if_it_was_trained(
        self, pictures: tuple[Path, torch.Tensor], tmp_path: Path, pooler: bool
    ) -> None:
        items, pixels = pictures
        model = vit(tmp_path / "vit", pooler)
        out = tmp_path / "image_feat.npy"
        encode(items, out, EncodeConfig(image="image", encoder=str(tmp_path / "vit")))
        with torch.inference_mode():
            found = model(pixels)
            wanted = normalize(found.pooler_output if pooler else found.last_hidden_state[:, 0])
        assert np.load(out)[[0, 2]] == pytest.approx(wanted.numpy(), abs=1e-6)
        said = json.loads((tmp_path / "image_feat.json").read_text())["encoder"]["pooling"]
        assert said == ("pooler" if pooler else "class token")

    @pytest.mark.parametrize("pooled", [True, False])
    def test_a_convolutional_model_is_read_by_its_pooler_or_the_mean_over_its_map(
        self, pictures: tuple[Path, torch.Tensor], tmp_path: Path, pooled: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from transformers import ConvNextConfig, ConvNextModel

        torch.manual_seed(3)
        sizes = {"hidden_sizes": [8, 8, 8, 10], "depths": [1, 1, 1, 1]}
        model = ConvNextModel(ConvNextConfig(**sizes)).eval()
        model.save_pretrained(tmp_path / "convnext")
        save_processor(tmp_path / "convnext")
        with torch.inference_mode():
            found = model(pictures[1])
        wanted = found.pooler_output if pooled else found.last_hidden_state.mean(dim=(2, 3))
        if not pooled:  # as a model without one
            forward = ConvNextModel.forward

            def bare(self, *given, **named):
                return dataclasses.replace(forward(self, *given, **named), pooler_output=None)

            monkeypatch.setattr(ConvNextModel, "forward", bare)
        out = tmp_path / "image_feat.npy"
        encode(pictures[0], out, EncodeConfig(image="image", encoder=str(tmp_path / "convnext")))
        assert np.load(out)[[0, 2]] == pytest.approx(normalize(wanted).numpy(), abs=1e-6)
        said = json.loads((tmp_path / "image_feat.json").read_text())["encoder"]["pooling"]
        assert said == ("pooler" if pooled else "mean")

    def test_the_command_tells_what_became_of_the_items(
        self, pictures: tuple[Path, torch.Tensor], tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        vit(tmp_path / "vit", True)
        out = tmp_path / "image_feat.npy"
        line = ["data", "encode", str(pictures[0]), "--image", "image", "--encoder", str(tmp_path / "vit")]
        capfd.readouterr()
        assert execute([*line, "--out", str(out)]) == 0
        shown, said = capfd.readouterr()
        assert shown == ""
        assert said.splitlines() == [
            "0 of 1 batches",
            "1 of 1 batches",
            f"2 of 3 items have a vector of 16 numbers: {out}",
            "1 could not be read, such as row 1 (not an image of a known kind (BMP, GIF, JPEG, PNG, TIFF, WEBP)); "
            f"all are in {tmp_path / 'image_feat.json'}",
        ]
        assert "torchvision" not in sys.modules

    def test_a_text_model_does_not_encode_images(self, pictures: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
        config = EncodeConfig(image="image", encoder=TEXT_ENCODER)
        with pytest.raises(ConfigError, match="cannot be loaded as an encoder: "):
            encode(pictures[0], tmp_path / "image_feat.npy", config)


@pytest.mark.slow
def test_ray_writes_the_same_files(shop: Path, loopback: list[str], tmp_path: Path) -> None:
    line = [*loopback, sys.executable, "-m", "gtcrec", "data", "encode", str(shop / "items.csv"), "--text", "title"]
    for name, more in (("local", []), ("1", ["--engine", "ray"]), ("2", ["--engine", "ray", "--workers", "2"])):
        out = tmp_path / name / "text_feat.npy"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [*line, "--batch", "2", "--out", str(out), *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        end = f"6 of 7 items have a vector of 384 numbers: {out}"
        assert done.stderr.splitlines() == [*(f"{n} of 3 batches" for n in range(4)), end]
        for file in ("text_feat.npy", "text_feat.keys.npy"):
            assert (out.parent / file).read_bytes() == (tmp_path / "local" / file).read_bytes()
        here, there = (json.loads((tmp_path / one / "text_feat.json").read_text()) for one in ("local", name))
        assert {**there, "made": here["made"]} == here
