"""The components of the miniature study: a tokenizer, a tiny CLIP and a tiny Mistral or LLaMA, made in two minutes.

They stand in for `openai/clip-vit-large-patch14-336` and `mistralai/Mistral-7B-Instruct-v0.2` and are saved in the
same form, so that `llava-mistral build` loads either without a difference:

    tokenizer/   vision/   mistral/   llama/

    python -m llava_mistral.miniature.components --data digitsqa --config miniature/components --output components
"""

import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llava_mistral.ground.bad_input import BadInput
from llava_mistral.ground.recipe_files import read_yaml, recipe_file
from llava_mistral.miniature.digitsqa_questions import NAMES
from llava_mistral.miniature.fitting import Course, fit
from llava_mistral.miniature.text_documents import END, NO_PLACE, NOT_ASKED, Document, encode, text_documents, words_of
from llava_mistral.miniature.tokenizer import train_tokenizer

MATCHING = 1.6  # times the random weights


@dataclass
class ComponentsConfig:
    """What is made; sizes are those of the transformers configurations they fill.

    Args:
        vocab_size: at most this many tokens, 256 of which are bytes.
        clip_vision, clip_text: fields of `CLIPVisionConfig` and `CLIPTextConfig`.
        clip_epochs: passes over the alignment pairs.
        text: fields of `MistralConfig`; the LLaMA twin takes those that `LlamaConfig` has.
        backbones: which text models to make.
        letter_documents, text_documents: how many choices, and how many captions and questions after them, are written
            for the text models, which read each once.
        clip_batch_size, text_batch_size: samples per step.
        clip_rates, text_rates: the highest learning rates of AdamW (embeddings, norms, heads) and of Muon (the weight
            matrices of the layers).
        early: weight of the loss by which the layer before the last says what an answer means.
        seed: of initial weights and order.
    """

    vocab_size: int = 768
    clip_vision: dict = field(default_factory=dict)
    clip_text: dict = field(default_factory=dict)
    clip_epochs: int = 16
    text: dict = field(default_factory=dict)
    backbones: list[str] = field(default_factory=lambda: ["mistral"])
    letter_documents: int = 8320
    text_documents: int = 20000
    clip_batch_size: int = 128
    text_batch_size: int = 32
    clip_rates: tuple[float, float] = (1e-3, 1e-2)
    text_rates: tuple[float, float] = (3e-3, 5e-3)
    early: float = 1.0
    seed: int = 0

    @classmethod
    def from_yaml(cls, path: str | Path) -> "ComponentsConfig":
        """Read a recipe; raises `BadInput` for a key that does not exist."""
        values = read_yaml(recipe_file(path))
        for key in values:
            if key not in cls.__dataclass_fields__:
                known = f"use one of {', '.join(cls.__dataclass_fields__)}"
                raise BadInput("there is no such key", remedy=known, file=path, field=key)
        return cls(**values)


def train_clip(pictures, captions: list[str], tokenizer, config: ComponentsConfig):
    """Contrast `pictures` `(pairs, 3, side, side)` with their captions; returns a `CLIPModel`.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021. Equal captions in a
    batch share the target, because there are only ten digits to be alone in a picture. Beside the class token, the
    mean of the patch features that LLaVA reads (layer -2) is contrasted, too: in 24 layers every patch comes to know
    the whole picture, in four it has no reason to.
    """
    import torch
    from torch.nn.functional import normalize
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(config.seed)
    ids = tokenizer(captions, add_special_tokens=False).input_ids
    length = max(map(len, ids)) + 2
    end = tokenizer.pad_token_id  # CLIP reads the sentence at the first end token, so padding may repeat it
    input_ids = torch.tensor([[tokenizer.bos_token_id, *row] + [end] * (length - 1 - len(row)) for row in ids])
    same = {text: number for number, text in enumerate(sorted(set(captions)))}
    group = torch.tensor([same[text] for text in captions])
    clip_text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": end,
        "pad_token_id": end,
        **config.clip_text,
    }
    clip = CLIPModel(CLIPConfig(text_config=clip_text, vision_config=config.clip_vision, projection_dim=64))
    wobble = torch.Generator().manual_seed(config.seed)

    def loss_of(batch):
        tower = clip.vision_model(pixel_values=_jiggle(pictures[batch], wobble), output_hidden_states=True)
        patches = clip.vision_model.post_layernorm(tower.hidden_states[-2][:, 1:].mean(1))
        words = normalize(clip.get_text_features(input_ids=input_ids[batch]).pooler_output, dim=-1)
        target = (group[batch][:, None] == group[batch][None]).float()
        target = target / target.sum(1, keepdim=True)
        loss = 0.0
        for seen in (tower.pooler_output, patches):
            logits = clip.logit_scale.exp() * normalize(clip.visual_projection(seen), dim=-1) @ words.t()
            loss = loss - (target * (logits.log_softmax(1) + logits.t().log_softmax(1))).sum(1).mean() / 4
        return loss

    course = Course(config.clip_epochs, config.clip_batch_size, config.clip_rates, config.seed)
    fit(clip, loss_of, torch.ones(len(captions)), course, "tiny CLIP")
    return clip


def _jiggle(pictures, wobble):
    """Turn each picture by up to 10 degrees, scale it by up to a tenth and shift it by up to a twelfth of its side.

    There are 1,199 scans to learn from, and the tower knows them by heart before it knows the digits.
    """
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    turn, scale, right, down = (2 * torch.rand(4, len(pictures), generator=wobble) - 1).unbind()
    turn, scale = turn * 0.17, 1 + scale * 0.1
    rows = [scale * turn.cos(), -scale * turn.sin(), right / 6, scale * turn.sin(), scale * turn.cos(), down / 6]
    where = affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(pictures.shape), align_corners=False)
    return grid_sample(pictures, where, padding_mode="border", align_corners=False)


def pretrain_text_model(lessons: Sequence[list[Document]], tokenizer, model_type: str, config: ComponentsConfig):
    """Predict the next token of what documents have to learn, lesson by lesson; returns a causal language model.

    A letter is found in two steps, what is right and where it stands, and a small model trained on letters alone finds
    neither. So where a question ends, the layer before the last has to say the first word of what is right, too: by
    the embeddings, since that is how the choices are written. To the last layer it is left to look it up.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(config.seed)
    specials = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    known = AutoConfig.for_model(model_type).to_dict()
    sizes = {key: value for key, value in config.text.items() if key in known}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **specials, **sizes)
    )
    prepare_matching(model, tokenizer)
    rows = [row for lesson in lessons for row in encoded(lesson, tokenizer)]

    def loss_of(batch):
        columns = zip(*(rows[index] for index in batch.tolist()), strict=True)
        input_ids, places, labels, meanings = (
            torch.nn.utils.rnn.pad_sequence(column, batch_first=True, padding_value=padding)
            for column, padding in zip(columns, (tokenizer.pad_token_id, NO_PLACE, -100, NOT_ASKED), strict=True)
        )
        embed = model.get_input_embeddings()
        vectors = embed(input_ids) + embed(places.clamp(min=0)) * (places != NO_PLACE).unsqueeze(-1)
        read = model.model(
            inputs_embeds=vectors, attention_mask=input_ids != tokenizer.pad_token_id, output_hidden_states=True
        )
        learned = labels[:, 1:] != -100  # logits of what is learned alone: a quarter of the tokens
        logits = model.lm_head(read.last_hidden_state[:, :-1][learned])
        has_meaning = meanings != NOT_ASKED
        early = model.model.norm(read.hidden_states[-2][has_meaning]) @ embed.weight.t()
        meaning_loss = cross_entropy(early, meanings[has_meaning], reduction="sum") / has_meaning.sum().clamp(min=1)
        return cross_entropy(logits, labels[:, 1:][learned]) + config.early * meaning_loss

    sizes = tuple(map(len, lessons))
    course = Course(1, config.text_batch_size, config.text_rates, config.seed, parts=2, lessons=sizes)
    fit(model, loss_of, torch.tensor([len(ids) for ids, *_ in rows]), course, f"tiny {model_type}")
    return model


def prepare_matching(model, tokenizer) -> None:
    """Start where like attends to like, and words that belong together are alike, as in any large model.

    Queries start as keys, somewhat stronger than at random (Trockman and Kolter, "Mimetic Initialization of
    Self-Attention Layers", 2023). A figure starts as its name with as much of its own, and the token of a letter with
    a word as the sum of the two: what is learned of an answer then holds for the choice that says it.
    """
    for attention in (layer.self_attn for layer in model.model.layers):
        keys = attention.k_proj.weight.data.mul_(MATCHING)
        heads = keys.view(-1, attention.head_dim, keys.shape[1])
        attention.q_proj.weight.data.copy_(heads.repeat_interleave(attention.num_key_value_groups, 0).flatten(0, 1))
    ids, embeddings = tokenizer.get_vocab(), model.get_input_embeddings().weight.data
    for figure, name in enumerate(NAMES):
        if f"▁{figure}" in ids and f"▁{name}" in ids:
            embeddings[ids[f"▁{figure}"]] += embeddings[ids[f"▁{name}"]]
    for token, number in ids.items():
        match = re.fullmatch(r"\n([A-Z])\.(▁\w+)", token)
        parts = (f"▁{match[1]}", match[2]) if match else ()
        if parts and ids.keys() >= set(parts):
            embeddings[number] = sum(embeddings[ids[part]] for part in parts)


def encoded(documents: list[Document], tokenizer) -> list[tuple]:
    """Tensors of token ids, of the places of patches, and of labels, for each document."""
    import torch

    known: dict[str, list[int]] = {}

    def ids_of(text: str) -> list[int]:
        if text not in known:
            known[text] = tokenizer(text, add_special_tokens=False).input_ids
        return known[text]

    rows = []
    for document in documents:
        ids, places, learned, meanings = encode(document, ids_of)
        ids = [tokenizer.eos_token_id if token == END else token for token in ids]
        labels = [token if wanted else -100 for token, wanted in zip(ids, learned, strict=True)]
        columns = [tokenizer.bos_token_id, *ids], [NO_PLACE, *places], [-100, *labels], [NOT_ASKED, *meanings]
        rows.append(tuple(map(torch.tensor, columns)))
    return rows


def make_components(data: Path, config: ComponentsConfig, folder: Path) -> dict[str, int]:
    """Train all components on the DigitsQA folder `data`, save them below `folder`; returns parameter counts.

    The tower and the text models know nothing of each other: each is made by a process of its own, on one thread, so
    two cores are used well and their number changes no weight.
    """
    import torch

    grid = config.clip_vision["image_size"] // config.clip_vision["patch_size"]
    lessons = text_documents(config.letter_documents, config.text_documents, grid, config.seed)
    tokenizer = train_tokenizer(words_of([*lessons[0], *lessons[1]]), config.vocab_size)
    tokenizer.save_pretrained(folder / "tokenizer")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # which is not to be carried into a forked process
    with ProcessPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        jobs = {
            name: pool.submit(_make_text_model, name, lessons, tokenizer, config, folder) for name in config.backbones
        }
        jobs["vision"] = pool.submit(_make_tower, data, tokenizer, config, folder)
        counts = {name: one.result() for name, one in jobs.items()}
    (folder / "components.json").write_text(
        json.dumps({"config": asdict(config), "parameters": counts}, indent=1) + "\n"
    )
    return counts


def _make_tower(data: Path, tokenizer, config: ComponentsConfig, folder: Path) -> int:
    import torch
    from PIL import Image
    from transformers import LlavaImageProcessorPil

    pairs = json.loads((data / "alignment" / "alignment.json").read_text(encoding="utf-8"))
    captions = [pair["conversations"][1]["value"] for pair in pairs]
    side = config.clip_vision["image_size"]
    look = LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    files = [data / "alignment" / "images" / pair["image"] for pair in pairs]
    pictures = torch.cat([look(Image.open(file), return_tensors="pt").pixel_values for file in files])
    clip = train_clip(pictures, captions, tokenizer, config)
    for part in (clip, look):
        part.save_pretrained(folder / "vision")
    return sum(weight.numel() for weight in clip.parameters())


def _make_text_model(
    model_type: str, lessons: Sequence[list[Document]], tokenizer, config: ComponentsConfig, folder: Path
) -> int:
    model = pretrain_text_model(lessons, tokenizer, model_type, config)
    model.save_pretrained(folder / model_type)
    tokenizer.save_pretrained(folder / model_type)
    return sum(weight.numel() for weight in model.parameters())


def main() -> None:
    from llava_mistral.ground.command_line import VerbParser, whole_folder

    parser = VerbParser(
        prog="llava_mistral.miniature.components", description="Make the miniature study's tokenizer and models."
    )
    parser.add_argument("--data", required=True, type=Path, help="DigitsQA folder")
    parser.add_argument("--config", required=True, help="YAML recipe, such as miniature/components")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--backbones", nargs="*", choices=["mistral", "llama"], help="not the recipe's, or none")
    parser.add_argument("--seed", type=int, help="instead of the recipe's: another tower and other text models")
    args = parser.parse_args()
    if not (args.data / "alignment" / "alignment.json").is_file():
        raise BadInput("there is no alignment/alignment.json in it", remedy="build DigitsQA first", file=args.data)
    config = ComponentsConfig.from_yaml(args.config)
    config.backbones = config.backbones if args.backbones is None else args.backbones
    config.seed = config.seed if args.seed is None else args.seed
    with whole_folder(args.output, "components.json") as folder:
        counts = make_components(args.data, config, folder)
    print(f"{args.output}: " + ", ".join(f"{name} {count:,} parameters" for name, count in counts.items()))


if __name__ == "__main__":
    from llava_mistral.ground.command_line import run_verb

    run_verb(main)
